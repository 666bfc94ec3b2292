// What operators see: whole sessions on real images, compared word by word with the files in sessions/.
// Paths, ids and times are filtered, ids by something as wide. `npx vitest run test/golden -u` writes the files anew: read the
// difference before it is committed.

import { mkdir, mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runCli } from "../helpers/cli/harness.ts";

const MIB = 1024 * 1024;

let folder = "";

beforeAll(async () => {
  folder = await mkdtemp(`${tmpdir()}/imgtx-golden-`);
});

afterAll(async () => {
  await rm(folder, { recursive: true });
});

/** Runs lines of words in a fresh folder with two raw disks, and returns them with all that they printed. */
async function runSession(name: string, lines: readonly (readonly string[])[]): Promise<string> {
  const cwd = `${folder}/${name}`;
  await mkdir(cwd);
  for (const [disk, size] of [
    ["a.raw", 64 * MIB],
    ["b.raw", 1.5 * MIB],
  ] as const) {
    await writeFile(`${cwd}/${disk}`, "");
    await truncate(`${cwd}/${disk}`, size);
  }
  const ids = new Map<string, string>();
  const parts: string[] = [];
  for (const words of lines) {
    const argv = words.map((word) => namedId(ids, word));
    const result = await runCli(argv, { cwd, env: { LANG: "C.UTF-8" } });
    if (words.join(" ") === "txn begin") ids.set(`txn-${ids.size + 1}.....`, result.stdout.trim());
    parts.push(
      `$ imgtx ${words.join(" ")}`,
      result.stdout + result.stderr.replaceAll(/^(?=.)/gm, "2> ") + `[${result.status}]`,
      "",
    );
  }
  return filter(parts.join("\n"), ids);
}

function namedId(ids: ReadonlyMap<string, string>, word: string): string {
  return ids.get(word) ?? word;
}

function filter(text: string, ids: ReadonlyMap<string, string>): string {
  let filtered = text.replaceAll(`${folder}/`, "/srv/");
  for (const [name, id] of ids) filtered = filtered.replaceAll(id, name);
  return (
    filtered
      .replaceAll(/\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z/g, (time) =>
        time.includes("T") ? "2012-03-05T14:03:11.000Z" : "2012-03-05 14:03:11Z",
      )
      .replaceAll(/(?<="transaction": "|\dZ {2})[a-z0-9]{10}(?=[" ])/g, "xxxxxxxxxx")
      .replaceAll(/(?<="allocated-size": )\d+/g, "4096")
      .replaceAll(/[\d.]+ [KM]?i?B on disk, \d+ min old/g, "4 KiB on disk, 0 min old")
      // In the order of the ids, which are random.
      .replaceAll(/(?<=say which one with --txn: )[^"\n]*/g, "...")
      .replaceAll(/ \(pid \d+/g, " (pid 4711")
      .replaceAll(
        /(?<=, begun \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ by |, begun by |"user": ")[^"\n;, ]+( \([^")]*\))?/g,
        "operator",
      )
  );
}

const TWO_DISKS: readonly (readonly string[])[] = [
  ["device", "add", "vda", "a.raw", "--format", "raw", "-q"],
  ["device", "add", "vdb", "b.raw", "--format", "raw", "-q"],
];

const SESSIONS: Record<string, readonly (readonly string[])[]> = {
  basics: [
    ["init", "--dry-run"],
    ["device", "list"],
    ["device", "add", "vda", "a.raw"],
    ["device", "add", "vda", "a.raw", "--format", "raw"],
    ["device", "add", "vdb", "b.raw", "--format=raw", "--quiet"],
    ["device", "list"],
    ["snapshot", "vda", "a1.qcow2", "--dry-run"],
    ["snapshot", "vda", "a1.qcow2"],
    ["snapshot-group", "vda=a2.qcow2", "vdb=b2.qcow2", "--relative"],
    ["device", "show", "vda"],
    ["history"],
    ["undo"],
    ["redo"],
    ["rollback", "vda", "--to", "1"],
    ["snapshot-list"],
    ["snapshot-show", "1"],
    ["device", "remove", "vdb"],
    ["init"],
    ["init", "--dry-run"],
    ["recover"],
    ["recover", "--dry-run"],
    ["tree"],
  ],
  transactions: [
    ...TWO_DISKS,
    ["txn", "status"],
    ["txn", "begin"],
    ["snapshot", "vda", "a1.qcow2"],
    ["txn", "savepoint", "half"],
    ["snapshot", "vdb", "b1.qcow2"],
    ["txn", "status"],
    ["txn", "rollback-to", "half"],
    ["txn", "list"],
    ["txn", "show", "txn-1....."],
    ["txn", "commit", "--dry-run"],
    ["txn", "commit"],
    ["txn", "begin", "--name", "nightly", "--quiet", "--dry-run"],
    ["txn", "begin"],
    ["snapshot", "vda", "a2.qcow2"],
    ["txn", "abort"],
    ["txn", "commit"],
    ["tree", "vda"],
  ],
  refusals: [
    ...TWO_DISKS,
    ["snapshot", "vdc", "x.qcow2"],
    ["snapshot", "vda", "b.raw"],
    ["snapshot", "vda", "nowhere/x.qcow2"],
    ["snapshot-group", "vda=x.qcow2", "vda=y.qcow2"],
    ["snapshot-group", "vda=x.qcow2", "vdb=x.qcow2"],
    ["device", "add", "vda", "b.raw", "--format", "raw"],
    ["rollback", "--to", "99"],
    ["txn", "begin"],
    ["snapshot", "vda", "a1.qcow2"],
    ["txn", "begin"],
    ["snapshot", "vda", "a2.qcow2", "--txn", "txn-2....."],
    ["txn", "commit"],
    ["refuse", "vdb", "--txn", "txn-1....."],
    ["txn", "rollback-to", "nothing", "--txn", "txn-1....."],
    ["txn", "show", "nothing"],
    ["--workspace", "/nowhere", "tree"],
    ["snapshot", "vdc", "x.qcow2", "--json"],
    ["snapshto"],
    ["snapshot", "vda", "x.qcow2", "--reus"],
  ],
  json: [
    ["device", "add", "vda", "a.raw", "--format", "raw", "--json"],
    ["snapshot", "vda", "a1.qcow2", "--json", "--dry-run"],
    ["snapshot", "vda", "a1.qcow2", "--json"],
    ["device", "list", "--json"],
    ["device", "show", "vda", "--json"],
    ["txn", "begin"],
    ["snapshot", "vda", "a2.qcow2", "--json"],
    ["txn", "savepoint", "half", "--json"],
    ["txn", "status", "--json"],
    ["txn", "abort", "--json"],
    ["history", "--json"],
    ["recover", "--json"],
    ["init", "--json"],
  ],
};

test.each(Object.keys(SESSIONS))("the session %s prints what it did", async (name) => {
  const text = await runSession(name, SESSIONS[name] ?? []);
  expect(text).not.toContain("a bug in imgtx");
  await expect(text).toMatchFileSnapshot(`sessions/${name}.txt`);
});

test.each([
  ["help", [], 80],
  ["help-narrow", [], 40],
  ["help-snapshot", ["snapshot"], 80],
  ["help-snapshot-narrow", ["snapshot"], 40],
  ["help-txn", ["txn"], 80],
  ["help-txn-exec", ["txn", "exec"], 80],
] as const)("the page %s reads as it did", async (name, path, terminal) => {
  const { stdout } = await runCli([...path, "--help"], { terminal, env: { NO_COLOR: "1" } });
  await expect(stdout).toMatchFileSnapshot(`pages/${name}.txt`);
});

// `--txn-id`, as a command of its own sees it: the first one's result, other content, lost history, and where it is refused.

import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { runCli } from "../helpers/cli/harness.ts";
import { findFaults } from "../helpers/json-schema.ts";
import { makeWorkbench } from "../helpers/transaction/workbench.ts";

const SCHEMA = new URL("../../schemas/imgtx-1.json", import.meta.url);

interface Answer {
  readonly actions: unknown;
  readonly transaction: string;
  readonly snapshots: unknown;
}

test("a command with an id is answered with what the first one did, and the id is of nothing else", async () => {
  const { root: cwd } = await makeWorkbench();
  const run = async (...words: string[]) => await runCli(words, { cwd });
  const batch = "snapshot vda x1.qcow2\nsnapshot vdb x2.qcow2\n";
  writeFileSync(`${cwd}/batch`, batch);
  const first = await run("txn", "run", "batch", "--txn-id", "a/1", "--json");
  expect(first.status, first.stderr).toBe(0);
  await run("snapshot", "vda", "x3.qcow2");
  const again = await run("txn", "run", "batch", "--txn-id", "a/1", "--json");
  const [one, two] = [first, again].map(({ stdout }) => JSON.parse(stdout) as Answer);
  expect(again.status).toBe(0);
  expect(two).toMatchObject({ changed: false, generation: 4, applied: expect.any(String) });
  expect(two?.actions).toEqual(one?.actions);
  expect([two?.transaction, two?.snapshots]).toEqual([one?.transaction, one?.snapshots]);
  const schemas = JSON.parse(readFileSync(SCHEMA, "utf8")) as Record<string, unknown>;
  expect(findFaults(two, { $ref: "#/$defs/outcome" }, schemas)).toEqual([]);
  const told = await run("txn", "run", "batch", "--txn-id", "a/1");
  expect(told.stdout).toMatch(/Already applied at .*, as generation 4: nothing was done\.\n$/);
  const rehearsed = await run("txn", "run", "batch", "--txn-id", "a/1", "--dry-run");
  expect(rehearsed.stdout).toContain("Already applied");
  writeFileSync(`${cwd}/batch`, batch.replace("x2", "x9"));
  const other = await run("txn", "run", "batch", "--txn-id", "a/1");
  expect(other.status).toBe(14);
  expect(other.stderr).toContain(
    "'a/1' is the id of something else, which generation 4 did: snapshot vda, snapshot vdb",
  );
});

test("a refused command leaves no id behind, and of two at once one is applied", async () => {
  const { root: cwd } = await makeWorkbench();
  const run = async (...words: string[]) => await runCli(words, { cwd });
  writeFileSync(`${cwd}/taken.qcow2`, "the user's own");
  expect((await run("snapshot", "vda", "taken.qcow2", "--txn-id", "b")).status).toBe(14);
  rmSync(`${cwd}/taken.qcow2`);
  const both = await Promise.all(
    [1, 2].map(() => run("snapshot", "vda", "taken.qcow2", "--txn-id", "b", "--wait=60")),
  );
  for (const { status } of both) expect([0, 11, 14]).toContain(status);
  expect(both.filter(({ status, stdout }) => status === 0 && !stdout.includes("Already")).length).toBe(1);
  expect((await run("snapshot", "vda", "taken.qcow2", "--txn-id", "b")).stdout).toContain("Already applied");
});

test("where the history has lost what could be it, an id that was not found is refused", async () => {
  const { root: cwd } = await makeWorkbench();
  const run = async (...words: string[]) => await runCli(words, { cwd });
  for (const name of ["1", "2", "3"]) await run("snapshot", "vda", `y${name}.qcow2`, "--txn-id", name);
  const remove = (generation: number): void => rmSync(`${cwd}/.imgtx/history/00000${generation}.json`);
  remove(3);
  expect((await run("snapshot", "vda", "y1.qcow2", "--txn-id", "1")).stdout).toContain("Already applied");
  remove(2);
  const { status, stderr } = await run("snapshot", "vda", "y1.qcow2", "--txn-id", "new");
  expect(status).toBe(14);
  expect(stderr).toContain("the history has lost generation 3");
  expect((await run("snapshot", "vda", "y3.qcow2", "--txn-id", "3")).stdout).toContain("Already applied");
});

test("where it would not be kept it is refused", async () => {
  const { root: cwd } = await makeWorkbench();
  const run = async (...words: string[]) => await runCli(words, { cwd, stdin: '{"execute":"transaction"}' });
  for (const line of [
    "prune --keep-last 1",
    "status",
    "txn exec -- true",
    "txn run -",
    "device add --domain x",
    "img info x",
  ]) {
    expect((await run("--txn-id", "x", ...line.split(" "))).status, line).toBe(64);
  }
  expect((await run("snapshot", "vda", "--txn-id", "with space")).status).toBe(64);
  const id = (await run("txn", "begin")).stdout.trim();
  expect((await run("snapshot", "vda", "--txn-id", "x", "--txn", id)).status).toBe(11);
});

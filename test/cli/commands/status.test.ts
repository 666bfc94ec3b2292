// imgtx status: the facts of a real workspace, what counts as a problem, and the forms that monitoring reads.

import { closeSync, mkdtempSync, openSync, realpathSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { spawn } from "node:child_process";
import { tmpdir } from "node:os";
import { expect, onTestFinished, test, vi } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import type { StatusDescription } from "../../../src/transaction/index.ts";
import { drawPrometheus } from "../../../src/cli/render/prometheus.ts";
import { listFacts } from "../../../src/cli/render/status.ts";
import { makeDevice, runCli } from "../../helpers/cli/harness.ts";
import { sampleQcow2 } from "../../helpers/sample-image.ts";

async function makeDisks(): Promise<string> {
  const folder = realpathSync(mkdtempSync(`${tmpdir()}/imgtx-status-`));
  onTestFinished(() => {
    rmSync(folder, { recursive: true });
  });
  for (const [seed, name] of ["a", "b"].entries()) {
    const bytes = sampleQcow2({ virtualSizeBytes: 65_536, dataClusters: [0], seed });
    writeFileSync(`${folder}/${name}.qcow2`, bytes);
    expect((await runCli(["device", "add", `vd${name}`, `${name}.qcow2`], { cwd: folder })).status).toBe(0);
  }
  return folder;
}

function describeIt(parts: Partial<StatusDescription>): StatusDescription {
  return {
    root: "/srv",
    generation: 4,
    now: "2012-03-05T14:03:11.000Z",
    devices: [],
    transactions: [],
    stale: [],
    spaces: [],
    snapshots: { count: 0, newest: null, problems: [], bytesPerDay: null },
    notes: [],
    ...parts,
  };
}

test("the status of a sound workspace says what there is, and who has it open", async () => {
  const cwd = await makeDisks();
  await runCli(["snapshot-group", "--all", "--name", "nightly"], { cwd });
  const descriptor = openSync(`${cwd}/a.qcow2`, "r");
  const reader = spawn("sleep", ["600"], { stdio: [descriptor, "ignore", "ignore"] });
  closeSync(descriptor);
  try {
    await runCli(["freeze", "vdb"], { cwd });
    await runCli(["txn", "begin", "--name", "open"], { cwd });
    const { status, stdout, stderr } = await runCli(["status", "--check"], { cwd });
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toContain(`${cwd}, generation 4\n`);
    expect(stdout).toMatch(/devices +2, all sound, chains of 2 images\n/);
    expect(stdout).toMatch(/snapshots +1, the newest 1 \(nightly\), \d+ min old\n/);
    expect(stdout).toMatch(/space .* free of .*, images take /);
    expect(stdout).toContain(`open in pid ${reader.pid} (sleep), a reader: ${cwd}/a.qcow2\n`);
    expect(stdout).toMatch(/vdb +frozen since/);
    expect(stdout).toMatch(/txn \w+ \(open\) +open, for \d+ min, by /);
    const show = await runCli(["device", "show", "vda"], { cwd });
    expect(show.stdout).toMatch(/^vda .*, snapshot 1 \(nightly\)/);
    const json = await runCli(["status", "--json"], { cwd });
    expect(JSON.parse(json.stdout)).toMatchObject({
      schema: 1,
      ok: true,
      devices: [
        { name: "vda", holders: [{ pid: reader.pid, role: "reader" }] },
        { name: "vdb", frozen: true },
      ],
      transactions: [{ name: "open" }],
      snapshots: { count: 1, newest: { number: 1, name: "nightly" } },
      space: [{ folder: cwd, free: expect.any(Number) }],
    });
  } finally {
    reader.kill();
  }
});

test("who has images open is looked for where it is shown: not for a table, nor for a chain", async () => {
  const cwd = await makeDisks();
  const storage = makeNodeStorage();
  const find = vi.fn<typeof storage.findAllHolders>(async (stats) => await storage.findAllHolders(stats));
  const run = async (...argv: string[]) =>
    await runCli(argv, { cwd, storage: { ...storage, findAllHolders: find } });
  for (const argv of [
    ["device", "list"],
    ["device", "show", "vda"],
  ]) {
    expect((await run(...argv)).status).toBe(0);
    expect(find).not.toHaveBeenCalled();
    expect((await run(...argv, "--json")).stdout).toContain('"holders": []');
    expect(find).toHaveBeenCalledOnce();
    find.mockClear();
  }
});

test("--check ends with 1 for each thing that is wrong, and --quiet prints those alone", async () => {
  const cwd = await makeDisks();
  expect(await runCli(["status", "--check", "-q"], { cwd })).toEqual({ status: 0, stdout: "", stderr: "" });
  await runCli(["snapshot-group", "--all"], { cwd });
  writeFileSync(`${cwd}/b.qcow2`, "", { flag: "a" });
  renameSync(`${cwd}/a.qcow2`, `${cwd}/away.qcow2`);
  const { status, stdout } = await runCli(["status", "--check", "-q"], { cwd });
  expect(status).toBe(1);
  expect(stdout).toMatch(/^snapshots: 1: .*a\.qcow2 is not there$/m);
  expect(stdout).toMatch(/^vda: /m);
  expect(stdout).not.toMatch(/generation/);
  expect((await runCli(["status"], { cwd })).status).toBe(0);
});

test("what an old snapshot keeps is looked at too, and what many stand on is told once", async () => {
  const cwd = await makeDisks();
  const run = async (...argv: string[]) => await runCli(argv, { cwd });
  await run("snapshot", "vda", "--name", "first");
  const left = realpathSync(`${cwd}/devices/vda`);
  await run("rollback", "vda", "--to", "first", "-q");
  writeFileSync(`${cwd}/batch`, "snapshot vda\n".repeat(9));
  await run("txn", "run", "batch", "-q");
  renameSync(left, `${left}.away`);
  expect(await run("status", "--check", "-q")).toMatchObject({
    status: 1,
    stdout: `snapshots: 2: ${left} is not there\n`,
  });
  renameSync(`${cwd}/a.qcow2`, `${cwd}/away.qcow2`);
  const { stdout } = await run("status", "--check", "-q");
  expect(stdout).toMatch(/^snapshots: 11, and 10 older: .*a\.qcow2 is not there$/m);
  expect(stdout).toContain(`snapshots: 2: ${left} is not there\n`);
});

test("a disk that is nearly full is a problem, and one that will be within a week is a note", () => {
  const space = { folder: "/srv", totalBytes: 1000, allocatedBytes: 500 };
  const levelOf = (freeBytes: number, bytesPerDay: number | null, isLow = false) =>
    listFacts(
      describeIt({
        spaces: [{ ...space, freeBytes, isLow }],
        snapshots: { count: 0, newest: null, problems: [], bytesPerDay },
      }),
    ).find(({ subject }) => subject === "space");
  expect(levelOf(49, null, true)).toMatchObject({ level: "problem" });
  expect(levelOf(300, 100)).toMatchObject({ level: "note", text: expect.stringContaining("full in 3 days") });
  expect(levelOf(800, 100)).toMatchObject({ level: "fact", text: expect.stringContaining("full in 8 days") });
  expect(levelOf(800, 1)?.text).not.toContain("full in");
});

test("an open transaction is stale after a day, and one that waits is a problem", () => {
  const transaction = {
    id: "7f3k2m9qa1",
    name: null,
    state: "open" as const,
    started: "2012-03-03T14:03:11.000Z",
    user: "root",
    here: false,
    owned: false,
    onError: "keep" as const,
    devices: ["vda"],
    actions: [],
    savepoints: [],
    busy: false,
    problem: null,
  };
  const factOf = (parts: object, stale: readonly string[] = []) =>
    listFacts(describeIt({ transactions: [{ ...transaction, ...parts }], stale })).find(({ subject }) =>
      subject.startsWith("txn"),
    );
  expect(factOf({}, [transaction.id])).toEqual({
    subject: "txn 7f3k2m9qa1",
    level: "note",
    text: "open, stale, for 2 days, by root, holds vda",
  });
  expect(factOf({ busy: true })).toMatchObject({ level: "fact" });
  expect(factOf({ state: "committed" })).toMatchObject({ level: "problem" });
  expect(factOf({ problem: "its disk is away" })).toMatchObject({ level: "problem" });
});

test("metrics have escaped labels, and leave out what is not known", () => {
  const mirror = { image: "/m", format: "raw", sync: "full", syncedAt: "2012-03-05T14:03:11.000Z" } as const;
  const standing = { behindBytes: null, problem: null, isMissing: false };
  const text = drawPrometheus(
    describeIt({
      devices: [makeDevice({ mirror: { ...mirror, standing } })],
      spaces: [{ folder: '/a"b\\c', freeBytes: 7, isLow: false, totalBytes: 9, allocatedBytes: 1 }],
    }),
  ).join("\n");
  expect(text).toContain('imgtx_free_bytes{folder="/a\\"b\\\\c"} 7');
  expect(text).toContain('imgtx_device_sound{device="vda"} 1');
  expect(text).toContain('imgtx_mirror_synced_timestamp_seconds{device="vda"} 1330956191');
  expect(text).not.toContain("mirror_behind_bytes");
  for (const line of text.split("\n"))
    expect(line).toMatch(/^(# (HELP|TYPE) imgtx_|imgtx_\w+(\{.*\})? -?[\d.e+]+$)/);
});

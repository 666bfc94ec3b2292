// QMP against a workspace on the disk: what a start, its commit and its abort leave, over one input and two.

import { readdirSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { makeWorkbench, type Workbench } from "../../../helpers/transaction/workbench.ts";
import { runCli } from "../../../helpers/cli/harness.ts";

const START = { execute: "blockdev-start-transaction" };
const COMMIT = { execute: "blockdev-commit-transaction" };
const ABORT = { execute: "blockdev-abort-transaction" };

function snapshot(device: string, file: string): object {
  return { execute: "blockdev-snapshot-sync", arguments: { device, "snapshot-file": file } };
}

async function run(bench: Workbench, commands: readonly object[] | string | Buffer, ...options: string[]) {
  const text = Array.isArray(commands) ? commands.map((each) => JSON.stringify(each)).join("\n") : commands;
  writeFileSync(bench.at("batch.json"), text as string | Buffer);
  const result = await runCli(["txn", "run", "batch.json", ...options], { cwd: bench.root });
  expect(result.stderr).not.toContain("bug in imgtx");
  const answers = result.stdout.trimEnd().split("\n");
  return { ...result, good: answers.map((line) => line === '{"return": {}}') };
}

function filesOf(bench: Workbench): string[] {
  return readdirSync(bench.root).filter((name) => !name.startsWith(".") && name !== "batch.json");
}

describe("a started transaction", () => {
  test("is one generation when it is committed, and its actions see each other", async () => {
    const bench = await makeWorkbench();
    const before = await bench.generation();
    const content = await bench.content();
    const { status, good } = await run(bench, [
      START,
      snapshot("vda", "a1.qcow2"),
      snapshot("vda", "a2.qcow2"),
      snapshot("vdb", "b1.qcow2"),
      COMMIT,
    ]);
    expect({ status, good }).toEqual({ status: 0, good: [true, true, true, true, true] });
    expect(await bench.images()).toEqual({ vda: "a2.qcow2", vdb: "b1.qcow2", vdc: "c.qcow2" });
    expect(await bench.generation()).toBe(before + 1);
    expect(await bench.content()).toEqual(content);
  });

  test.each([
    ["aborted", [START, snapshot("vda", "a1.qcow2"), ABORT], 0],
    ["failed", [START, snapshot("vda", "a1.qcow2"), snapshot("vdb", "b.raw"), COMMIT], 14],
    ["failed without an end", [START, snapshot("vda", "a1.qcow2"), snapshot("vdx", "x.qcow2")], 14],
  ])("leaves nothing when it has %s", async (_, commands, expected) => {
    const bench = await makeWorkbench();
    const [files, generation] = [filesOf(bench), await bench.generation()];
    expect((await run(bench, commands)).status).toBe(expected);
    expect(filesOf(bench)).toEqual(files);
    expect(await bench.generation()).toBe(generation);
    expect(await bench.open()).toEqual([]);
  });

  test("stays open for the next input where this one does not end it", async () => {
    const bench = await makeWorkbench();
    const first = await run(bench, [START, snapshot("vda", "a1.qcow2")]);
    expect(first).toMatchObject({ status: 0, good: [true, true] });
    const [open] = await bench.open();
    expect(first.stderr).toContain(`transaction ${open?.id} is open`);
    expect((await bench.images())["vda"]).toBe("a.qcow2");
    expect((await run(bench, [snapshot("vdb", "b1.qcow2"), COMMIT])).good).toEqual([true, true]);
    expect(await bench.images()).toMatchObject({ vda: "a1.qcow2", vdb: "b1.qcow2" });
    expect(await bench.open()).toEqual([]);
  });

  test("can't be ended where there is none", async () => {
    const bench = await makeWorkbench();
    const { status, stdout } = await run(bench, [COMMIT]);
    expect(status).toBe(11);
    expect(stdout).toContain('{"error": {"class": "GenericError", "desc": "no transaction is open"}}');
  });

  test("begins and changes nothing in a dry run", async () => {
    const bench = await makeWorkbench();
    const files = filesOf(bench);
    const { status, good } = await run(
      bench,
      [START, snapshot("vda", "a1.qcow2"), ABORT, snapshot("vda", "a1.qcow2"), snapshot("vdb", "b1.qcow2")],
      "--dry-run",
    );
    expect({ status, good }).toEqual({ status: 0, good: [true, true, true, true, true] });
    expect([filesOf(bench), await bench.open()]).toEqual([files, []]);
    const twice = await run(bench, [snapshot("vda", "a1.qcow2"), snapshot("vdb", "b.raw")], "--dry-run");
    expect({ status: twice.status, good: twice.good }).toEqual({ status: 14, good: [true, false] });
  });
});

test("the group snapshot of 2012 is one generation", async () => {
  const bench = await makeWorkbench();
  const before = await bench.generation();
  const devlist = [
    { device: "vda", "snapshot-file": "a1.qcow2", format: "qcow2" },
    { device: "vdb", "snapshot-file": "b1.qcow2" },
  ];
  const { status } = await run(bench, [{ execute: "blkdev-group-snapshot-sync", arguments: { devlist } }]);
  expect(status).toBe(0);
  expect(await bench.images()).toMatchObject({ vda: "a1.qcow2", vdb: "b1.qcow2" });
  expect(await bench.generation()).toBe(before + 1);
});

test("drive-reopen and blockdev-reopen point devices to other images, raw only where it is said", async () => {
  const bench = await makeWorkbench();
  bench.makeRaw("other.raw", 9);
  const reopen = { execute: "drive-reopen", arguments: { device: "vdb", source: "other.raw" } };
  expect((await run(bench, [reopen])).status).toBe(14);
  const raw = { ...reopen, arguments: { ...reopen.arguments, format: "raw" } };
  const back = {
    execute: "blockdev-reopen",
    arguments: {
      options: [{ driver: "raw", "node-name": "vdb", file: { driver: "file", filename: "b.raw" } }],
    },
  };
  expect((await run(bench, [raw])).status).toBe(0);
  expect((await bench.images())["vdb"]).toBe("other.raw");
  expect((await run(bench, [back])).status).toBe(0);
  expect((await bench.images())["vdb"]).toBe("b.raw");
});

test("blockdev-snapshot takes an overlay by its file, and says why a device is none", async () => {
  const bench = await makeWorkbench();
  await bench.snapshot({ vdc: "over.qcow2" });
  await bench.undo();
  const put = (overlay: string) => ({ execute: "blockdev-snapshot", arguments: { node: "vdc", overlay } });
  const device = await run(bench, [put("vda")]);
  expect(device.status).toBe(14);
  expect(device.stdout).toContain("vdc: it is not an empty overlay over the active layer");
  expect((await run(bench, [put("over.qcow2")])).status).toBe(0);
  expect((await bench.images())["vdc"]).toBe("over.qcow2");
});

test.each([
  [
    "bytes that are not UTF-8",
    Buffer.from('[{"type": "abort", "data": {}}, "\xff"]', "latin1"),
    "is not UTF-8",
  ],
  ["a NUL", '[{"type": "ab\0ort"}]', "a control character in a string"],
  ["a NUL between values", "[\0]", "line 1, column 2: a value should be here"],
])("a batch with %s is refused, with an answer", async (_, text, says) => {
  const bench = await makeWorkbench();
  const { status, stdout } = await run(bench, text);
  expect(status).toBe(64);
  expect(stdout).toContain('{"error": {"class": "GenericError", "desc": "the batch is not JSON: line 1');
  expect(stdout).toContain(says);
});

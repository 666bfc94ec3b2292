// Who has an image open for writing without QEMU's lock: QEMU between its open and its first lock, QEMU with
// locking=off, a loop device, cp. A device does not move away from under him, and nobody gets in amid the move
// without a word.

import { closeSync, openSync } from "node:fs";
import { describe, expect, onTestFinished, test } from "vitest";
import type { ActionRequest, RunOptions } from "../../../src/transaction/index.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { openWhileLeased } from "../../helpers/storage/late-opener.ts";
import { startHolder } from "../../helpers/storage/other-process.ts";
import { watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

type Requests = (bench: Workbench) => ActionRequest;

const MOVES: readonly [string, Requests][] = [
  ["snapshot", (bench) => bench.snapshotRequest({ vda: "a1.qcow2" })],
  ["snapshot-group", (bench) => bench.snapshotRequest({ vda: "a1.qcow2", vdb: "b1.qcow2" })],
  [
    "reopen",
    (bench) => ({
      kind: "reopen",
      device: "vda",
      file: bench.at("other.qcow2"),
      format: undefined,
      force: false,
    }),
  ],
  [
    "migrate",
    (bench) => ({
      kind: "migrate",
      device: "vda",
      dest: bench.at("dest.qcow2"),
      destFormat: "qcow2",
      newSource: bench.at("new.qcow2"),
      sourceFormat: "qcow2",
      relative: false,
    }),
  ],
  ["freeze", () => ({ kind: "freeze", devices: ["vda"], strict: false })],
];

async function makeBench(): Promise<Workbench> {
  const bench = await makeWorkbench();
  bench.makeQcow2("other.qcow2", 9);
  return bench;
}

describe.each(MOVES)("%s", (_, request) => {
  test("leaves the device on an image that somebody has open for writing, and names him", async () => {
    const bench = await makeBench();
    const other = await startHolder(bench.at("a.qcow2"), "none");
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(async () => await bench.run(request(bench)));
    expect(failure).toMatchObject({ code: "E_LOCKED", exitCode: 10, device: "vda", changed: false });
    expect(failure.message).toContain(`pid ${other.pid} (node)`);
    expect(failure.hint).toContain("--wait");
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    await other.stop();
    await bench.run(request(bench));
  });

  test("waits with --wait for whoever has it open for writing", async () => {
    const bench = await makeBench();
    const descriptor = openSync(bench.at("a.qcow2"), "r+");
    const waits: string[] = [];
    const options: Partial<RunOptions> = {
      waitMs: Number.POSITIVE_INFINITY,
      onWait(what) {
        waits.push(what);
        closeSync(descriptor);
      },
    };
    await bench.run(request(bench), options);
    expect(waits).toEqual([expect.stringContaining("a.qcow2', opened for writing by")]);
  });
});

test("rollback leaves the device on an image that somebody has open for writing", async () => {
  const bench = await makeBench();
  await bench.snapshot({ vda: "a1.qcow2" });
  const descriptor = openSync(bench.at("a1.qcow2"), "r+");
  onTestFinished(() => {
    closeSync(descriptor);
  });
  expect(await failureOf(async () => await bench.undo())).toMatchObject({ code: "E_LOCKED" });
  expect(await bench.images()).toMatchObject({ vda: "a1.qcow2" });
});

test("a raw data file that somebody has open for writing keeps its device too", async () => {
  const bench = await makeBench();
  const descriptor = openSync(bench.at("b.raw"), "r+");
  onTestFinished(() => {
    closeSync(descriptor);
  });
  const failure = await failureOf(async () => await bench.snapshot({ vdb: "b1.qcow2" }));
  expect(failure).toMatchObject({ code: "E_LOCKED", device: "vdb", image: bench.at("b.raw") });
});

test("who reads an image keeps nobody from moving its device", async () => {
  const bench = await makeBench();
  const descriptor = openSync(bench.at("a.qcow2"), "r");
  await bench.snapshot({ vda: "a1.qcow2" });
  closeSync(descriptor);
  expect(await bench.images()).toMatchObject({ vda: "a1.qcow2" });
});

/** The bench, where somebody opens the active layer just before a flush for this purpose. */
function openedAt(bench: Workbench, purpose: string, staysMs?: number): Workbench {
  let isOpened = false;
  const storage = watchStorage(bench.storage, (call) => {
    if (call.purpose !== purpose || isOpened) return;
    isOpened = true;
    openWhileLeased(bench.at("a.qcow2"), staysMs);
  });
  return bench.through(storage);
}

test("who comes to open the image before the commit mark gets it, and the device stays", async () => {
  const bench = await makeBench();
  const before = await bench.generation();
  const opened = openedAt(bench, "next table");
  const failure = await failureOf(async () => await opened.snapshot({ vda: "a1.qcow2" }));
  expect(failure).toMatchObject({ code: "E_LOCKED", device: "vda", changed: false });
  expect(await bench.generation()).toBe(before);
  expect(await bench.images()).toMatchObject({ vda: "a.qcow2" });
});

test("who comes amid the move and stays is told of in a line", async () => {
  const bench = await makeBench();
  const lines: string[] = [];
  const opened = openedAt(bench, "commit mark");
  await opened.snapshot({ vda: "a1.qcow2" }, {}, { onNotice: (line) => lines.push(line) });
  expect(await bench.images()).toMatchObject({ vda: "a1.qcow2" });
  expect(lines).toEqual([
    expect.stringMatching(/a\.qcow2 was opened for writing while 'vda' moved on from it, by pid \d+/),
  ]);
});

test("who comes amid the move and goes when he meets the locks is not worth a word", async () => {
  const bench = await makeBench();
  const lines: string[] = [];
  const opened = openedAt(bench, "commit mark", 100);
  await opened.snapshot({ vda: "a1.qcow2" }, {}, { onNotice: (line) => lines.push(line) });
  expect(lines).toEqual([]);
});

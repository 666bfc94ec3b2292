// Before the commit nothing that was there has changed, and an abort leaves nothing behind: names, inodes,
// modes and contents of the whole workspace are compared.

import { chmodSync, readdirSync, rmSync, statSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { runWell } from "../../helpers/qemu-programs.ts";
import { type Call, killAt } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img");
const GROUP = { vda: "a1.qcow2", vdb: "sub/b1.qcow2", vdc: "c1.qcow2" };

async function makeBenchWithFolder() {
  const bench = await makeWorkbench();
  bench.makeFile("sub/keep.txt", "the user's own");
  chmodSync(bench.at("a.qcow2"), 0o640);
  return bench;
}

describe("abort", () => {
  test.each([
    ["a group snapshot", [["snapshot"]]],
    ["two snapshots of the same devices", [["snapshot"], ["again"]]],
    ["a reopen after a snapshot", [["snapshot"], ["reopen"]]],
  ])("takes back %s and leaves the tree as it was", async (_, steps) => {
    const bench = await makeBenchWithFolder();
    bench.makeQcow2("other.qcow2", 9);
    const before = snapshotWorkspace(bench.root);
    await bench.begin();
    for (const [step] of steps) {
      if (step === "snapshot") await bench.snapshot(GROUP);
      if (step === "again") await bench.snapshot({ vda: "a2.qcow2", vdc: "sub/c2.qcow2" });
      if (step === "reopen") await bench.reopen("vda", "other.qcow2");
    }
    expect(snapshotWorkspace(bench.root)).not.toEqual(before);
    await bench.abort();
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    expect(await bench.open()).toEqual([]);
  });

  // By what it has in it, however long the file is: times say nothing of one that was made this very moment.
  qemu.test("removes an overlay of large clusters", async () => {
    const bench = await makeWorkbench();
    runWell(
      "qemu-img",
      "create",
      "-q",
      "-f",
      "qcow2",
      "-o",
      "cluster_size=2M",
      bench.at("large.qcow2"),
      "4M",
    );
    await bench.add("vdd", bench.at("large.qcow2"));
    const before = snapshotWorkspace(bench.root);
    await bench.begin();
    await bench.snapshot({ vdd: "large1.qcow2" });
    expect(statSync(bench.at("large1.qcow2")).size).toBeGreaterThan(2 ** 21);
    await bench.abort();
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("changes no image that was there before, not even while the transaction is open", async () => {
    const bench = await makeBenchWithFolder();
    const before = snapshotWorkspace(bench.root);
    await bench.begin();
    await bench.snapshot(GROUP);
    const during = snapshotWorkspace(bench.root);
    expect(during.filter((line) => before.includes(line))).toEqual(before);
    expect(await bench.images()).toEqual({ vda: "a.qcow2", vdb: "b.raw", vdc: "c.qcow2" });
  });

  test("of a transaction with nothing in it makes no generation", async () => {
    const bench = await makeWorkbench();
    const before = snapshotWorkspace(bench.root);
    await bench.begin();
    expect(await bench.abort()).toMatchObject({ generation: 3, actions: [] });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("leaves a file that somebody put in the place of one of its own", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    rmSync(bench.at("a1.qcow2"));
    bench.makeFile("taken-inode", "so that the inode number is not used again");
    bench.makeFile("a1.qcow2", "the user's own");
    const before = snapshotWorkspace(bench.root);
    await bench.abort();
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });
});

describe("what a commit staged before its mark", () => {
  /** The names of what imgtx keeps, but for the journals. */
  const ownNames = (bench: Workbench): string[][] =>
    ["", "/history", "/view"].map((folder) => readdirSync(bench.at(`.imgtx${folder}`)).sort());

  test.each([
    ["its table is written", "file.flush", "next table"],
    ["its view is built", "makeSymlink", undefined],
  ])("is cleared away by an abort, where it died as %s", async (_, name, purpose) => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    const before = ownNames(bench);
    const isLast = (call: Call): boolean =>
      call.name === name &&
      (purpose === undefined ? call.path.endsWith("/devices.new") : call.purpose === purpose);
    const dying = bench.through(killAt(bench.storage, isLast));
    await expect(dying.commit()).rejects.toThrow("killed");
    expect(ownNames(bench)).not.toEqual(before);
    await bench.abort();
    expect(ownNames(bench)).toEqual(before);
    expect(await bench.images()).toMatchObject({ vda: "a.qcow2" });
  });
});

describe("a failing statement", () => {
  test("of its own transaction leaves the tree as it was", async () => {
    const bench = await makeBenchWithFolder();
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(
      async () => await bench.run([bench.snapshotRequest(GROUP), { kind: "refuse", device: "vda" }]),
    );
    expect(failure).toMatchObject({ code: "E_REFUSED", device: "vda", changed: false });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    expect(await bench.open()).toEqual([]);
  });

  test("in an open transaction takes back its own effects only, and the transaction goes on", async () => {
    const bench = await makeBenchWithFolder();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(
      async () =>
        await bench.run([bench.snapshotRequest({ vda: "a2.qcow2" }), { kind: "refuse", device: undefined }]),
    );
    expect(failure.code).toBe("E_REFUSED");
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    await bench.snapshot({ vdb: "b1.qcow2" });
    await bench.commit();
    expect(await bench.images()).toEqual({ vda: "a1.qcow2", vdb: "b1.qcow2", vdc: "c.qcow2" });
  });

  test("aborts the whole transaction where it was begun so", async () => {
    const bench = await makeBenchWithFolder();
    const before = snapshotWorkspace(bench.root);
    await bench.begin(undefined, "abort");
    await bench.snapshot({ vda: "a1.qcow2" });
    expect((await failureOf(async () => await bench.run({ kind: "refuse", device: undefined }))).code).toBe(
      "E_REFUSED",
    );
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    expect(await bench.open()).toEqual([]);
  });

  test("is undone when the user interrupts it", async () => {
    const bench = await makeBenchWithFolder();
    const before = snapshotWorkspace(bench.root);
    const signal = AbortSignal.abort();
    expect((await failureOf(async () => await bench.snapshot(GROUP, {}, { signal }))).code).toBe(
      "E_INTERRUPTED",
    );
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });
});

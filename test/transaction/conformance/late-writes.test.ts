// An image without a fence is written to between the commit mark and the application of its redo log, or is not there any
// more: nothing of it is lost, and nothing ends in silence.

import { execFileSync } from "node:child_process";
import { renameSync, statSync, truncateSync } from "node:fs";
import { describe, expect } from "vitest";
import { type ActionRequest, forceCommit, openSession } from "../../../src/transaction/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { isFenced } from "../../helpers/transaction/freezing.ts";
import { startGuest } from "../../helpers/transaction/migrating.ts";
import { atNthAfterMark, infoOf, mirror, stateOf, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { type Call, killAt } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, RUN_ALONE, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

const KIB = 1024;

function resize(device: string, sizeBytes: number): ActionRequest {
  return { kind: "resize", device, sizeBytes, isRelative: false, shrink: true, force: true };
}

/** Dies when the redo log of the raw device is next; or where the device has left it, before the table moves. */
function dying(bench: Workbench): Workbench {
  const isNext = ({ name, path }: Call) =>
    (name === "file.truncate" && path === bench.at("b.raw")) ||
    (name === "rename" && path === bench.at(".imgtx/table.json"));
  return bench.through(killAt(bench.storage, isNext));
}

async function expectWaiting(bench: Workbench, image: string): Promise<string> {
  const [note] = (await bench.session()).recovered;
  expect(note).toMatchObject({ did: "waiting", obstacle: { code: "E_CHANGED" } });
  expect(note?.text).toContain(`${bench.at(image)}: somebody wrote to it after the commit`);
  return note?.transaction ?? "";
}

/** A transaction that makes the raw device larger, and more; it dies before the log is applied. */
async function dieAfter(more: (bench: Workbench) => Promise<unknown>): Promise<Workbench> {
  const bench = await makeWorkbench();
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", bench.at("other.qcow2"), "256k"]);
  const id = await bench.begin();
  await bench.run(resize("vdb", 256 * KIB));
  await more(bench);
  await expect(dying(bench).commit(id)).rejects.toThrow("killed");
  return bench;
}

describe("what is written to an image before its redo log is applied", () => {
  qemu.test.each([
    ["where there was none", "write -P 7 100k 4k", "waiting"],
    ["elsewhere", "write -P 7 8k 4k", "finished"],
  ])("is not cut off with the end of a raw disk: %s", async (_, write, did) => {
    const bench = await makeWorkbench();
    for (const size of [0, 192 * KIB]) truncateSync(bench.at("b.raw"), size);
    await expect(dying(bench).run(resize("vdb", 60 * KIB))).rejects.toThrow("killed");
    writeGuest(bench.at("devices/vdb"), "raw", write);
    if (did === "finished") {
      expect((await bench.session()).recovered).toMatchObject([{ did }]);
      expect(statSync(bench.at("b.raw")).size).toBe(60 * KIB);
    } else {
      const written = stateOf(bench.at("b.raw"));
      const id = await expectWaiting(bench, "b.raw");
      await forceCommit(await bench.session(), id, RUN_ALONE);
      expect(stateOf(bench.at("b.raw"))).toEqual(written);
    }
    expect((await bench.session()).recovered).toEqual([]);
    writeGuest(bench.at("b.raw"), "raw", write.replace("write", "read"));
  });

  qemu.test("is not cut off where it was written while recovery waited for the guest to end", async () => {
    const bench = await makeWorkbench();
    await expect(dying(bench).run(resize("vdb", 60 * KIB))).rejects.toThrow("killed");
    const guest = await startGuest(bench.at("devices/vdb"), "raw", "read 0 4k");
    const writesAndEnds = async (): Promise<void> => {
      await guest.write("write -P 7 100k 4k");
      await guest.stop();
    };
    const { recovered } = await openSession(bench.storage, {
      startFolder: bench.root,
      workspace: undefined,
      createHere: false,
      caller: "recover",
      waitMs: 60_000,
      onWait: () => void writesAndEnds(),
    });
    expect(recovered).toMatchObject([{ did: "waiting", obstacle: { code: "E_CHANGED" } }]);
    writeGuest(bench.at("b.raw"), "raw", "read -P 7 100k 4k");
  });

  qemu.test("is not given up with what an internal snapshot of version 2 goes back over", async () => {
    const bench = await makeWorkbench();
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "compat=0.10", bench.at("o.qcow2"), "1M"]);
    writeGuest(bench.at("o.qcow2"), "qcow2", "write -P 1 0 256k");
    await bench.add("old", "o.qcow2");
    const request = { devices: ["old"], snapshot: "one" };
    await bench.run({ kind: "internal-snapshot-create", ...request });
    writeGuest(bench.at("o.qcow2"), "qcow2", "write -P 2 0 256k");
    const dies = bench.through(killAt(bench.storage, atNthAfterMark("file.write", "o.qcow2", 1)));
    await expect(dies.run({ kind: "internal-snapshot-apply", ...request })).rejects.toThrow("killed");
    writeGuest(bench.at("devices/old"), "qcow2", "write -P 9 64k 4k");
    const id = await expectWaiting(bench, "o.qcow2");
    await forceCommit(await bench.session(), id, RUN_ALONE);
    expect((await bench.session()).recovered).toEqual([]);
    writeGuest(bench.at("o.qcow2"), "qcow2", "read -P 9 64k 4k");
  });

  qemu.test.each([
    ["another image", async (bench: Workbench) => await bench.reopen("vdb", "other.qcow2")],
    [
      "its mirror",
      async (bench: Workbench) => {
        await mirror(bench, { vdb: "m.qcow2" }, { format: "qcow2" });
        await bench.reopen("vdb", "m.qcow2");
      },
    ],
  ])("is not left behind by a device that goes over to %s", async (_, more) => {
    const bench = await dieAfter(more);
    writeGuest(bench.at("devices/vdb"), "raw", "write -P 7 100k 4k");
    await expectWaiting(bench, "b.raw");
    expect((await bench.images())["vdb"]).toBe("b.raw");
  });

  qemu.test("is in the snapshot on top of it, which says that it is later than its commit", async () => {
    const bench = await dieAfter(async (one) => await one.snapshot({ vdb: "b1.qcow2" }));
    writeGuest(bench.at("devices/vdb"), "raw", "write -P 7 100k 4k");
    const [note] = (await bench.session()).recovered;
    expect(note).toMatchObject({ did: "finished" });
    expect(note?.text).toContain(`the snapshot of 'vdb' holds what was written to ${bench.at("b.raw")}`);
    writeGuest(bench.at("devices/vdb"), "qcow2", "read -P 7 100k 4k");
    expect(infoOf(bench.at("b.raw"))).toMatchObject({ "virtual-size": 256 * KIB });
    await bench.undo();
    expect((await bench.images())["vdb"]).toBe("b.raw");
  });

  qemu.test("is nothing to wait for where nobody wrote", async () => {
    const bench = await dieAfter(async (one) => await one.reopen("vdb", "other.qcow2"));
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expect((await bench.images())["vdb"]).toBe("other.qcow2");
  });
});

describe("an image that is still to be changed", () => {
  qemu.test("is waited for where it is not there, and changed when it is back", async () => {
    const bench = await makeWorkbench();
    const dies = bench.through(killAt(bench.storage, atNthAfterMark("file.write", "a.qcow2", 1)));
    await expect(dies.run(resize("vda", 320 * KIB))).rejects.toThrow("killed");
    renameSync(bench.at("a.qcow2"), bench.at("a.away"));
    expect((await bench.session()).recovered).toMatchObject([
      { did: "waiting", obstacle: { code: "E_NOT_FOUND", devices: ["vda"] } },
    ]);
    renameSync(bench.at("a.away"), bench.at("a.qcow2"));
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expect(isFenced(bench.at("a.qcow2"))).toBe(false);
    expect(infoOf(bench.at("a.qcow2"))).toMatchObject({ "virtual-size": 320 * KIB });
  });
});

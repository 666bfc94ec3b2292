// A host that loses its power right after a commit mark, and starts its guests before anybody calls imgtx: what such a
// guest writes to the image that its device was about to leave is not lost.

import { execFileSync } from "node:child_process";
import { describe, expect } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { forceCommit, holdDevices } from "../../../src/transaction/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { fingerprintOf, isFenced, makeOldBench } from "../../helpers/transaction/freezing.ts";
import { startGuest } from "../../helpers/transaction/migrating.ts";
import { IDENTICAL, judge, makeBehind, mirror, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { type Call, killAt, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, RUN_ALONE, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

const OTHER = "other.qcow2";

/** Another image, of another size. */
function makeOther(bench: Workbench): void {
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", bench.at(OTHER), "1M"]);
}

async function reopen(bench: Workbench, device: string): Promise<void> {
  await bench.run({ kind: "reopen", device, file: bench.at(OTHER), format: "qcow2", force: true });
}

/** Dies when the table is about to move. */
function dying(bench: Workbench): Workbench {
  const moves = (call: Call) => call.name === "rename" && call.path === bench.at(".imgtx/table.json");
  return bench.through(killAt(bench.storage, moves));
}

describe("between the commit mark and recovery", () => {
  qemu.test(
    "an image that its device leaves by reopen is fenced, and what it was afterwards, with its time",
    async () => {
      const bench = await makeOldBench();
      const before = await fingerprintOf(bench, "c.qcow2");
      makeOther(bench);
      await expect(reopen(dying(bench), "vdc")).rejects.toThrow("killed");
      expect(isFenced(bench.at("c.qcow2"))).toBe(true);
      expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
      expect((await bench.images())["vdc"]).toBe(OTHER);
      expect(await fingerprintOf(bench, "c.qcow2")).toEqual(before);
    },
  );

  qemu.test("one that dies before its mark leaves no fence after recovery", async () => {
    const bench = await makeOldBench();
    const before = await fingerprintOf(bench, "c.qcow2");
    makeOther(bench);
    const flushes = (call: Call) => call.name === "file.flush" && call.purpose === "commit mark";
    const dead = bench.through(killAt(bench.storage, flushes));
    await expect(reopen(dead, "vdc")).rejects.toThrow("killed");
    await bench.session();
    expect(await fingerprintOf(bench, "c.qcow2")).toEqual(before);
  });

  qemu.test(
    "a commit without a crash leaves no fence, and a rollback finds the image as it was",
    async () => {
      const bench = await makeOldBench();
      const before = await fingerprintOf(bench, "c.qcow2");
      makeOther(bench);
      await reopen(bench, "vdc");
      expect(await fingerprintOf(bench, "c.qcow2")).toEqual(before);
      await bench.undo();
      expect((await bench.images())["vdc"]).toBe("c.qcow2");
    },
  );

  for (const how of ["is finished", "dies, and recovery finishes it"]) {
    qemu.test(`a commit that ${how} has a rollback notice a write whose time was put back`, async () => {
      const bench = await makeOldBench();
      makeOther(bench);
      if (how === "is finished") await reopen(bench, "vdc");
      else await expect(reopen(dying(bench), "vdc")).rejects.toThrow("killed");
      await bench.session();
      expect((await bench.images())["vdc"]).toBe(OTHER);
      execFileSync("touch", ["-r", bench.at("c.qcow2"), bench.at("times")]);
      writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 9 0 4k");
      execFileSync("touch", ["-r", bench.at("times"), bench.at("c.qcow2")]);
      await expect(bench.undo()).rejects.toThrow("its old time of modification");
    });
  }

  qemu.test("a read that fails as an image is fenced leaves no file open", async () => {
    for (let nth = 1; ; nth += 1) {
      const bench = await makeOldBench();
      makeOther(bench);
      let count = 0;
      const failing = watchStorage(bench.storage, ({ name, path }) => {
        if (name !== "file.read" || path !== bench.at("c.qcow2")) return;
        count += 1;
        if (count === nth) throw new ImgtxError("E_IO", "the disk fails", { image: path });
      });
      await reopen(bench.through(failing), "vdc").catch(() => undefined);
      expect(failing.openFiles.size).toBe(0);
      if (count < nth) break;
    }
  });

  qemu.test("a device that waits is held still for no command", async () => {
    const bench = await makeWorkbench();
    makeOther(bench);
    await expect(reopen(dying(bench), "vdb")).rejects.toThrow("killed");
    writeGuest(bench.at("b.raw"), "raw", "write -P 7 0 4k");
    const session = await bench.session();
    const hold = { ...RUN_ALONE, allowPaths: [] };
    const failure = await failureOf(async () => await holdDevices(session, ["vdc", "vdb"], hold));
    expect(failure).toMatchObject({ code: "E_TRANSACTION", device: "vdb" });
    await (await holdDevices(session, ["vdc"], hold)).release();
  });

  qemu.test("a raw image that somebody wrote to keeps its device, until an operator decides", async () => {
    const bench = await makeWorkbench();
    makeOther(bench);
    await expect(reopen(dying(bench), "vdb")).rejects.toThrow("killed");
    writeGuest(bench.at("b.raw"), "raw", "write -P 7 0 4k");
    const session = await bench.session();
    expect(session.recovered).toMatchObject([
      { did: "waiting", obstacle: { code: "E_CHANGED", isCommitted: true, devices: ["vdb"] } },
    ]);
    expect((await bench.images())["vdb"]).toBe("b.raw");
    await forceCommit(session, session.recovered[0]?.transaction ?? "", RUN_ALONE);
    expect((await bench.images())["vdb"]).toBe(OTHER);
  });

  qemu.test(
    "what was written below a snapshot is the device's, and the snapshot says that it is later",
    async () => {
      const bench = await makeWorkbench();
      await expect(dying(bench).snapshot({ vdc: "c1.qcow2" })).rejects.toThrow("killed");
      writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 7 0 4k");
      const [note] = (await bench.session()).recovered;
      expect(note).toMatchObject({ did: "finished" });
      expect(note?.text).toContain("holds what was written to");
      expect((await bench.images())["vdc"]).toBe("c1.qcow2");
    },
  );

  // Dead before it has moved the table, shown the move, or removed the journal: whatever it found died with it.
  for (const [where, name, file] of [
    ["the table moves", "rename", /\/table\.json$/],
    ["the move is shown", "rename", /\/view\/\w+\.now$/],
    ["the journal goes", "removeFile", /\.journal$/],
  ] as const) {
    qemu.test(`what a snapshot holds is said by who lives to say it, after a death as ${where}`, async () => {
      const bench = await makeWorkbench();
      await expect(dying(bench).snapshot({ vdc: "c1.qcow2" })).rejects.toThrow("killed");
      writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 7 0 4k");
      const dies = (call: Call) => call.name === name && file.test(call.path);
      const dead = bench.through(killAt(bench.storage, dies));
      await expect(dead.session()).rejects.toThrow("killed");
      const [note] = (await bench.session()).recovered;
      expect(note).toMatchObject({ did: "finished" });
      expect(note?.text).toContain(`the snapshot of 'vdc' holds what was written to ${bench.at("c.qcow2")}`);
    });
  }

  qemu.test("what was written below a snapshot is missing in no mirror that counts as in sync", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdc: "m.qcow2" });
    await expect(dying(bench).snapshot({ vdc: "c1.qcow2" })).rejects.toThrow("killed");
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 7 0 4k");
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    await mirror(bench, { vdc: undefined });
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });

  qemu.test("no table moves under a guest that runs on a snapshot's base", async () => {
    const bench = await makeWorkbench();
    await expect(dying(bench).snapshot({ vdc: "c1.qcow2" })).rejects.toThrow("killed");
    const guest = await startGuest(bench.at("c.qcow2"));
    expect((await bench.session()).recovered).toMatchObject([
      { did: "waiting", obstacle: { code: "E_LOCKED", devices: ["vdc"] } },
    ]);
    expect((await bench.images())["vdc"]).toBe("c.qcow2");
    await guest.stop();
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
  });

  qemu.test("a device that goes over to its mirror has what the guest wrote before the mark", async () => {
    const bench = await makeBehind();
    await expect(dying(bench).reopen("vdc", "m.qcow2")).rejects.toThrow("killed");
    expect(isFenced(bench.at("c.qcow2"))).toBe(true);
    await bench.session();
    expect((await bench.images())["vdc"]).toBe("m.qcow2");
    expect(isFenced(bench.at("c.qcow2"))).toBe(false);
    await mirror(bench, { vdc: "m2.qcow2" });
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });
});

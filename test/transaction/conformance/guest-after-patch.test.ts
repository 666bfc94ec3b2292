// A process that dies after it has lifted a fence, and before the table has moved: a guest may be started on the image, and
// recovery finds it written to.

import { describe, expect } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { freeze, frozen, isFenced, makeOldBench, unfreeze } from "../../helpers/transaction/freezing.ts";
import { IDENTICAL, judge, mirror, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { type Call, killAt } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

/** Dies when the table is about to move: the fence is lifted by then. */
function dying(bench: Workbench): Workbench {
  const moves = (call: Call) => call.name === "rename" && call.path === bench.at(".imgtx/table.json");
  return bench.through(killAt(bench.storage, moves));
}

describe("a guest that writes after the fence was lifted, and before recovery", () => {
  qemu.test("makes no mirror pass for in sync with what it never got", async () => {
    const bench = await makeOldBench();
    await mirror(bench, { vdc: "m.qcow2" });
    await bench.run(freeze(["vdc"]));
    await mirror(bench, { vdc: undefined });
    await expect(dying(bench).run(unfreeze(["vdc"]))).rejects.toThrow("killed");
    expect(isFenced(bench.at("c.qcow2"))).toBe(false);
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 9 0 4k");
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expect(await frozen(bench)).toEqual([]);
    await mirror(bench, { vdc: undefined });
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });

  qemu.test("changes the header, and holds nothing up", async () => {
    const bench = await makeWorkbench();
    await expect(mirror(dying(bench), { vdc: "m.qcow2" }, { bitmap: true })).rejects.toThrow("killed");
    expect(isFenced(bench.at("c.qcow2"))).toBe(false);
    // QEMU writes the directory of bitmaps anew, and its place in the header.
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 9 0 4k");
    const [note] = (await bench.session()).recovered;
    expect(note).toMatchObject({ did: "finished" });
    expect(note?.text).toContain("was written to since imgtx changed it, and is left as it is");
    await mirror(bench, { vdc: undefined });
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
    await mirror(bench, { vdc: undefined });
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });
});

// relocate into a folder that has images of the devices already, and of files from several folders with one name.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { infoOf } from "../../helpers/transaction/mirroring.ts";
import { expectIntact, imagesIn, relocate } from "../../helpers/transaction/relocating.ts";
import { readSnapshotContents } from "../../helpers/transaction/snapshot-contents.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";

const qemu = oracle("qemu-img", "qemu-io");

describe("images that are in the folder already, on others that go there", () => {
  /** vdd: top in the folder, middle.qcow2 elsewhere, low.qcow2 in the folder again, on own.raw elsewhere. */
  async function makeMixed(): Promise<{ bench: Workbench; elsewhere: string }> {
    const [bench, elsewhere] = [await makeWorkbench(), makeFolder()];
    const relative = path.relative(elsewhere, bench.root);
    bench.makeRaw("own.raw", 4);
    bench.makeQcow2(path.join(elsewhere, "low.qcow2"), 5, { name: `${relative}/own.raw`, format: "raw" });
    bench.makeQcow2("middle.qcow2", 6, { name: path.join(elsewhere, "low.qcow2"), format: "qcow2" });
    bench.makeQcow2(path.join(elsewhere, "d.qcow2"), 7, { name: bench.at("middle.qcow2"), format: "qcow2" });
    await bench.remove("vda");
    await bench.add("vdd", path.join(elsewhere, "d.qcow2"));
    return { bench, elsewhere };
  }

  qemu.test("stay, and name them as before, absolutely or relatively, also for snapshots", async () => {
    const { bench, elsewhere } = await makeMixed();
    await bench.snapshot({ vdd: path.join(elsewhere, "d1.qcow2") });
    await bench.snapshot({ vdd: bench.at("d2.qcow2") });
    await bench.rollback("1", ["vdd"]);
    const [shown, kept] = [await bench.content(), await readSnapshotContents(bench, "number")];
    const before = snapshotWorkspace(elsewhere);
    const dry = await relocate(bench, ["vdd"], elsewhere, { dryRun: true });
    expect(snapshotWorkspace(elsewhere)).toEqual(before);
    const changed = dry.actions[0]!.files.filter(({ change }) => change === "change");
    expect(changed.map(({ path: file }) => path.basename(file)).sort()).toEqual(["d.qcow2", "low.qcow2"]);
    const { actions } = await relocate(bench, ["vdd"], elsewhere);
    expect(actions[0]!.notes.join("\n")).toContain("low.qcow2 stays, and names what it stands on own.raw");
    expect(infoOf(path.join(elsewhere, "low.qcow2"))).toMatchObject({ "backing-filename": "own.raw" });
    expect(infoOf(path.join(elsewhere, "d.qcow2"))).toMatchObject({
      "backing-filename": path.join(elsewhere, "middle.qcow2"),
    });
    expect(["own.raw", "middle.qcow2", "d2.qcow2"].map((name) => existsSync(bench.at(name)))).toEqual([
      false,
      false,
      false,
    ]);
    expect(await bench.content()).toEqual(shown);
    expect(await readSnapshotContents(bench, "number")).toEqual(kept);
    await expectIntact(bench);
    await relocate(bench, ["vdd"], bench.root);
    expect(await bench.content()).toEqual(shown);
    expect(await readSnapshotContents(bench, "number")).toEqual(kept);
    await expectIntact(bench);
  });

  test("are refused with --keep, and what they stand on stays where somebody else needs them", async () => {
    const { bench, elsewhere } = await makeMixed();
    const before = snapshotWorkspace(elsewhere);
    const failure = await failureOf(async () => await relocate(bench, ["vdd"], elsewhere, { keep: true }));
    expect(failure).toMatchObject({ code: "E_REFUSED", changed: false });
    expect(snapshotWorkspace(elsewhere)).toEqual(before);
    const low = path.join(elsewhere, "low.qcow2");
    bench.makeQcow2("clone.qcow2", 9, { name: low, format: "qcow2" });
    const [shown, bytes] = [await bench.content(), readFileSync(low)];
    await relocate(bench, ["vdd"], elsewhere);
    expect([existsSync(bench.at("own.raw")), existsSync(bench.at("middle.qcow2"))]).toEqual([true, false]);
    expect(readFileSync(low).equals(bytes)).toBe(true);
    expect(await bench.content()).toEqual(shown);
  });

  test("are as they were after an abort, and are changed with the commit", async () => {
    const { bench, elsewhere } = await makeMixed();
    const [shown, before] = [await bench.content(), snapshotWorkspace(elsewhere)];
    await bench.begin();
    await relocate(bench, ["vdd"], elsewhere);
    await bench.abort();
    expect(snapshotWorkspace(elsewhere)).toEqual(before);
    await bench.begin();
    await relocate(bench, ["vdd"], elsewhere);
    await bench.snapshot({ vdd: path.join(elsewhere, "d9.qcow2") });
    await bench.commit();
    expect(await bench.content()).toEqual(shown);
    await expectIntact(bench);
  });
});

describe("files of one name", () => {
  test("get numbers, past what the folder has by such names, and are named by these", async () => {
    const bench = await makeWorkbench();
    bench.makeQcow2("other/a.qcow2", 5, { name: "../a.qcow2", format: "qcow2" });
    await bench.remove("vda");
    await bench.add("vdd", "other/a.qcow2");
    const [shown, elsewhere] = [await bench.content(), makeFolder()];
    writeFileSync(path.join(elsewhere, "a-2.qcow2"), "mine");
    const told = `${bench.at("a.qcow2")} goes to ${path.join(elsewhere, "a-3.qcow2")}`;
    const dry = await relocate(bench, ["vdd"], elsewhere, { dryRun: true });
    expect(dry.actions[0]!.notes.join("\n")).toContain(told);
    const { actions } = await relocate(bench, ["vdd"], elsewhere);
    expect(actions[0]!.notes.join("\n")).toContain(told);
    expect(imagesIn(elsewhere)).toEqual(["a-2.qcow2", "a-3.qcow2", "a.qcow2", "base.raw"]);
    expect(readFileSync(path.join(elsewhere, "a-2.qcow2"), "utf8")).toBe("mine");
    expect(infoOf(path.join(elsewhere, "a.qcow2"))).toMatchObject({ "backing-filename": "a-3.qcow2" });
    expect([existsSync(bench.at("a.qcow2")), existsSync(bench.at("other/a.qcow2"))]).toEqual([false, false]);
    expect(await bench.content()).toEqual(shown);
  });

  test("are told from a device's own that is there already, and from names that others get", async () => {
    const bench = await makeWorkbench();
    bench.makeQcow2("other/b.raw", 5, { name: "../b.raw", format: "raw" });
    bench.makeQcow2("third/b-2.raw", 6, { name: "../other/b.raw", format: "qcow2" });
    await bench.remove("vdb");
    await bench.add("vdb", "third/b-2.raw", "qcow2");
    const shown = await bench.content();
    await relocate(bench, ["vdb"], bench.root);
    expect(await bench.images()).toMatchObject({ vdb: "b-2.raw" });
    expect(infoOf(bench.at("b-2.raw"))).toMatchObject({ "backing-filename": "b-3.raw" });
    expect(infoOf(bench.at("b-3.raw"))).toMatchObject({ "backing-filename": "b.raw" });
    expect(await bench.content()).toEqual(shown);
  });
});

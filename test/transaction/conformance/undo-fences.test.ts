// What undo takes back in images that were there before: its own fences, proved to be so, and nothing else.

import { execFileSync } from "node:child_process";
import { readFileSync, utimesSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { sampleQcow2 } from "../../helpers/sample-image.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { dieFencing, freeze, isFenced, T0, unfreeze } from "../../helpers/transaction/freezing.ts";
import {
  IDENTICAL,
  judge,
  mirror,
  redoLogs,
  stagingFiles,
  stateOf,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import { type Call, killAt } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const qemu = oracle("qemu-img", "qemu-io");

/** Kinds of images: one whose fence has the name of its owner, and one that has no room for a name. */
const KINDS = [
  ["whose fence is named", false],
  ["whose fence has no room for a name", true],
] as const;

/** A workspace with the device vdd, on d.qcow2. */
async function makeBench(isBare: boolean): Promise<Workbench> {
  const bench = await makeWorkbench();
  const bytes = sampleQcow2({
    virtualSizeBytes: 196_608,
    dataClusters: [0, 3, 40],
    seed: 9,
    clusterBits: 12,
  });
  if (isBare) bytes.fill(1, 150, 151);
  bench.makeFile("d.qcow2", bytes);
  utimesSync(bench.at("d.qcow2"), T0, T0);
  await bench.add("vdd", "d.qcow2");
  return bench;
}

/** Another workspace in which the same image is the device x. */
async function makeOther(bench: Workbench): Promise<Workbench> {
  const other = new Workbench(makeFolder());
  await other.add("x", bench.at("d.qcow2"));
  return other;
}

const isStaging = ({ path }: Call): boolean => path.includes("/.imgtx-");

/** Copies vdd to m.raw with a bitmap, in a process that dies at a call. */
async function dieMirroring(bench: Workbench, isLast: (call: Call) => boolean): Promise<void> {
  const dying = bench.through(killAt(makeNodeStorage(), isLast));
  const copying = mirror(dying, { vdd: "m.raw" }, { format: "raw", bitmap: true }, { markEveryMs: 0 });
  await expect(copying).rejects.toThrow("killed");
}

function dieAtFlush(nth: number): (call: Call) => boolean {
  let flushes = 0;
  return (call) => {
    if (call.name === "file.flush" && isStaging(call)) flushes += 1;
    return flushes === nth;
  };
}

const cancel = async (bench: Workbench) => await bench.run({ kind: "mirror-cancel", devices: ["vdd"] });
const elsewhere = async (bench: Workbench) => await mirror(bench, { vdd: "n.raw" }, { format: "raw" });

describe.each(KINDS)("an unfinished copy with a bitmap, of an image %s", (_, isBare) => {
  qemu.test.each([
    ["a freeze", "is cancelled", true, cancel],
    ["a freeze", "makes room for another mirror", true, elsewhere],
    ["another workspace's freeze", "is cancelled", false, cancel],
  ])("takes nothing from %s that came after it, when it %s", async (__, ___, isOwn, giveUp) => {
    const bench = await makeBench(isBare);
    await dieMirroring(bench, dieAtFlush(2));
    expect((await bench.devices()).map((device) => device.unfinishedCopy?.image)).toContain(
      bench.at("m.raw"),
    );
    // The guest goes on, and counts clusters where the copy's plan would put its bitmap.
    writeGuest(bench.at("d.qcow2"), "qcow2", "write -P 170 100k 32k");
    const [freezer, device] = isOwn ? [bench, "vdd"] : [await makeOther(bench), "x"];
    await freezer.run(freeze([device]));
    const frozen = stateOf(bench.at("d.qcow2"));
    await giveUp(bench);
    expect(stateOf(bench.at("d.qcow2"))).toEqual(frozen);
    expect(stagingFiles(bench)).toEqual([]);
    await freezer.run(unfreeze([device]));
    execFileSync("qemu-img", ["check", "-q", bench.at("d.qcow2")]);
    writeGuest(bench.at("d.qcow2"), "qcow2", "write -P 187 150k 16k", "read -P 170 100k 32k");
  });

  qemu.test("that is cut off amid its redo log is kept without it, and goes on", async () => {
    const bench = await makeBench(isBare);
    const before = readFileSync(bench.at("d.qcow2"));
    await dieMirroring(bench, ({ name, purpose }) => name === "file.flush" && purpose === "redo log");
    expect(redoLogs(bench)).not.toEqual([]);
    expect(isFenced(bench.at("d.qcow2"))).toBe(false);
    expect((await bench.devices()).map((device) => device.unfinishedCopy?.image)).toContain(
      bench.at("m.raw"),
    );
    expect(readFileSync(bench.at("d.qcow2")).equals(before)).toBe(true);
    expect(redoLogs(bench)).toEqual([]);
    await mirror(bench, { vdd: "m.raw" }, { format: "raw", bitmap: true });
    expect(await judge(bench, "vdd")).toBe(IDENTICAL);
    expect(stagingFiles(bench)).toEqual([]);
  });
});

describe.each(KINDS)("a freeze that died before its mark, of an image %s", (_, isBare) => {
  test("is taken back, and takes nothing from a later freeze", async () => {
    const bench = await makeBench(isBare);
    const before = stateOf(bench.at("d.qcow2"));
    await expect(dieFencing(bench).run(freeze(["vdd"]))).rejects.toThrow("killed");
    expect(isFenced(bench.at("d.qcow2"))).toBe(true);
    await bench.session();
    expect(stateOf(bench.at("d.qcow2"))).toEqual(before);
    const other = await makeOther(bench);
    await other.run(freeze(["x"]));
    const frozen = stateOf(bench.at("d.qcow2"));
    await bench.session();
    expect(stateOf(bench.at("d.qcow2"))).toEqual(frozen);
    await other.run(unfreeze(["x"]));
    expect(stateOf(bench.at("d.qcow2"))).toEqual(before);
  });
});

describe("a fence of a dead commit that somebody else has lifted by force", () => {
  qemu.test("is not taken back from whoever froze the image then, and is named", async () => {
    const bench = await makeBench(false);
    const other = await makeOther(bench);
    await expect(dieFencing(bench).run(freeze(["vdd"]))).rejects.toThrow("killed");
    await other.run(unfreeze(["x"], true));
    writeGuest(bench.at("d.qcow2"), "qcow2", "write -P 170 100k 32k");
    await other.run(freeze(["x"]));
    const frozen = stateOf(bench.at("d.qcow2"));
    const [note] = (await bench.session()).recovered;
    expect(note?.text).toContain("somebody has changed its header since imgtx fenced it");
    expect(stateOf(bench.at("d.qcow2"))).toEqual(frozen);
    await other.run(unfreeze(["x"]));
    writeGuest(bench.at("d.qcow2"), "qcow2", "write -P 187 150k 16k", "read -P 170 100k 32k");
  });

  qemu.test("does not hold the transaction up, and the image stays as its guest left it", async () => {
    const bench = await makeBench(false);
    const other = await makeOther(bench);
    const id = await bench.begin();
    await bench.run(freeze(["vdd"]));
    await expect(dieFencing(bench).commit(id)).rejects.toThrow("killed");
    await other.run(unfreeze(["x"], true));
    writeGuest(bench.at("d.qcow2"), "qcow2", "write -P 170 100k 32k");
    const written = stateOf(bench.at("d.qcow2"));
    await bench.abort(id);
    expect(await bench.open()).toEqual([]);
    expect(stateOf(bench.at("d.qcow2"))).toEqual(written);
  });
});

test("a copy of the image that was taken under the fence, and put back in place, loses that fence alone", async () => {
  const bench = await makeBench(false);
  const before = readFileSync(bench.at("d.qcow2"));
  await expect(dieFencing(bench).run(freeze(["vdd"]))).rejects.toThrow("killed");
  const copy = readFileSync(bench.at("d.qcow2"));
  writeFileSync(bench.at("d.qcow2"), copy);
  expect((await bench.session()).recovered).toMatchObject([{ did: "aborted" }]);
  expect(readFileSync(bench.at("d.qcow2")).equals(before)).toBe(true);
});

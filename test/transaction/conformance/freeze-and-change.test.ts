// Freezing in a transaction that changes the image as well, in any order: the image is as the statements say, once.

import { execFileSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { freeze, frozen, isFenced, makeOldBench, unfreeze } from "../../helpers/transaction/freezing.ts";
import {
  IDENTICAL,
  judge,
  listBitmaps,
  mirror,
  redoLogs,
  stateOf,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import type { Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

type Statement = (bench: Workbench) => Promise<unknown>;

const freezeVda: Statement = async (bench) => await bench.run(freeze(["vda"]));
const unfreezeVda: Statement = async (bench) => await bench.run(unfreeze(["vda"]));
const track: Statement = async (bench) => await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
const cancel: Statement = async (bench) => await bench.run({ kind: "mirror-cancel", devices: ["vda"] });
const save: Statement = async (bench) => await bench.savepoint("here");
const goBack: Statement = async (bench) => await bench.rollbackTo("here");

async function commitAll(bench: Workbench, statements: readonly Statement[]): Promise<void> {
  await bench.begin();
  const before = stateOf(bench.at("a.qcow2"));
  for (const run of statements) await run(bench);
  expect(stateOf(bench.at("a.qcow2"))).toEqual(before);
  await bench.commit();
  expect(redoLogs(bench)).toEqual([]);
  const device = (await bench.devices()).find(({ name }) => name === "vda");
  expect(device?.problems).toEqual([]);
}

function refuses(image: string): boolean {
  try {
    execFileSync("qemu-img", ["info", image], { stdio: "pipe" });
    return false;
  } catch (error) {
    return /(frozen|change) by imgtx/.test(String(error));
  }
}

describe("in one commit", () => {
  qemu.test.each<[string, readonly Statement[], number]>([
    ["freeze, then a bitmap", [freezeVda, track], 2],
    ["a bitmap, then freeze", [track, freezeVda], 2],
    ["freeze, a bitmap, and its end", [freezeVda, track, cancel], 0],
    ["a bitmap, freeze, and the end of the bitmap", [track, freezeVda, cancel], 0],
    ["freeze, unfreeze, freeze and a bitmap", [freezeVda, unfreezeVda, freezeVda, track], 2],
    ["a bitmap, and a freeze after a savepoint", [track, save, unfreezeNothing, goBack, freezeVda], 2],
  ])("%s: QEMU refuses the image until unfreeze, and takes it then", async (_, statements, bitmaps) => {
    const bench = await makeOldBench();
    await commitAll(bench, statements);
    expect(await frozen(bench)).toEqual(["vda"]);
    expect(refuses(bench.at("a.qcow2"))).toBe(true);
    await bench.run(unfreeze(["vda"]));
    execFileSync("qemu-img", ["check", "-q", bench.at("a.qcow2")]);
    expect(listBitmaps(bench.at("a.qcow2"))).toHaveLength(bitmaps);
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 64k 64k");
    if (bitmaps === 0) return;
    await mirror(bench, { vda: undefined });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  qemu.test.each<[string, readonly Statement[], number]>([
    ["a bitmap, freeze and unfreeze", [track, freezeVda, unfreezeVda], 2],
    ["freeze, a bitmap and unfreeze", [freezeVda, track, unfreezeVda], 2],
    ["a bitmap, and a freeze that goes back to a savepoint", [track, save, freezeVda, goBack], 2],
  ])("%s: QEMU takes the image", async (_, statements, bitmaps) => {
    const bench = await makeOldBench();
    await commitAll(bench, statements);
    expect([await frozen(bench), isFenced(bench.at("a.qcow2"))]).toEqual([[], false]);
    expect(listBitmaps(bench.at("a.qcow2"))).toHaveLength(bitmaps);
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 64k 64k");
    await mirror(bench, { vda: undefined });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  test.each<[string, readonly Statement[], readonly Statement[], boolean]>([
    ["freeze and unfreeze", [], [freezeVda, unfreezeVda], false],
    ["freeze, and a bitmap that goes back to a savepoint", [], [freezeVda, save, track, goBack], true],
    ["unfreeze and freeze", [freezeVda], [unfreezeVda, freezeVda], true],
    ["unfreeze, and a freeze that goes back", [freezeVda], [unfreezeVda, save, freezeVda, goBack], false],
    ["an unfreeze that goes back", [freezeVda], [save, unfreezeVda, goBack], true],
    ["unfreeze, freeze and unfreeze", [freezeVda], [unfreezeVda, freezeVda, unfreezeVda], false],
  ])(
    "%s leave the image as it was, once it is not frozen any more",
    async (_, first, statements, isFrozen) => {
      const bench = await makeOldBench();
      const before = stateOf(bench.at("a.qcow2"));
      for (const run of first) await run(bench);
      await commitAll(bench, statements);
      expect([await frozen(bench), isFenced(bench.at("a.qcow2"))]).toEqual([
        isFrozen ? ["vda"] : [],
        isFrozen,
      ]);
      if (isFrozen) await bench.run(unfreeze(["vda"]));
      expect(stateOf(bench.at("a.qcow2"))).toEqual(before);
    },
  );

  qemu.test("unfreeze, a bitmap and freeze of a device that was frozen before keep it frozen", async () => {
    const bench = await makeOldBench();
    await freezeVda(bench);
    await commitAll(bench, [unfreezeVda, track, freezeVda]);
    expect(refuses(bench.at("a.qcow2"))).toBe(true);
    await bench.run(unfreeze(["vda"]));
    execFileSync("qemu-img", ["check", "-q", bench.at("a.qcow2")]);
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 64k 64k");
    await mirror(bench, { vda: undefined });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  qemu.test("a new overlay gets a bitmap and the fence", async () => {
    const bench = await makeOldBench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    await track(bench);
    await freezeVda(bench);
    await bench.commit();
    expect([isFenced(bench.at("a1.qcow2")), isFenced(bench.at("a.qcow2"))]).toEqual([true, false]);
    await bench.run(unfreeze(["vda"]));
    execFileSync("qemu-img", ["check", "-q", bench.at("a1.qcow2")]);
    expect(listBitmaps(bench.at("a1.qcow2"))).toHaveLength(2);
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  test("the fence of a base that two devices share goes from the one to the other", async () => {
    const bench = await makeOldBench();
    const before = stateOf(bench.at("a.qcow2"));
    await freezeVda(bench);
    await bench.snapshot({ vda: "a1.qcow2" });
    bench.makeQcow2("x.qcow2", 9, { name: "a.qcow2", format: "qcow2" });
    await bench.add("vdx", "x.qcow2");
    await bench.begin();
    await bench.run(freeze(["vdx"]));
    const failure = await failureOf(async () => await bench.run(unfreeze(["vdx"], true)));
    expect(failure).toMatchObject({ code: "E_IN_USE", image: bench.at("a.qcow2") });
    await unfreezeVda(bench);
    await bench.commit();
    expect(await frozen(bench)).toEqual(["vdx"]);
    expect(isFenced(bench.at("x.qcow2"))).toBe(true);
    expect(stateOf(bench.at("a.qcow2"))).toEqual(before);
  });
});

/** A freeze that is taken back with what comes after it. */
async function unfreezeNothing(bench: Workbench): Promise<void> {
  await freezeVda(bench);
  await unfreezeVda(bench);
}

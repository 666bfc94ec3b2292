// A device by another name: all that is known of it is found by that, whatever was written by the one before.

import { lstatSync, mkdirSync, realpathSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { readTable } from "../../../src/device/index.ts";
import { listGenerations, listSnapshots } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { listBitmaps, mirror, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const to = (device: string, name: string) => ({ kind: "device-rename", device, name }) as const;

const rename = async (bench: Workbench, device: string, name: string) => await bench.run(to(device, name));

async function kept(bench: Workbench): Promise<Record<number, string[]>> {
  const snapshots = await listSnapshots(await bench.session(), {});
  return Object.fromEntries(
    snapshots.map(({ number, devices }) => [number, devices.map(({ device }) => device).sort()]),
  );
}

const namesOf = async (bench: Workbench) => (await bench.devices()).map(({ name }) => name);

/** vda, vdb and vdc in one snapshot, and vda in another one. */
async function makeKept(): Promise<Workbench> {
  const bench = await makeWorkbench();
  await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2", vdc: "c1.qcow2" });
  await bench.snapshot({ vda: "a2.qcow2" });
  return bench;
}

describe("a device with another name", () => {
  test("is what it was, in the view too, and its snapshots are read, gone back to and deleted by that name", async () => {
    const bench = await makeKept();
    const before = await bench.content();
    await rename(bench, "vda", "system");
    expect(await namesOf(bench)).toEqual(["system", "vdb", "vdc"]);
    expect(await bench.content()).toEqual({ system: before["vda"], vdb: before["vdb"], vdc: before["vdc"] });
    expect(realpathSync(bench.at("devices/system"))).toBe(bench.at("a2.qcow2"));
    expect(() => lstatSync(bench.at("devices/vda"))).toThrow(/ENOENT/);
    expect(await kept(bench)).toEqual({ 1: ["system", "vdb", "vdc"], 2: ["system"] });
    await bench.snapshot({ system: "a3.qcow2" });
    const chain = (await bench.devices())[0]!.chain.map(({ image }) => image);
    expect(chain).toHaveLength(5);
    await bench.rollback("1", ["system"]);
    expect((await bench.content())["system"]).toBe(before["vda"]);
    const gone = {
      kind: "snapshot-delete",
      snapshots: ["2"],
      devices: ["system"],
      keepsImages: false,
    } as const;
    await bench.run(gone);
    expect(Object.keys(await kept(bench))).not.toContain("2");
    await bench.run({ ...gone, snapshots: ["1"] });
    expect((await kept(bench))[1]).toEqual(["vdb", "vdc"]);
    expect(await bench.content()).toMatchObject({ system: before["vda"] });
  });

  test("has its history by that name, and not that of a device which had the name before", async () => {
    const bench = await makeKept();
    await rename(bench, "vda", "system");
    await rename(bench, "vdb", "vda");
    const history = async (device: string) =>
      (await listGenerations(await bench.session(), { device })).generations.map(({ summary }) => summary);
    const summary = "snapshot-group vda vdb vdc";
    expect(await history("system")).toEqual([
      "device-rename vda system",
      "snapshot vda",
      summary,
      "device-add vda",
    ]);
    expect(await history("vda")).toEqual(["device-rename vdb vda", summary, "device-add vdb"]);
  });

  test("gets its name back by undo, and again by redo, as often as one likes", async () => {
    const bench = await makeKept();
    await rename(bench, "vda", "system");
    for (let times = 0; times < 2; times += 1) {
      await bench.undo();
      expect(await namesOf(bench)).toEqual(["vda", "vdb", "vdc"]);
      expect(await kept(bench)).toEqual({ 1: ["vda", "vdb", "vdc"], 2: ["vda"] });
      await bench.run({ kind: "redo", isForward: true, force: false });
      expect(await namesOf(bench)).toEqual(["system", "vdb", "vdc"]);
      expect(await kept(bench)).toEqual({ 1: ["system", "vdb", "vdc"], 2: ["system"] });
    }
    await bench.undo();
    await bench.undo();
    expect(await bench.images()).toMatchObject({ vda: "a1.qcow2" });
    expect(await kept(bench)).toEqual({ 1: ["vda", "vdb", "vdc"] });
    await bench.run({ kind: "redo", isForward: true, force: false });
    await bench.run({ kind: "redo", isForward: true, force: false });
    expect(await kept(bench)).toEqual({ 1: ["system", "vdb", "vdc"], 2: ["system"] });
  });

  test("has what a snapshot learned later by that name, when an undo takes both names back", async () => {
    const bench = await makeWorkbench();
    mkdirSync(bench.at("moved"));
    await bench.begin();
    await bench.snapshot({ vdc: "c1.qcow2" });
    await rename(bench, "vdc", "data");
    await bench.commit();
    await bench.run({ kind: "relocate", devices: ["data"], folder: bench.at("moved"), keep: true });
    await bench.undo();
    await bench.undo();
    expect(await bench.images()).toMatchObject({ vdc: "c.qcow2" });
    // It is in the other folder since, where the device writes to nothing.
    const [snapshot] = await listSnapshots(await bench.session(), {});
    expect(snapshot?.devices).toMatchObject([
      { device: "vdc", image: bench.at("moved/c.qcow2"), intact: true },
    ]);
  });

  test("has a mirror still, whose bitmap says what to copy", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdc: "m.qcow2" }, { bitmap: true });
    await rename(bench, "vdc", "data");
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 7 0 64k");
    const outcome = await mirror(bench, { data: "m.qcow2" }, {});
    expect(outcome.actions[0]!.notes.join("; ")).not.toMatch(/not relied on|given up/);
    const [device] = (await bench.devices()).filter(({ name }) => name === "data");
    expect(device!.mirror).toMatchObject({ image: bench.at("m.qcow2") });
    await bench.run({ kind: "mirror-cancel", devices: ["data"] });
    expect(listBitmaps(bench.at("c.qcow2"))).toEqual([]);
  });
});

describe("in a transaction", () => {
  test("two devices change their names through a third, and snapshots before and in it go along", async () => {
    const bench = await makeKept();
    const before = await bench.content();
    await bench.begin();
    await bench.snapshot({ vdb: "b2.qcow2" });
    await bench.run([to("vda", "x"), to("vdb", "vda")]);
    await bench.snapshot({ vda: "b3.qcow2" });
    await rename(bench, "x", "vdb");
    await bench.commit();
    expect(await bench.content()).toEqual({ vda: before["vdb"], vdb: before["vda"], vdc: before["vdc"] });
    expect(await kept(bench)).toEqual({ 1: ["vda", "vdb", "vdc"], 2: ["vdb"], 3: ["vda"], 4: ["vda"] });
    await bench.rollback("2");
    expect((await bench.content())["vdb"]).toBe(before["vda"]);
    await bench.rollback("1", ["vda"]);
    expect((await bench.content())["vda"]).toBe(before["vdb"]);
    const { renames } = await readTable((await bench.session()).workspace);
    expect(renames).toHaveLength(3);
  });

  test("a snapshot after it keeps what a guest has written since, and leads to no snapshot that went before", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vdc: "c1.qcow2" });
    writeGuest(bench.at("c1.qcow2"), "qcow2", "write -P 9 0 64k");
    const gone = { kind: "snapshot-delete", snapshots: ["1"], devices: [], keepsImages: true } as const;
    await bench.begin();
    await rename(bench, "vdc", "data");
    await bench.run(gone);
    await bench.snapshot({ data: "c2.qcow2" });
    await bench.commit();
    const [snapshot] = await listSnapshots(await bench.session(), {});
    expect(snapshot?.devices).toMatchObject([{ device: "data", intact: true, problems: [] }]);
  });

  test("an abort leaves the names, and a dry run tells them", async () => {
    const bench = await makeKept();
    const generation = await bench.generation();
    await bench.begin();
    await rename(bench, "vda", "system");
    await bench.abort();
    const dry = await bench.run([to("vda", "x"), to("x", "y")], { dryRun: true });
    expect(dry.actions.map(({ device, notes }) => [device, notes])).toEqual([
      ["x", ["it was called 'vda'"]],
      ["y", ["it was called 'x'"]],
    ]);
    expect([await namesOf(bench), await bench.generation()]).toEqual([["vda", "vdb", "vdc"], generation]);
  });
});

describe("is refused", () => {
  test.each([
    ["to itself", "vda", "vda", "E_REFUSED"],
    ["to another device's name", "vda", "vdb", "E_EXISTS"],
    ["to what can't be a name", "vda", "../x", "E_USAGE"],
    ["of what is no device", "vdx", "vdy", "E_NO_DEVICE"],
  ])("%s", async (_, device, name, code) => {
    const bench = await makeWorkbench();
    expect(await failureOf(async () => await rename(bench, device, name))).toMatchObject({ code });
  });

  test("to the name of a device that snapshots keep still", async () => {
    const bench = await makeKept();
    await bench.remove("vdc");
    const failure = await failureOf(async () => await rename(bench, "vda", "vdc"));
    expect(failure).toMatchObject({
      code: "E_EXISTS",
      message: expect.stringContaining("snapshot 1 keeps") as string,
    });
    await bench.run({ kind: "snapshot-delete", snapshots: ["1"], devices: ["vdc"], keepsImages: true });
    await rename(bench, "vda", "vdc");
    expect(await kept(bench)).toEqual({ 1: ["vdb", "vdc"], 2: ["vdc"] });
  });

  test("while another transaction holds the device, or the new name", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await rename(bench, "vda", "system");
    const other = bench.elsewhere();
    expect(await failureOf(async () => await rename(other, "vda", "x"))).toMatchObject({
      code: "E_TRANSACTION",
    });
    expect(await failureOf(async () => await rename(other, "vdb", "system"))).toMatchObject({
      code: "E_TRANSACTION",
    });
    await bench.commit();
    expect(await namesOf(bench)).toEqual(["system", "vdb", "vdc"]);
  });
});

test("a frozen device is frozen by its new name, and goes on by that", async () => {
  const bench = await makeWorkbench();
  await bench.run({ kind: "freeze", devices: ["vda"], strict: false });
  await rename(bench, "vda", "system");
  expect((await bench.devices())[0]).toMatchObject({ name: "system", frozen: true, state: "ok" });
  await bench.run({ kind: "unfreeze", devices: ["system"], force: false });
  expect((await bench.devices())[0]).toMatchObject({ frozen: false, state: "ok" });
});

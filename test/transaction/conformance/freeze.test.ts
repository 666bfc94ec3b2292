// A frozen device holds still: its image is fenced, is byte by byte what it was once it is unfrozen, and what
// would move it or write to it is refused.

import { appendFileSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { type DeviceEntry, lockWorkspace, readTable, replaceTable } from "../../../src/device/index.ts";
import { unpackFixture } from "../../helpers/fixtures.ts";
import { sampleQcow2 } from "../../helpers/sample-image.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { oracle } from "../../helpers/oracles.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeBehind } from "../../helpers/transaction/mirroring.ts";
import {
  fingerprintOf,
  freeze,
  frozen,
  isFenced,
  makeOldBench,
  unfreeze,
} from "../../helpers/transaction/freezing.ts";
import { makeWorkbench, NO_WAIT, RUN_ALONE, type Workbench } from "../../helpers/transaction/workbench.ts";

describe("freeze", () => {
  test("fences the active layers, and unfreeze leaves the fingerprints that were", async () => {
    const bench = await makeOldBench();
    const before = [await fingerprintOf(bench, "a.qcow2"), await fingerprintOf(bench, "c.qcow2")];
    const content = await bench.content();
    await bench.run(freeze(["vda", "vdc"]));
    expect(["a.qcow2", "c.qcow2"].map((name) => isFenced(bench.at(name)))).toEqual([true, true]);
    expect(await bench.content()).toEqual(content);
    const [vda] = await bench.devices();
    expect(vda).toMatchObject({ frozen: true, fences: [bench.at("a.qcow2")], problem: null });
    expect(vda?.frozenSince).toMatch(/^20.*Z$/);
    expect(vda?.frozenBy).toBe(bench.storage.host.userName);
    await bench.run(unfreeze(["vda", "vdc"]));
    expect([await fingerprintOf(bench, "a.qcow2"), await fingerprintOf(bench, "c.qcow2")]).toEqual(before);
    expect(await frozen(bench)).toEqual([]);
  });

  test("of a raw image says what can't be kept, and unfreeze what was not", async () => {
    const bench = await makeOldBench();
    const { actions } = await bench.run(freeze(["vdb"]));
    expect(actions[0]?.notes.join()).toContain("a raw image has no place for a fence");
    appendFileSync(bench.at("b.raw"), "a guest was here");
    const outcome = await bench.run(unfreeze(["vdb"]));
    expect(outcome.actions[0]?.notes.join()).toMatch(/b\.raw was changed while it was frozen: size/);
  });

  test("with --strict refuses raw images, and version 2, and changes nothing", async () => {
    const bench = await makeOldBench();
    const before = snapshotWorkspace(bench.root);
    expect(await failureOf(async () => await bench.run(freeze(["vda", "vdb"], true)))).toMatchObject({
      code: "E_REFUSED",
      device: "vdb",
      changed: false,
    });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("of version 2 is refused by --strict, and has no fence without it", async () => {
    const bench = await makeOldBench();
    bench.makeFile(
      "v2.qcow2",
      sampleQcow2({ virtualSizeBytes: 65_536, dataClusters: [0], seed: 1, version: 2 }),
    );
    await bench.add("vd2", "v2.qcow2");
    const before = readFileSync(bench.at("v2.qcow2"));
    const failure = await failureOf(async () => await bench.run(freeze(["vd2"], true)));
    expect(failure.message).toContain("a qcow2 image of version 2 has no place for a fence");
    await bench.run(freeze(["vd2"]));
    expect((await bench.devices()).find(({ name }) => name === "vd2")).toMatchObject({
      frozen: true,
      fences: [],
    });
    expect(readFileSync(bench.at("v2.qcow2")).equals(before)).toBe(true);
  });

  test("says that an external data file has no fence of its own", async () => {
    const bench = await makeOldBench();
    await unpackFixture("data-file.qcow2", bench.root);
    const session = { ...RUN_ALONE, allowPaths: [bench.root], standalone: true };
    const request = { kind: "device-add" as const, device: "vdd", file: bench.at("data-file.qcow2") };
    await bench.run({ ...request, format: "qcow2", allowPaths: [bench.root] }, session);
    const { actions } = await bench.run(freeze(["vdd"]));
    expect(actions[0]?.notes.join()).toContain("data-file.bin has no fence");
    await bench.run(unfreeze(["vdd"]));
  });

  test.each([
    ["frozen again", freeze(["vda"])],
    ["removed", { kind: "device-remove" as const, device: "vda" }],
    ["moved back", { kind: "rollback" as const, devices: ["vda"], to: undefined, isDiscarding: false }],
  ])("a frozen device is not %s", async (_, request) => {
    const bench = await makeOldBench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.run(freeze(["vda"]));
    const standalone = request.kind === "device-remove";
    const failure = await failureOf(async () => await bench.run(request, { standalone }));
    expect(failure).toMatchObject({ code: "E_REFUSED", device: "vda", hint: "`imgtx unfreeze vda` first" });
    expect(failure.message).toContain("it is frozen, since ");
  });

  test("a device that is not frozen is not unfrozen", async () => {
    const bench = await makeOldBench();
    for (const force of [false, true]) {
      const failure = await failureOf(async () => await bench.run(unfreeze(["vda"], force)));
      expect(failure).toMatchObject({ code: "E_REFUSED", device: "vda", message: "it is not frozen" });
    }
  });

  test("a device is named once", async () => {
    const bench = await makeOldBench();
    expect((await failureOf(async () => await bench.run(freeze(["vda", "vda"])))).code).toBe("E_DUPLICATE");
  });
});

describe("a frozen device", () => {
  test("takes a snapshot, stays frozen by the fence below it, and rolls back once it is lifted", async () => {
    const bench = await makeOldBench();
    const content = await bench.content();
    await bench.run(freeze(["vda"]));
    await bench.snapshot({ vda: "a1.qcow2" });
    expect(await frozen(bench)).toEqual(["vda"]);
    expect([isFenced(bench.at("a1.qcow2")), isFenced(bench.at("a.qcow2"))]).toEqual([false, true]);
    await bench.run(unfreeze(["vda"]));
    expect(isFenced(bench.at("a.qcow2"))).toBe(false);
    expect(await bench.content()).toEqual(content);
    await bench.rollback();
    expect(await bench.content()).toEqual(content);
  });

  test("whose image was written to all the same is unfrozen with a word, and is no target of a rollback", async () => {
    const bench = await makeOldBench();
    await bench.run(freeze(["vda"]));
    await bench.snapshot({ vda: "a1.qcow2" });
    const now = new Date();
    utimesSync(bench.at("a.qcow2"), now, now);
    const { actions } = await bench.run(unfreeze(["vda"]));
    expect(actions[0]?.notes.join()).toMatch(/a\.qcow2 was changed while it was frozen: modified/);
    expect((await failureOf(async () => await bench.rollback())).code).toBe("E_CHANGED");
  });

  test("is reopened frozen: the other image gets the fence, the old one is what it was", async () => {
    const bench = await makeOldBench();
    const before = await fingerprintOf(bench, "a.qcow2");
    bench.makeQcow2("other.qcow2", 9);
    await bench.run(freeze(["vda"]));
    const since = (await bench.devices())[0]?.frozenSince;
    await bench.reopen("vda", "other.qcow2");
    expect([isFenced(bench.at("other.qcow2")), isFenced(bench.at("a.qcow2"))]).toEqual([true, false]);
    expect(await fingerprintOf(bench, "a.qcow2")).toEqual(before);
    expect((await bench.devices())[0]).toMatchObject({ frozen: true, frozenSince: since });
    await bench.run(unfreeze(["vda"]));
    expect(isFenced(bench.at("other.qcow2"))).toBe(false);
  });

  test("is reopened to an image above its fence, and below it, with no further fence", async () => {
    const bench = await makeOldBench();
    bench.makeQcow2("over.qcow2", 9, { name: "a.qcow2", format: "qcow2" });
    await bench.run(freeze(["vda"]));
    await bench.reopen("vda", "over.qcow2");
    expect([isFenced(bench.at("over.qcow2")), isFenced(bench.at("a.qcow2"))]).toEqual([false, true]);
    await bench.reopen("vda", "a.qcow2");
    await bench.run(unfreeze(["vda"]));
    expect(isFenced(bench.at("a.qcow2"))).toBe(false);
  });

  test("shares its fenced base: each device is frozen and unfrozen at its own active layer", async () => {
    const bench = await makeOldBench();
    await bench.run(freeze(["vda"]));
    await bench.snapshot({ vda: "a1.qcow2" });
    bench.makeQcow2("x.qcow2", 9, { name: "a.qcow2", format: "qcow2" });
    const added = await bench.add("vdx", "x.qcow2");
    expect(added.actions[0]?.notes.join()).toContain("`imgtx unfreeze vda` ends it");
    await bench.run(freeze(["vdx"]));
    expect(await failureOf(async () => await bench.run(unfreeze(["vdx"], true)))).toMatchObject({
      code: "E_IN_USE",
      image: bench.at("a.qcow2"),
    });
    await bench.run(unfreeze(["vda"]));
    expect([isFenced(bench.at("x.qcow2")), isFenced(bench.at("a.qcow2"))]).toEqual([true, false]);
    const { actions } = await bench.run(unfreeze(["vdx"]));
    expect(actions[0]?.notes).toEqual([]);
    expect(isFenced(bench.at("x.qcow2"))).toBe(false);
  });
});

describe("in a transaction", () => {
  test("an image is not touched before the commit, and an abort leaves it with its times", async () => {
    const bench = await makeOldBench();
    const before = [await fingerprintOf(bench, "a.qcow2"), snapshotWorkspace(bench.root)];
    await bench.begin();
    await bench.run(freeze(["vda"]));
    await bench.snapshot({ vda: "a1.qcow2" });
    expect(await fingerprintOf(bench, "a.qcow2")).toEqual(before[0]);
    await bench.abort();
    expect([await fingerprintOf(bench, "a.qcow2"), snapshotWorkspace(bench.root)]).toEqual(before);
  });

  test("a savepoint keeps the freeze before it, and the commit sets no fence for what came after", async () => {
    const bench = await makeOldBench();
    await bench.begin();
    await bench.run(freeze(["vda"]));
    await bench.savepoint("here");
    await bench.run(freeze(["vdc"]));
    await bench.rollbackTo("here");
    await bench.commit();
    expect([isFenced(bench.at("a.qcow2")), isFenced(bench.at("c.qcow2"))]).toEqual([true, false]);
    expect(await frozen(bench)).toEqual(["vda"]);
  });

  test("a fence is lifted at the commit", async () => {
    const bench = await makeOldBench();
    const before = await fingerprintOf(bench, "a.qcow2");
    await bench.run(freeze(["vda"]));
    await bench.begin();
    await bench.run(unfreeze(["vda"]));
    expect(isFenced(bench.at("a.qcow2"))).toBe(true);
    await bench.commit();
    expect(await fingerprintOf(bench, "a.qcow2")).toEqual(before);
  });

  test("freeze, snapshot and unfreeze in one command get along with its own locks", async () => {
    const bench = await makeOldBench();
    const before = await fingerprintOf(bench, "a.qcow2");
    const snapshot = bench.snapshotRequest({ vda: "a1.qcow2" });
    await bench.run([snapshot, freeze(["vda"]), unfreeze(["vda"])]);
    await bench.run([freeze(["vdc"]), bench.snapshotRequest({ vdc: "c1.qcow2" }), unfreeze(["vdc"])]);
    expect(await frozen(bench)).toEqual([]);
    expect(await fingerprintOf(bench, "a.qcow2")).toEqual(before);
    expect(isFenced(bench.at("c.qcow2"))).toBe(false);
  });

  test("a dry run of them changes nothing", async () => {
    const bench = await makeOldBench();
    const before = [await fingerprintOf(bench, "a.qcow2"), snapshotWorkspace(bench.root)];
    const plan = [freeze(["vda"]), bench.snapshotRequest({ vdc: "c1.qcow2" }), unfreeze(["vda"])];
    const { actions } = await bench.run(plan, { dryRun: true });
    expect(actions.map(({ kind, files }) => [kind, files[0]?.change])).toEqual([
      ["freeze", "fence"],
      ["snapshot", "create"],
      ["unfreeze", "unfence"],
    ]);
    expect([await fingerprintOf(bench, "a.qcow2"), snapshotWorkspace(bench.root)]).toEqual(before);
  });

  test("a header that somebody changed is neither frozen nor lifted over", async () => {
    const bench = await makeOldBench();
    await bench.run(freeze(["vda"]));
    await bench.begin();
    await bench.run(unfreeze(["vda"]));
    const bytes = readFileSync(bench.at("a.qcow2"));
    const { atime, mtime } = statSync(bench.at("a.qcow2"));
    bytes[79] = 1;
    writeFileSync(bench.at("a.qcow2"), bytes);
    utimesSync(bench.at("a.qcow2"), atime, mtime);
    expect((await failureOf(async () => await bench.commit())).code).toBe("E_CHANGED");
    await bench.abort();
    expect(readFileSync(bench.at("a.qcow2")).equals(bytes)).toBe(true);
    const forced = await bench.run(unfreeze(["vda"], true));
    expect(forced.actions[0]?.files).toEqual([{ path: bench.at("a.qcow2"), change: "unfence" }]);
    expect(isFenced(bench.at("a.qcow2"))).toBe(false);
  });
});

describe("a fence that no device knows of", () => {
  async function makeForeign(): Promise<{ bench: Workbench; original: Buffer }> {
    const other = await makeOldBench();
    const original = readFileSync(other.at("c.qcow2"));
    await other.run(freeze(["vdc"]));
    const bench = await makeWorkbench();
    bench.makeFile("foreign.qcow2", readFileSync(other.at("c.qcow2")));
    return { bench, original };
  }

  test("does not keep the image from being added, is told of, and is lifted with --force", async () => {
    const { bench, original } = await makeForeign();
    const { actions } = await bench.add("vdf", "foreign.qcow2");
    expect(actions[0]?.notes.join()).toContain("`imgtx unfreeze --force vdf` ends it");
    const device = (await bench.devices()).find(({ name }) => name === "vdf");
    expect(device).toMatchObject({ frozen: false, fences: [bench.at("foreign.qcow2")] });
    expect((await failureOf(async () => await bench.run(freeze(["vdf"])))).hint).toContain("--force vdf");
    expect((await failureOf(async () => await bench.run(unfreeze(["vdf"])))).message).toBe(
      "it is not frozen",
    );
    const over = await bench.snapshot({ vdf: "over.qcow2" }, {}, { dryRun: true });
    expect(over.actions[0]?.notes.join()).toContain("`imgtx unfreeze --force vdf` ends it");
    const lifted = await bench.run(unfreeze(["vdf"], true));
    expect(lifted.actions[0]?.notes.join()).toContain("imgtx can't tell who relied on it");
    expect(readFileSync(bench.at("foreign.qcow2")).equals(original)).toBe(true);
  });

  test("is lifted of a device that lost its own as well, which is said", async () => {
    const { bench } = await makeForeign();
    await bench.run(freeze(["vdc"]));
    bench.makeFile("copy", readFileSync(bench.at("c.qcow2")));
    const bytes = readFileSync(bench.at("c.qcow2"));
    bytes[72]! &= ~0x40;
    writeFileSync(bench.at("c.qcow2"), bytes);
    const { actions } = await bench.run(unfreeze(["vdc"]));
    expect(actions[0]?.notes.join()).toContain("is gone already: somebody else has lifted it");
  });
});

test("a fence that the table has is written nowhere where its bytes are those of none", async () => {
  const bench = await makeOldBench();
  await bench.run(freeze(["vdc"]));
  const { workspace } = await bench.session();
  const table = await readTable(workspace);
  const image = bench.at("c.qcow2");
  // Of the right image, and what stands there: but what it would put in its place is nobody's header.
  const after = readFileSync(image).subarray(0, 512).toString("base64");
  const before = Buffer.alloc(512, 7).toString("base64");
  const forge = (device: DeviceEntry): DeviceEntry => ({
    ...device,
    frozen: device.frozen && {
      ...device.frozen,
      fences: device.frozen.fences.map((fence) => ({ ...fence, offset: 0, before, after })),
    },
  });
  const lock = await lockWorkspace(workspace, NO_WAIT);
  await replaceTable(workspace, { ...table, devices: table.devices.map(forge) });
  await lock.close();
  const held = readFileSync(image);
  expect((await failureOf(async () => await bench.run(unfreeze(["vdc"])))).code).toBe("E_CHANGED");
  expect(readFileSync(image)).toEqual(held);
  await bench.run(unfreeze(["vdc"], true));
  expect(isFenced(image)).toBe(false);
  expect(readFileSync(image).subarray(0, 4).toString("latin1")).toBe("QFI\xfb");
});

oracle("qemu-io", "qemu-img").test(
  "freeze waits for the commit that brings its image in sync: nothing may be refused after the mark",
  async () => {
    const bench = await makeBehind();
    const id = await bench.begin();
    await bench.reopen("vdc", "m.qcow2", { transaction: id });
    const failure = await failureOf(async () => await bench.run(freeze(["vdc"]), { transaction: id }));
    expect(failure).toMatchObject({ code: "E_REFUSED", device: "vdc", image: bench.at("m.qcow2") });
    await bench.commit(id);
    await bench.run(freeze(["vdc"]));
    expect(await frozen(bench)).toEqual(["vdc"]);
  },
);

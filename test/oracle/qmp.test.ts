// The same QMP, sent to QEMU and to imgtx: what both do alike, and where imgtx differs on purpose.

import { readFileSync } from "node:fs";
import { describe, expect } from "vitest";
import { marksOf } from "../helpers/format/bitmap-oracle.ts";
import { oracle } from "../helpers/oracles.ts";
import {
  chainOf,
  type Commands,
  compareImages,
  isSound,
  mapOf,
  type Side,
  type Trial,
  tryBoth,
  TWO_DISKS,
  writeBoth,
} from "../helpers/qmp/qmp-bench.ts";
import { listBitmaps } from "../helpers/transaction/mirroring.ts";

const { test } = oracle("qemu-storage-daemon", "qemu-img", "qemu-io", "timeout");

const snapshot = (device: string, file: string, more: object = {}) => ({
  type: "blockdev-snapshot-sync",
  data: { "node-name": device, "snapshot-file": file, "snapshot-node-name": `${device}-new`, ...more },
});
const transaction = (...actions: object[]) => ({ execute: "transaction", arguments: { actions } });
const ABORT = { type: "abort", data: {} };

/** Both have made this overlay, with the same chain, map and content, and go on with it alike. */
function expectSameOverlay(trial: Trial, file: string): void {
  for (const side of [trial.qemu, trial.imgtx]) expect(isSound(side, file)).toBe(true);
  expect(chainOf(trial.imgtx, file)).toEqual(chainOf(trial.qemu, file));
  expect(mapOf(trial.imgtx, file, "qcow2")).toEqual(mapOf(trial.qemu, file, "qcow2"));
  expect(compareImages(trial, file, "qcow2")).toBe(0);
  writeBoth(trial, file, "write -q -P 9 96k 1M");
  expect(mapOf(trial.imgtx, file, "qcow2")).toEqual(mapOf(trial.qemu, file, "qcow2"));
  expect(compareImages(trial, file, "qcow2")).toBe(0);
}

function expectBothRefuse({ qemu, imgtx }: Trial): void {
  expect(qemu.answer.error).toBeDefined();
  expect(imgtx.answer.error).toBeDefined();
  expect(imgtx.status).not.toBe(0);
}

function bytesOf(side: Side, file: string): string {
  return readFileSync(`${side.folder}/${file}`).toString("latin1");
}

const BEFORE = ["a.qcow2", "b.raw", "base.raw"];

describe("QEMU and imgtx do the same", () => {
  test("with a group of snapshots: names, formats, chains, maps and content", async () => {
    const trial = await tryBoth(TWO_DISKS, (at) =>
      transaction(snapshot("vda", at("a1.qcow2"), { format: "qcow2" }), snapshot("vdb", at("b1.qcow2"))),
    );
    expect(trial.imgtx.answer).toEqual({ return: {} });
    expect(trial.imgtx.answer).toEqual(trial.qemu.answer);
    expect(trial.imgtx.files).toEqual(trial.qemu.files);
    expect(trial.imgtx.files).toEqual([...BEFORE, "a1.qcow2", "b1.qcow2"].sort());
    expect(trial.imgtx.active).toEqual({ vda: "a1.qcow2", vdb: "b1.qcow2" });
    for (const file of ["a1.qcow2", "b1.qcow2"]) expectSameOverlay(trial, file);
    for (const file of BEFORE) expect(bytesOf(trial.imgtx, file)).toBe(bytesOf(trial.qemu, file));
  });

  test("with the command alone, outside of a transaction", async () => {
    const trial = await tryBoth(TWO_DISKS, (at) => ({
      execute: "blockdev-snapshot-sync",
      arguments: snapshot("vda", at("a1.qcow2")).data,
    }));
    expect([trial.qemu.answer, trial.imgtx.answer]).toEqual([{ return: {} }, { return: {} }]);
    expectSameOverlay(trial, "a1.qcow2");
  });

  test("with bitmaps, those that begin beside a snapshot too, and QEMU marks in them afterwards", async () => {
    const bitmap = (verb: string, data: object) => ({
      type: `block-dirty-bitmap-${verb}`,
      data: { node: "vda", ...data },
    });
    const trial = await tryBoth(TWO_DISKS, (at) =>
      transaction(
        snapshot("vdb", at("b1.qcow2")),
        bitmap("add", { name: "one", persistent: true, granularity: 65_536 }),
        bitmap("add", { name: "two", persistent: true }),
        bitmap("disable", { name: "two" }),
        bitmap("clear", { name: "one" }),
        bitmap("merge", { target: "one", bitmaps: ["two", { node: "vda", name: "two" }] }),
        bitmap("enable", { name: "two" }),
      ),
    );
    expect([trial.qemu.answer, trial.imgtx.answer]).toEqual([{ return: {} }, { return: {} }]);
    // QEMU stores those that one process made in another order.
    const list = ({ folder }: Side) =>
      listBitmaps(`${folder}/a.qcow2`).toSorted((one, other) => one.name.localeCompare(other.name));
    expect(list(trial.imgtx)).toEqual(list(trial.qemu));
    writeBoth(trial, "a.qcow2", "write -q -P 9 96k 100k");
    for (const name of ["one", "two"]) {
      const marks = ({ folder }: Side) => marksOf(`${folder}/a.qcow2`, name);
      expect(await marks(trial.imgtx)).toEqual(await marks(trial.qemu));
    }
    for (const side of [trial.qemu, trial.imgtx]) expect(isSound(side, "a.qcow2")).toBe(true);
  });

  test("with an overlay that somebody else has made", async () => {
    const scene = {
      ...TWO_DISKS,
      images: [...TWO_DISKS.images, "qemu-img create -q -f qcow2 -F qcow2 -b a.qcow2 over.qcow2"],
    };
    const trial = await tryBoth(scene, (at) =>
      transaction(snapshot("vda", at("over.qcow2"), { mode: "existing" }), snapshot("vdb", at("b1.qcow2"))),
    );
    expect([trial.qemu.answer, trial.imgtx.answer]).toEqual([{ return: {} }, { return: {} }]);
    expect(trial.imgtx.files).toEqual(trial.qemu.files);
    expect(trial.imgtx.active).toEqual({ vda: "over.qcow2", vdb: "b1.qcow2" });
    for (const file of ["over.qcow2", "b1.qcow2"]) expectSameOverlay(trial, file);
  });

  test("with blockdev-snapshot, where QEMU knows a node and imgtx the file", async () => {
    const scene = {
      devices: [...TWO_DISKS.devices, { name: "over", file: "over.qcow2", format: "qcow2", isOverlay: true }],
      images: [...TWO_DISKS.images, "qemu-img create -q -f qcow2 -F qcow2 -b a.qcow2 over.qcow2"],
    } as const;
    const trial = await tryBoth(scene, (at) =>
      transaction({
        type: "blockdev-snapshot",
        data: { node: "vda", overlay: at("").includes("/imgtx/") ? at("over.qcow2") : "over" },
      }),
    );
    expect([trial.qemu.answer, trial.imgtx.answer]).toEqual([{ return: {} }, { return: {} }]);
    expect(trial.imgtx.active).toEqual({ vda: "over.qcow2", vdb: "b.raw" });
    expectSameOverlay(trial, "over.qcow2");
  });

  test.each<[string, Commands]>([
    ["an action's type", () => transaction({ type: "blockdev-snap", data: {} })],
    ["a missing argument", () => transaction({ type: "blockdev-snapshot-sync", data: { device: "vda" } })],
    ["an argument's type", (at) => transaction(snapshot("vda", at("x"), { format: 3 }))],
    ["a member that nobody knows", (at) => transaction(snapshot("vda", at("x"), { depth: 3 }))],
    ["a mode", (at) => transaction(snapshot("vda", at("x"), { mode: "new" }))],
    ["arguments that are a list", () => ({ execute: "transaction", arguments: [] })],
    [
      "a member of a property",
      () => ({ execute: "transaction", arguments: { actions: [ABORT], properties: { a: 1 } } }),
    ],
    ["a target whose folder is not there", (at) => transaction(snapshot("vda", at("none/x.qcow2")))],
  ])("when they refuse %s, and make no file", async (_, commands) => {
    const trial = await tryBoth(TWO_DISKS, commands);
    expectBothRefuse(trial);
    expect(trial.imgtx.answer.error?.class).toBe(trial.qemu.answer.error?.class);
    expect([trial.qemu.files, trial.imgtx.files]).toEqual([BEFORE, BEFORE]);
  });

  test("when they do not know a command", async () => {
    const trial = await tryBoth(TWO_DISKS, () => ({ execute: "blockdev-explode", id: 5 }));
    expectBothRefuse(trial);
    expect(trial.imgtx.answer.error?.class).toBe("CommandNotFound");
    expect(trial.qemu.answer).toMatchObject({ error: { class: "CommandNotFound" }, id: 5 });
    expect(trial.imgtx.answer).toMatchObject({ id: 5 });
  });
});

describe("imgtx differs on purpose", () => {
  test("an aborted transaction leaves nothing behind; QEMU leaves the files that it made", async () => {
    const trial = await tryBoth(TWO_DISKS, (at) =>
      transaction(snapshot("vda", at("a1.qcow2")), snapshot("vdb", at("b1.qcow2")), ABORT),
    );
    expectBothRefuse(trial);
    expect(trial.qemu.files).toEqual([...BEFORE, "a1.qcow2", "b1.qcow2"].sort());
    expect(trial.imgtx.files).toEqual(BEFORE);
    expect(trial.imgtx.active).toEqual({ vda: "a.qcow2", vdb: "b.raw" });
    for (const file of BEFORE) expect(bytesOf(trial.imgtx, file)).toBe(bytesOf(trial.qemu, file));
  });

  test("a device that is not there is DeviceNotFound, and undoes the snapshot before it", async () => {
    const trial = await tryBoth(TWO_DISKS, (at) =>
      transaction(snapshot("vda", at("a1.qcow2")), snapshot("vdx", at("x1.qcow2"))),
    );
    expectBothRefuse(trial);
    expect(trial.qemu.answer.error?.class).toBe("GenericError");
    expect(trial.imgtx.answer.error?.class).toBe("DeviceNotFound");
    expect(trial.qemu.files).toEqual([...BEFORE, "a1.qcow2"].sort());
    expect(trial.imgtx.files).toEqual(BEFORE);
  });

  test("a target that exists is refused, whole; QEMU wipes it", async () => {
    const scene = {
      ...TWO_DISKS,
      images: [...TWO_DISKS.images, "qemu-img create -q -f raw precious.raw 1M", "cp precious.raw kept.raw"],
    };
    const trial = await tryBoth(scene, (at) =>
      transaction(snapshot("vda", at("a1.qcow2")), snapshot("vdb", at("precious.raw"))),
    );
    expect(trial.qemu.answer).toEqual({ return: {} });
    expect(bytesOf(trial.qemu, "precious.raw")).not.toBe(bytesOf(trial.qemu, "kept.raw"));
    expect(trial.imgtx.status).toBe(14);
    expect(trial.imgtx.files).toEqual([...BEFORE, "kept.raw", "precious.raw"]);
    expect(bytesOf(trial.imgtx, "precious.raw")).toBe(bytesOf(trial.imgtx, "kept.raw"));
  });

  test("an existing overlay has to stand on the active layer; QEMU takes any", async () => {
    const scene = {
      ...TWO_DISKS,
      images: [...TWO_DISKS.images, "qemu-img create -q -f qcow2 stranger.qcow2 1M"],
    };
    const trial = await tryBoth(scene, (at) =>
      transaction(snapshot("vda", at("stranger.qcow2"), { mode: "existing", format: "qcow2" })),
    );
    expect(trial.qemu.answer).toEqual({ return: {} });
    expect(trial.imgtx.status).toBe(14);
    expect(trial.imgtx.active["vda"]).toBe("a.qcow2");
  });

  test("completion-mode grouped is what imgtx does in any case; QEMU has it for jobs alone", async () => {
    const trial = await tryBoth(TWO_DISKS, (at) => ({
      execute: "transaction",
      arguments: { actions: [snapshot("vda", at("a1.qcow2"))], properties: { "completion-mode": "grouped" } },
    }));
    expect(trial.qemu.answer.error?.desc).toContain("completion-mode");
    expect(trial.imgtx.answer).toEqual({ return: {} });
  });

  test("a transaction without actions is refused: QEMU does nothing, and says that it is done", async () => {
    const trial = await tryBoth(TWO_DISKS, () => transaction());
    expect(trial.qemu.answer).toEqual({ return: {} });
    expect(trial.imgtx.status).toBe(64);
  });

  test("an internal snapshot is taken as QEMU takes it, with what stands beside", async () => {
    const action = { type: "blockdev-snapshot-internal-sync", data: { device: "vda", name: "s" } };
    const trial = await tryBoth(TWO_DISKS, (at) => transaction(snapshot("vdb", at("b1.qcow2")), action));
    for (const { answer, files } of [trial.qemu, trial.imgtx]) {
      expect(answer).toEqual({ return: {} });
      expect(files).toEqual([...BEFORE, "b1.qcow2"].sort());
    }
    for (const side of [trial.qemu, trial.imgtx]) {
      expect(isSound(side, "a.qcow2")).toBe(true);
      expect(bytesOf(side, "a.qcow2").slice(60, 64), "nb_snapshots").toBe("\0\0\0\u0001");
    }
  });
});

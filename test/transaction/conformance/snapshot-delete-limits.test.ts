// What snapshot-delete leaves alone, and what it refuses: it guesses nothing, and takes nothing from others.

import { existsSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import {
  type ActionReport,
  listSnapshots,
  type SnapshotDeleteRequest,
} from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { createOverlay, runWell } from "../../helpers/qemu-programs.ts";
import { listBitmaps, mirrorRequest, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { readSnapshotContents } from "../../helpers/transaction/snapshot-contents.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";
import { snapshotTree, snapshotWorkspace } from "../../helpers/tree.ts";

const qemu = oracle("qemu-io", "qemu-img");

function deleting(number: number, how: Partial<SnapshotDeleteRequest> = {}): SnapshotDeleteRequest {
  return { kind: "snapshot-delete", snapshots: [String(number)], devices: [], keepsImages: false, ...how };
}

const FILES = ["c1.qcow2", "c2.qcow2", "c3.qcow2"];

/** Three snapshots of vdc, each with a little written after it. */
async function makeThree(prepare: (bench: Workbench) => void = () => undefined): Promise<Workbench> {
  const bench = await makeWorkbench();
  prepare(bench);
  for (const [turn, file] of FILES.entries()) {
    await bench.snapshot({ vdc: file });
    writeGuest(bench.at(file), "qcow2", `write -P ${turn + 1} ${turn * 30}k 60k`);
  }
  return bench;
}

/** Deletes it, and holds all that stays to what it was. */
async function deleteWell(bench: Workbench, request: SnapshotDeleteRequest): Promise<ActionReport> {
  const kept = await readSnapshotContents(bench, "number");
  const shown = await bench.content();
  const { actions } = await bench.run(request);
  const left = Object.entries(kept).filter(([key]) => !request.snapshots.includes(key.split(" ")[0] ?? ""));
  expect(await readSnapshotContents(bench, "number")).toEqual(Object.fromEntries(left));
  expect(await bench.content()).toEqual(shown);
  return actions[0]!;
}

function directions({ layersMerged }: ActionReport): string[] {
  return layersMerged.map(({ direction }) => direction);
}

describe("a layer goes", () => {
  qemu.test("up or down, whichever moves less, and a smaller or larger disk stays what it is", async () => {
    const bench = await makeThree();
    writeGuest(bench.at("c3.qcow2"), "qcow2", "write -P 9 0 190k");
    expect(directions(await deleteWell(bench, deleting(3)))).toEqual(["up"]);
    await bench.run({
      kind: "resize",
      device: "vdc",
      sizeBytes: 2 ** 20,
      isRelative: false,
      shrink: false,
      force: false,
    });
    writeGuest((await bench.images())["vdc"] ? bench.at("c3.qcow2") : "", "qcow2", "write -P 8 900k 4k");
    expect(directions(await deleteWell(bench, deleting(1)))).toEqual(["down"]);
    expect(directions(await deleteWell(bench, deleting(2)))).toEqual(["down"]);
    expect(await bench.images()).toMatchObject({ vdc: "c.qcow2" });
    expect(FILES.filter((file) => existsSync(bench.at(file)))).toEqual([]);
  });

  qemu.test("down with its bitmaps, and stays where internal snapshots would be lost", async () => {
    const bench = await makeThree();
    runWell("qemu-img", "snapshot", "-c", "inside", bench.at("c3.qcow2"));
    const { notes, layersMerged } = await deleteWell(bench, deleting(3));
    expect(layersMerged).toEqual([]);
    expect(notes.join("\n")).toContain("c2.qcow2 stays as a layer: ");
    runWell("qemu-img", "snapshot", "-d", "inside", bench.at("c3.qcow2"));
    await bench.run({
      kind: "bitmap-add",
      devices: ["vdc"],
      bitmap: "night",
      isDisabled: false,
      sources: [],
    });
    await bench.snapshot({ vdc: "c4.qcow2" });
    writeGuest(bench.at("c4.qcow2"), "qcow2", "write -P 7 0 190k");
    // What was left before comes along.
    expect(directions(await deleteWell(bench, deleting(4)))).toEqual(["down"]);
    expect(await bench.images()).toMatchObject({ vdc: "c2.qcow2" });
    expect(listBitmaps(bench.at("c2.qcow2")).map(({ name }) => name)).toEqual(["night"]);
    expect(FILES.filter((file) => existsSync(bench.at(file)))).toEqual(["c1.qcow2", "c2.qcow2"]);
  });
});

describe("a layer stays, and goes with the last that needs it", () => {
  qemu.test("for another device", async () => {
    const bench = await makeThree();
    createOverlay(bench.at("d.qcow2"), { name: "c1.qcow2", format: "qcow2" });
    await bench.add("vdd", "d.qcow2");
    const { notes, layersMerged } = await deleteWell(bench, deleting(2));
    expect(layersMerged).toEqual([]);
    expect(notes).toContain(`${bench.at("c1.qcow2")} stays, as a layer needed by 'vdd'`);
    await bench.remove("vdd");
    // Its overlay is still there, and no record knows it.
    expect(directions(await deleteWell(bench, deleting(3)))).toEqual(["down"]);
    rmSync(bench.at("d.qcow2"));
    expect(directions(await deleteWell(bench, deleting(1)))).toEqual(["down"]);
    expect(FILES.filter((file) => existsSync(bench.at(file)))).toEqual([]);
  });

  qemu.test("for a mirror of the layer above, and for an overlay that no record knows", async () => {
    const bench = await makeThree();
    await bench.run(mirrorRequest(bench, { vdc: "m.qcow2" }, { sync: "top" }));
    const { notes } = await deleteWell(bench, deleting(3));
    expect(notes).toContain(`${bench.at("c2.qcow2")} stays, as a layer needed by the mirror of 'vdc'`);
    await bench.run({ kind: "mirror-cancel", devices: ["vdc"] });
    expect(directions(await deleteWell(bench, deleting(2)))).toEqual(["up"]);
    expect(existsSync(bench.at("c2.qcow2"))).toBe(true);
    rmSync(bench.at("m.qcow2"));
    await deleteWell(bench, deleting(1));
    expect(FILES.filter((file) => existsSync(bench.at(file)))).toHaveLength(0);
  });
});

async function expectRefused(bench: Workbench, number: number, expected: object): Promise<void> {
  const before = snapshotWorkspace(bench.root);
  const failure = await failureOf(async () => await bench.run(deleting(number)));
  expect(failure).toMatchObject({ changed: false, device: "vdc", ...expected });
  expect(snapshotWorkspace(bench.root)).toEqual(before);
}

/** The way out that each refusal names: the moment goes, and no image changes. */
async function expectKeptImages(bench: Workbench, number: number): Promise<void> {
  const images = () => snapshotTree(bench.root, [".imgtx"]).filter((line) => !line.startsWith("devices"));
  const before = images();
  const kept = await readSnapshotContents(bench, "number").catch(() => undefined);
  await bench.run(deleting(number, { keepsImages: true }));
  expect(images()).toEqual(before);
  if (!kept) return;
  const left = Object.entries(kept).filter(([key]) => !key.startsWith(`${number} `));
  expect(await readSnapshotContents(bench, "number")).toEqual(Object.fromEntries(left));
}

describe("refused, with a way out, is", () => {
  qemu.test("an image that has changed, or that is missing", async () => {
    const bench = await makeThree();
    const hint = expect.stringContaining("--keep-images") as string;
    writeGuest(bench.at("c1.qcow2"), "qcow2", "write -P 77 0 4k");
    await expectRefused(bench, 2, { code: "E_CHANGED", hint });
    await expectKeptImages(bench, 2);
    renameSync(bench.at("c1.qcow2"), bench.at("away.qcow2"));
    await expectRefused(bench, 3, { code: "E_NOT_FOUND" });
    renameSync(bench.at("away.qcow2"), bench.at("c1.qcow2"));
    await expectKeptImages(bench, 3);
  });

  qemu.test("a device that is frozen, or in the table no more", async () => {
    const bench = await makeThree();
    await bench.run({ kind: "freeze", devices: ["vdc"], strict: false });
    await expectRefused(bench, 2, { code: "E_REFUSED" });
    await bench.run({ kind: "unfreeze", devices: ["vdc"], force: false });
    await bench.remove("vdc");
    const hint = "`imgtx snapshot-delete 2 --device vdc --keep-images` leaves them as they are";
    await expectRefused(bench, 2, { code: "E_REFUSED", hint });
    await expectKeptImages(bench, 2);
  });

  qemu.test("a device that the snapshots do not keep", async () => {
    const bench = await makeThree();
    const failure = await failureOf(async () => await bench.run(deleting(1, { devices: ["vda"] })));
    expect(failure).toMatchObject({ code: "E_REFUSED", device: "vda" });
  });
});

describe("a snapshot whose record is lost", () => {
  qemu.test("is taken away with --keep-images, also where others lead through it", async () => {
    for (const damage of [(file: string) => writeFileSync(file, "no record"), rmSync]) {
      const bench = await makeThree();
      await bench.snapshot({ vdc: "c4.qcow2" }, { withFiles: [bench.makeFile("web.xml", "<domain/>\n")] });
      const kept = await readSnapshotContents(bench, "number");
      for (const number of [2, 4]) {
        const [record = ""] = readdirSync(bench.at(".imgtx/snapshots")).filter((name) =>
          name.startsWith(`00000${number}-`),
        );
        damage(bench.at(`.imgtx/snapshots/${record}`));
        const hint = `\`imgtx snapshot-delete ${number} --keep-images\``;
        const failure = await failureOf(async () => await bench.run(deleting(1)));
        expect(failure).toMatchObject({ changed: false, hint: expect.stringContaining(hint) as string });
        await bench.run(deleting(number, { keepsImages: true }));
      }
      const left = Object.entries(kept).filter(([key]) => key === "1 vdc" || key === "3 vdc");
      expect(await readSnapshotContents(bench, "number")).toEqual(Object.fromEntries(left));
      await deleteWell(bench, deleting(3));
      await deleteWell(bench, deleting(1));
    }
  });

  qemu.test("of a branch that its device has left, by what a generation tells that was on it", async () => {
    const bench = await makeThree();
    const kept = await readSnapshotContents(bench, "number");
    await bench.rollback("1");
    const lost = readdirSync(bench.at(".imgtx/snapshots")).find((name) => name.startsWith("000002-"))!;
    const generation = /-(\d+)\.json$/.exec(lost)![1]!;
    rmSync(bench.at(`.imgtx/snapshots/${lost}`));
    rmSync(bench.at(`.imgtx/history/${generation.padStart(6, "0")}.json`));
    await bench.run(deleting(2, { keepsImages: true }));
    const { "1 vdc": one, "3 vdc": three } = kept;
    expect(await readSnapshotContents(bench, "number")).toMatchObject({ "1 vdc": one, "3 vdc": three });
    await deleteWell(bench, deleting(3));
  });

  test("of what a rollback left, and no device came back to, by what the commit left", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2", vdc: "c1.qcow2" });
    await bench.rollback("1");
    const lost = readdirSync(bench.at(".imgtx/snapshots")).find((name) => name.startsWith("000002-"))!;
    rmSync(bench.at(`.imgtx/snapshots/${lost}`));
    const { actions } = await bench.run(deleting(2, { keepsImages: true }));
    expect(actions.map(({ device, notes }) => [device, notes.at(-1)])).toEqual([
      ["vda", `${bench.at("a1.qcow2")} stays as it is, and no device uses it now`],
      ["vdc", `${bench.at("c1.qcow2")} stays as it is, and no device uses it now`],
    ]);
    expect((await listSnapshots(await bench.session(), {})).map(({ number }) => number)).toEqual([1]);
  });
});

describe("an undo", () => {
  qemu.test("says which moment it can't give back", async () => {
    const bench = await makeThree();
    await bench.run(deleting(3));
    const failure = await failureOf(async () => await bench.undo());
    expect(failure.message).toContain("what snapshot 3 kept, and keeps no more, does not come back");
    await bench.rollback("2");
    await bench.undo();
  });
});

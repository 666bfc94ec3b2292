// snapshot-delete: in every order, each snapshot that stays, and each device, shows what it showed.

import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { describe, expect } from "vitest";
import type { SnapshotDeleteRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { guestDigest, openGuest, openHostImage } from "../../helpers/guest-content.ts";
import { oracle } from "../../helpers/oracles.ts";
import { createOverlay, runWell } from "../../helpers/qemu-programs.ts";
import { killAt } from "../../helpers/storage/watched-storage.ts";
import { writeGuest } from "../../helpers/transaction/mirroring.ts";
import { readSnapshotContents } from "../../helpers/transaction/snapshot-contents.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";

const qemu = oracle("qemu-io");

function deleting(
  snapshots: readonly (string | number)[],
  devices: readonly string[] = [],
): SnapshotDeleteRequest {
  return { kind: "snapshot-delete", snapshots: snapshots.map(String), devices, keepsImages: false };
}

/** Something of its own in each device, over a part of what was there. */
async function write(bench: Workbench, turn: number): Promise<void> {
  for (const { image, format } of await bench.devices()) {
    writeGuest(image, format, `write -P ${turn + 1} ${turn * 20}k 48k`, `write -z ${turn * 9}k 8k`);
  }
}

/** Two devices with four snapshots, 1 to 3 below the present, and 4 on a branch that a rollback has left. */
async function makeBranched(): Promise<Workbench> {
  const bench = await makeWorkbench();
  await bench.remove("vdc");
  for (const turn of [1, 2, 3]) {
    await write(bench, turn);
    await bench.snapshot({}, { kind: "snapshot-group", targets: [], isOfAll: true });
  }
  await write(bench, 4);
  await bench.rollback("2");
  await write(bench, 5);
  return bench;
}

/** The oldest first, the newest first, and from the middle: all 24 give the same. */
const ORDERS = [
  [1, 2, 3, 4],
  [4, 3, 2, 1],
  [2, 1, 4, 3],
];

describe("in each order", () => {
  qemu.test("leaves what stays as it was", async () => {
    for (const order of ORDERS) {
      const bench = await makeBranched();
      const kept = await readSnapshotContents(bench, "number");
      const shown = await bench.content();
      expect(Object.keys(kept)).toHaveLength(8);
      for (const [index, number] of order.entries()) {
        await bench.run(deleting([number]));
        const left = new Set(order.slice(index + 1).map(String));
        const expected = Object.fromEntries(
          Object.entries(kept).filter(([key]) => left.has(key.split(" ")[0] ?? "")),
        );
        expect(await readSnapshotContents(bench, "number"), `${order.join(" ")}: ${number}`).toEqual(
          expected,
        );
        expect(await bench.content(), `${order.join(" ")}: ${number}`).toEqual(shown);
      }
    }
  });
});

describe("several at once", () => {
  qemu.test("are merged once, as the dry run says", async () => {
    const bench = await makeBranched();
    const kept = await readSnapshotContents(bench, "number");
    const shown = await bench.content();
    const before = snapshotWorkspace(bench.root);
    const planned = await bench.run(deleting([1, 2, 4], ["vda"]), { dryRun: true });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    const done = await bench.run(deleting([1, 2, 4], ["vda"]));
    expect(done.actions).toEqual(planned.actions);
    expect(done.actions[0]?.layersMerged).toHaveLength(1);
    const { "1 vda": _one, "2 vda": _two, "4 vda": _four, ...left } = kept;
    expect(await readSnapshotContents(bench, "number")).toEqual(left);
    expect(await bench.content()).toEqual(shown);
    for (const { path, change } of done.actions[0]?.files ?? [])
      expect(existsSync(path)).toBe(change !== "remove");
  });

  qemu.test("all of them leave a device on one image, but for what it stood on before", async () => {
    const bench = await makeBranched();
    const shown = await bench.content();
    const { snapshots } = await bench.run(deleting([1, 2, 3, 4]));
    expect(snapshots).toEqual([]);
    expect(await readSnapshotContents(bench, "number")).toEqual({});
    expect(await bench.content()).toEqual(shown);
    expect(await bench.images()).toEqual({ vda: "a.qcow2", vdb: "b.raw" });
    const images = readdirSync(bench.root).filter((name) => /\.(?:qcow2|raw)$/.test(name));
    expect(images.sort()).toEqual(["a.qcow2", "b.raw", "base.raw", "c.qcow2"]);
  });
});

describe("what no record knows", () => {
  const digestOf = (bench: Workbench, name: string): string =>
    guestDigest(openGuest(openHostImage, bench.at(name), "qcow2"));

  qemu.test("goes on to show what it showed, also over what would be merged down", async () => {
    for (const second of [undefined, { vdc: "c2.qcow2" }]) {
      const bench = await makeBranchless(second);
      const strange = second ? "clones/strange.qcow2" : "strange.qcow2";
      bench.makeFile("clones/README", "a folder\n");
      createOverlay(bench.at(strange), { name: bench.at("c1.qcow2"), format: "qcow2" });
      const shown = [digestOf(bench, strange), await bench.images()];
      await bench.run(deleting([1]));
      // What a device is on it goes on to change under its overlays.
      if (second) await write(bench, 5);
      expect([digestOf(bench, strange), await bench.images()]).toEqual(shown);
    }
  });

  qemu.test("as what a device was on by a generation that is lost, keeps what it may stand on", async () => {
    const bench = await makeBranchless({ vdc: "elsewhere/c2.qcow2" });
    await bench.remove("vdc");
    await bench.add("vdc", bench.makeQcow2("other.qcow2", 9));
    const shown = digestOf(bench, "elsewhere/c2.qcow2");
    for (const name of readdirSync(bench.at(".imgtx/history"))) rmSync(bench.at(`.imgtx/history/${name}`));
    const { actions } = await bench.run(deleting([2, 1]));
    expect(actions[0]?.notes).toContainEqual(expect.stringContaining("which the history lacks"));
    expect(digestOf(bench, "elsewhere/c2.qcow2")).toBe(shown);
    // Nor is anything merged that it may stand on.
    await bench.snapshot({ vda: "a1.qcow2" });
    const kept = await bench.run(deleting([3]));
    expect(kept.actions[0]).toMatchObject({ files: [], layersMerged: [] });
    await bench.snapshot({ vdb: "b1.qcow2" });
    const { actions: forced } = await bench.run({ ...deleting([4]), force: true });
    expect(forced[0]?.layersMerged).toHaveLength(1);
    expect(forced[0]?.notes).toContainEqual(expect.stringContaining("the history has no generation"));
  });

  qemu.test("as internal snapshots in a layer, keeps that, and is not discarded", async () => {
    const bench = await makeBranchless();
    await bench.run({ kind: "internal-snapshot-create", devices: ["vdc"], snapshot: "inside" });
    expect(
      await failureOf(
        async () => await bench.run({ kind: "rollback", devices: ["vdc"], to: "1", isDiscarding: true }),
      ),
    ).toMatchObject({ code: "E_REFUSED", image: bench.at("c1.qcow2") });
    await bench.rollback("1", ["vdc"]);
    const { actions } = await bench.run(deleting([2]));
    expect(actions[0]?.files).toEqual([]);
    expect(existsSync(bench.at("c1.qcow2"))).toBe(true);
  });
});

describe("cut off when the header of an overlay is changed, and before the table knows", () => {
  qemu.test.each([
    ["a fence", "redo log: fence lifted"],
    ["none", "applied"],
  ])(
    "of one that has %s leaves the snapshot that keeps it intact, and says what nobody can tell",
    async (fence, last) => {
      const bench = await makeBranchless({ vdc: "c2.qcow2" });
      if (fence === "none")
        runWell("qemu-img", "amend", "-f", "qcow2", "-o", "compat=0.10", bench.at("c2.qcow2"));
      await bench.snapshot({ vdc: "c3.qcow2" });
      const { "1 vdc": _gone, ...kept } = await readSnapshotContents(bench, "number");
      const image = bench.at("c2.qcow2");
      let isChanged = false;
      const dying = killAt(bench.storage, ({ name, purpose }) => {
        const wasChanged = isChanged;
        isChanged ||= name === "file.flush" && purpose === last;
        return wasChanged;
      });
      await expect(bench.through(dying).run(deleting([1]))).rejects.toThrow("killed");
      const { recovered } = await bench.session();
      expect(recovered[0]?.text).toContain(`${image} after imgtx changed it can't be told`);
      expect(await readSnapshotContents(bench, "number")).toEqual(kept);
    },
  );
});

/** A device on an overlay of a snapshot, and a second one over that where it is named. */
async function makeBranchless(second?: Record<string, string>): Promise<Workbench> {
  const bench = await makeWorkbench();
  await bench.snapshot({ vdc: "c1.qcow2" });
  writeGuest(bench.at("c1.qcow2"), "qcow2", "write -P 4 0 8k");
  mkdirSync(bench.at("elsewhere"));
  if (second) await bench.snapshot(second);
  return bench;
}

describe("in a transaction", () => {
  qemu.test("follows snapshots that it takes, which keep what they keep", async () => {
    const bench = await makeBranched();
    const kept = await readSnapshotContents(bench, "number");
    const shown = await bench.content();
    const id = await bench.begin();
    const all = { kind: "snapshot-group", targets: [], isOfAll: true } as const;
    await bench.snapshot({}, { ...all, name: "a" });
    await bench.snapshot({}, { ...all, name: "b" });
    await bench.run(deleting([1, 2, 3]));
    await bench.commit(id);
    const [vda, vdb] = [`true ${shown["vda"]}`, `true ${shown["vdb"]}`];
    expect(await readSnapshotContents(bench, "number")).toEqual({
      "4 vda": kept["4 vda"],
      "4 vdb": kept["4 vdb"],
      "5 vda": vda,
      "5 vdb": vdb,
      "6 vda": vda,
      "6 vdb": vdb,
    });
    expect(await bench.content()).toEqual(shown);
    // What they are called by their numbers stands on each other as before.
    for (const number of [5, 4, 6]) await bench.run(deleting([number]));
    expect(await bench.content()).toEqual(shown);
    expect(await readSnapshotContents(bench, "number")).toEqual({});
  });

  qemu.test("follows other deletions, and leaves for later what these change at the commit", async () => {
    for (const order of ORDERS) {
      const bench = await makeBranched();
      const kept = await readSnapshotContents(bench, "number");
      const shown = await bench.content();
      await bench.begin();
      const notes: string[] = [];
      for (const [turn, number] of order.entries()) {
        if (turn > 0) await bench.snapshot({}, { kind: "snapshot-group", targets: [], isOfAll: true });
        const { actions } = await bench.run(deleting([number]));
        notes.push(...actions.flatMap((action) => action.notes));
      }
      expect(notes.join("\n")).toContain("an earlier action of the transaction");
      await bench.commit();
      const taken = [5, 6, 7].flatMap((number) =>
        ["vda", "vdb"].map((device) => [`${number} ${device}`, `true ${shown[device]}`] as const),
      );
      expect(Object.keys(kept)).toHaveLength(8);
      expect(await readSnapshotContents(bench, "number"), order.join(" ")).toEqual(Object.fromEntries(taken));
      expect(await bench.content()).toEqual(shown);
      for (const number of [6, 7, 5]) await bench.run(deleting([number]));
      expect(await bench.content()).toEqual(shown);
    }
  });
});

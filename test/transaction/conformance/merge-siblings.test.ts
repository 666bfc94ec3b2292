// A merge with --rebase-siblings: overlays of others on what changes, or goes, show what they showed.

import { execFileSync } from "node:child_process";
import { statfsSync, statSync, writeFileSync } from "node:fs";
import { describe, expect, onTestFinished } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { run, runWell, startQemuDaemon } from "../../helpers/qemu-programs.ts";
import { killAt } from "../../helpers/storage/watched-storage.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import {
  compareWithBefore,
  type MergeChoice,
  makeChain,
  mergeRequest,
} from "../../helpers/transaction/merging.ts";
import {
  atNthAfterMark,
  IDENTICAL,
  infoOf,
  judge,
  mirror,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import type { Workbench } from "../../helpers/transaction/workbench.ts";
import { readSnapshotContents } from "../../helpers/transaction/snapshot-contents.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";

const qemu = oracle("qemu-img", "qemu-io");
const NAMES = ["base.qcow2", "a.qcow2", "b.qcow2", "top.qcow2"];
const IN_THE_MIDDLE = { from: "b.qcow2", into: "base.qcow2", rebaseSiblings: true };
const ALL = { into: "base.qcow2", rebaseSiblings: true };

interface Overlay {
  readonly name: string;
  readonly below: string;
  readonly words?: readonly string[];
}

const ON_BASE = { name: "s.qcow2", below: "base.qcow2" };
const OVERLAYS: readonly Overlay[] = [
  ON_BASE,
  { name: "t.qcow2", below: "a.qcow2", words: ["-o", "cluster_size=512"] },
  { name: "far/u.qcow2", below: "b.qcow2" },
  { name: "v.qcow2", below: "t.qcow2" },
];

/** Overlays with something of their own, and what they show. */
function makeOverlays(bench: Workbench, overlays: readonly Overlay[] = OVERLAYS): void {
  for (const { name, below, words = [] } of overlays) {
    bench.makeFile(`${name}/../README`, "images\n");
    const backing = ["-b", name.includes("/") ? `../${below}` : below, "-F", "qcow2"];
    runWell("qemu-img", "create", "-q", "-f", "qcow2", ...words, ...backing, bench.at(name));
    writeGuest(bench.at(name), "qcow2", "write -P 77 330k 3k", "write -z 880k 128k");
    runWell("qemu-img", "convert", "-O", "raw", bench.at(name), bench.at(`${name}.raw`));
  }
}

/** What differs of them by now, or is not sound. */
function spoiled(bench: Workbench, overlays: readonly Overlay[] = OVERLAYS): string[] {
  return overlays.flatMap(({ name }) => {
    const image = bench.at(name);
    const isSame = run("qemu-img", "compare", image, bench.at(`${name}.raw`)).status === 0;
    return isSame && run("qemu-img", "check", "-q", image).status === 0 ? [] : [name];
  });
}

const standsOn = (bench: Workbench, name: string) => infoOf(bench.at(name))["backing-filename"];

async function merge(bench: Workbench, how: MergeChoice, dryRun = false) {
  return await bench.run(mergeRequest(bench, ["vda"], how), { dryRun });
}

describe("siblings of a merge", () => {
  qemu.test("in the middle of a chain get what differs alone; qemu-img commit spoils them", async () => {
    const bench = await makeChain(NAMES);
    makeOverlays(bench);
    await bench.add("vdb", "v.qcow2");
    // In another folder, and so known by the history alone.
    await bench.add("vdc", "far/u.qcow2");
    await bench.remove("vdc");
    const before = snapshotWorkspace(bench.root);
    const said = JSON.stringify((await merge(bench, IN_THE_MIDDLE, true)).actions);
    expect(said).toMatch(/s\.qcow2 gets first what it would lose, at most \d/);
    expect(said).toMatch(/t\.qcow2 gets first what it would lose, at most \d/);
    expect(said).toContain(`${bench.at("far/u.qcow2")} stands on the result from now on`);
    expect(snapshotWorkspace(bench.root)).toEqual(before);

    await merge(bench, IN_THE_MIDDLE);
    expect(spoiled(bench)).toEqual([]);
    expect(await compareWithBefore(bench)).toBe(IDENTICAL);
    const names = OVERLAYS.map(({ name }) => standsOn(bench, name));
    expect(names).toEqual(["base.qcow2", "base.qcow2", "../base.qcow2", "t.qcow2"]);
    // As much as the merged ones have over it, and no more.
    expect(statSync(bench.at("s.qcow2")).size).toBeLessThan(1400 * 1024);
    const vdb = (await bench.devices()).find(({ name }) => name === "vdb");
    expect(vdb).toMatchObject({ state: "ok", chain: [{}, {}, { image: bench.at("base.qcow2") }] });

    const other = await makeChain(NAMES);
    makeOverlays(other);
    runWell("qemu-img", "commit", "-q", "-d", "-b", other.at("base.qcow2"), other.at("b.qcow2"));
    expect(spoiled(other)).toContain("s.qcow2");
  });

  qemu.test("stand on it no more where the device goes onto the image, and its guest writes", async () => {
    const bench = await makeChain(NAMES);
    makeOverlays(bench);
    await bench.add("vdb", "v.qcow2");
    await merge(bench, ALL);
    expect(await compareWithBefore(bench)).toBe(IDENTICAL);
    writeGuest(bench.at("base.qcow2"), "qcow2", "write -P 99 0 4M");
    // The one in another folder is not known to anybody.
    const known = OVERLAYS.filter(({ name }) => !name.startsWith("far/"));
    expect(spoiled(bench, known)).toEqual([]);
    expect(known.map(({ name }) => standsOn(bench, name))).toEqual([undefined, undefined, "t.qcow2"]);
  });

  qemu.test("may be larger or smaller, of an old version, or have a data file", async () => {
    const bench = await makeChain(NAMES, { sizes: ["2M", "4M", "4M", "4M"] });
    const overlays = [
      { name: "large.qcow2", below: "base.qcow2", words: ["-o", "size=6M,compat=0.10"] },
      { name: "small.qcow2", below: "a.qcow2", words: ["-o", "size=1M,extended_l2=on"] },
      {
        name: "data.qcow2",
        below: "a.qcow2",
        words: ["-o", `data_file=${bench.at("data.raw")},cluster_size=2M`],
      },
    ];
    makeOverlays(bench, overlays);
    await merge(bench, IN_THE_MIDDLE);
    expect(spoiled(bench, overlays)).toEqual([]);
    expect(await compareWithBefore(bench)).toBe(IDENTICAL);
  });

  qemu.test("keep their content through a merge of merges in one transaction", async () => {
    const bench = await makeChain(NAMES);
    makeOverlays(bench, [ON_BASE]);
    await bench.begin();
    await merge(bench, { from: "b.qcow2", into: "a.qcow2", rebaseSiblings: true });
    await merge(bench, { from: "a.qcow2", into: "base.qcow2", rebaseSiblings: true });
    await bench.commit();
    expect(spoiled(bench, [ON_BASE])).toEqual([]);
    expect(await compareWithBefore(bench)).toBe(IDENTICAL);
  });

  qemu.test("keep it where a guest writes to what is merged before a recovery", async () => {
    const bench = await makeChain(NAMES, { words: ["-o", "compat=0.10"] });
    const known = OVERLAYS.filter(({ name }) => !name.startsWith("far/"));
    makeOverlays(bench, known);
    const dying = bench.through(killAt(makeNodeStorage(), atNthAfterMark("file.write", "s.qcow2", 4)));
    await expect(dying.run(mergeRequest(bench, ["vda"], ALL))).rejects.toThrow("killed");
    for (const disk of ["top.qcow2", "before.raw"]) {
      writeGuest(
        bench.at(disk),
        disk.endsWith("raw") ? "raw" : "qcow2",
        "write -P 99 0 64k",
        "write -P 98 3M 64k",
      );
    }
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expect(await compareWithBefore(bench)).toBe(IDENTICAL);
    expect(spoiled(bench, known)).toEqual([]);
  });
});

describe("mirrors that stand on what a merge changes", () => {
  const IN_SYNC = "it is in sync with the device already; nothing was copied";

  /** The device on its four layers, a mirror of its active layer beside, and another device's on the base. */
  async function makeMirrored(): Promise<Workbench> {
    const bench = await makeChain(NAMES);
    makeOverlays(bench, [ON_BASE]);
    await bench.add("vdb", "s.qcow2");
    await mirror(bench, { vda: "m.qcow2", vdb: "n.qcow2" }, { sync: "top", relative: true });
    return bench;
  }

  async function expectCopies(bench: Workbench): Promise<void> {
    for (const device of ["vda", "vdb"]) expect(await judge(bench, device)).toBe(IDENTICAL);
    expect(spoiled(bench, [ON_BASE])).toEqual([]);
    const states = (await bench.devices()).map(({ state, problems }) => [state, problems]);
    expect(states).toEqual([
      ["ok", []],
      ["ok", []],
    ]);
  }

  qemu.test.each([
    ["in the middle", IN_THE_MIDDLE, ["base.qcow2", "base.qcow2"]],
    [
      "right below the active layer",
      { ...IN_THE_MIDDLE, from: "b.qcow2", into: "a.qcow2" },
      ["a.qcow2", "base.qcow2"],
    ],
    ["of all", ALL, [undefined, undefined]],
  ] as const)("get what they would lose, %s, and are brought in sync after that", async (_, how, below) => {
    const bench = await makeMirrored();
    const { actions } = await merge(bench, how);
    expect(actions[0]?.files).toContainEqual({ path: bench.at("m.qcow2"), change: "change" });
    expect(["m.qcow2", "n.qcow2"].map((name) => standsOn(bench, name))).toEqual(below);
    await expectCopies(bench);
    // Its guest goes on, and writes to what it is on now.
    const active = (await bench.devices())[0]?.image ?? "";
    writeGuest(active, "qcow2", "write -P 99 1M 300k");
    await mirror(bench, { vda: undefined, vdb: undefined });
    await expectCopies(bench);
    await bench.reopen("vda", "m.qcow2");
    expect(run("qemu-img", "compare", active, bench.at("m.qcow2")).output.trim()).toBe(IDENTICAL);
  });

  qemu.test("are not synced by the transaction that merges, and stay in sync", async () => {
    const bench = await makeMirrored();
    await bench.begin();
    await merge(bench, IN_THE_MIDDLE);
    const failure = await failureOf(async () => await mirror(bench, { vda: undefined }));
    expect(failure).toMatchObject({
      code: "E_REFUSED",
      changed: false,
      hint: "commit the transaction first",
    });
    await bench.commit();
    await expectCopies(bench);
    const { actions } = await mirror(bench, { vda: undefined, vdb: undefined });
    expect(actions.map(({ notes }) => notes)).toEqual([[IN_SYNC], [IN_SYNC]]);
  });

  qemu.test("that differ from their devices are not taken for copies of them", async () => {
    const bench = await makeMirrored();
    // From here on it has what the base has in its own layer, and the mirror only reads it.
    await bench.run({ kind: "pull", devices: ["vdb"], base: undefined });
    writeGuest(bench.at("base.qcow2"), "qcow2", "write -P 55 2M 64k");
    await merge(bench, IN_THE_MIDDLE);
    const { actions } = await mirror(bench, { vdb: undefined });
    expect(actions[0]?.notes).not.toContain(IN_SYNC);
    expect(await judge(bench, "vdb")).toBe(IDENTICAL);
  });
});

describe("what snapshots keep", () => {
  qemu.test("stays what it was, in a branch, of another device, and above what is merged", async () => {
    const bench = await makeChain(NAMES);
    makeOverlays(bench);
    await bench.add("vdb", "v.qcow2");
    await bench.snapshot({ vda: "a1.qcow2", vdb: "v1.qcow2" }, { name: "mon" });
    writeGuest(bench.at("a1.qcow2"), "qcow2", "write -P 55 2M 64k");
    writeGuest(bench.at("v1.qcow2"), "qcow2", "write -P 56 2M 64k");
    await bench.snapshot({ vdb: "v2.qcow2" }, { name: "tue" });
    // What it was on goes on as a branch of its own.
    await bench.rollback("mon", ["vda"]);
    const kept = await readSnapshotContents(bench, "name");
    const { actions } = await merge(bench, IN_THE_MIDDLE);
    expect(actions[0]?.snapshotsGivenUp ?? []).toEqual([]);
    expect(await readSnapshotContents(bench, "name")).toEqual(kept);
    const known = OVERLAYS.filter(({ name }) => !name.startsWith("far/"));
    expect(spoiled(bench, known)).toEqual([]);

    // The device goes onto what it keeps itself: that is given up, and a branch of it is not.
    await merge(bench, { into: "top.qcow2", rebaseSiblings: true });
    const left = await readSnapshotContents(bench, "name");
    expect(kept).toMatchObject(left);
    expect(Object.keys(kept).filter((key) => !(key in left))).toEqual(["mon vda"]);
    await bench.rollback("tue", ["vdb"]);
    expect(await readSnapshotContents(bench, "name")).toMatchObject(left);
  });
});

describe("a merge past siblings is refused", () => {
  async function expectRefused(bench: Workbench, how: MergeChoice, expected: object): Promise<void> {
    const before = snapshotWorkspace(bench.root);
    expect(await failureOf(async () => await merge(bench, how))).toMatchObject({
      changed: false,
      ...expected,
    });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  }

  oracle("qemu-storage-daemon").test("where somebody has one open, which is named", async () => {
    const bench = await makeChain(NAMES);
    makeOverlays(bench, [ON_BASE]);
    const daemon = await startQemuDaemon(bench.at("s.qcow2"), bench.root, true);
    try {
      await expectRefused(bench, IN_THE_MIDDLE, { code: "E_LOCKED", image: bench.at("s.qcow2") });
    } finally {
      await daemon.stop();
    }
  });

  qemu.test("where one has internal snapshots", async () => {
    const bench = await makeChain(NAMES);
    makeOverlays(bench, [ON_BASE]);
    runWell("qemu-img", "snapshot", "-c", "one", bench.at("s.qcow2"));
    await expectRefused(bench, IN_THE_MIDDLE, { code: "E_REFUSED", image: bench.at("s.qcow2") });
  });

  qemu.test("of two devices that are in each other's way; one after the other they are merged", async () => {
    const bench = await makeChain(NAMES.slice(0, 2));
    makeOverlays(bench, [ON_BASE]);
    await bench.add("vdb", "s.qcow2");
    const both = mergeRequest(bench, ["vda", "vdb"], { rebaseSiblings: true });
    expect(await failureOf(async () => await bench.run(both))).toMatchObject({ code: "E_REFUSED" });
    await merge(bench, { rebaseSiblings: true });
    expect(spoiled(bench, [ON_BASE])).toEqual([]);
  });
});

describe("a device on the same layers above", () => {
  qemu.test("goes along, and what is merged goes", async () => {
    const bench = await makeChain([...NAMES, "x.qcow2"]);
    makeOverlays(bench, [{ name: "y.qcow2", below: "top.qcow2" }]);
    await bench.add("vdb", "y.qcow2");
    await merge(bench, { from: "b.qcow2", into: "a.qcow2" });
    for (const { name, state, chain } of await bench.devices()) {
      expect([name, state, ...chain.map(({ image }) => image)]).not.toContain(bench.at("b.qcow2"));
      expect(state).toBe("ok");
    }
    expect(() => statSync(bench.at("b.qcow2"))).toThrow("ENOENT");
  });
});

describe("a full disk", () => {
  oracle("root", "mount", "umount", "qemu-img", "qemu-io").test.each([256, 1408, 4096])(
    "with %i KiB left has nothing changed by a merge past siblings, or all of it",
    async (left) => {
      const folder = makeFolder();
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=40m", "imgtx-test", folder]);
      onTestFinished(() => void execFileSync("umount", ["-l", folder]));
      const bench = await makeChain(NAMES, {}, folder);
      const known = OVERLAYS.filter(({ name }) => !name.startsWith("far/"));
      makeOverlays(bench, known);
      const { bavail, bsize } = statfsSync(folder);
      writeFileSync(`${folder}/filler`, new Uint8Array(Math.max(0, bavail * bsize - left * 1024)));
      const before = snapshotWorkspace(folder);
      const outcome = await merge(bench, IN_THE_MIDDLE).then(
        () => "done",
        (error: unknown) => (error as { code?: string }).code,
      );
      expect(["done", "E_NO_SPACE"]).toContain(outcome);
      if (outcome !== "done") expect(snapshotWorkspace(folder)).toEqual(before);
      expect(await compareWithBefore(bench)).toBe(IDENTICAL);
      expect(spoiled(bench, known)).toEqual([]);
    },
  );
});

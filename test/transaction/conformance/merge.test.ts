// Overlays that are merged down: the image that gets them is what qemu-img makes of a copy, of every layout, and the device
// shows what it showed.

import { chmodSync, existsSync } from "node:fs";
import path from "node:path";
import { describe, expect } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { createOverlay, run, runWell } from "../../helpers/qemu-programs.ts";
import { LoopDisk } from "../../helpers/loop-disk.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { compareWithBefore, makeChain, mergeRequest } from "../../helpers/transaction/merging.ts";
import { IDENTICAL, infoOf, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");
const M = 1024 ** 2;
const SIZE = 8 * M + 512;

/** How base and overlay are made: the words of `qemu-img create`. */
interface Layout {
  readonly base: string;
  readonly overlay: string;
  readonly more?: readonly string[];
  /** Of the base. */
  readonly size?: number;
}

const LAYOUTS: Readonly<Record<string, Layout>> = {
  plain: { base: "-f qcow2", overlay: "" },
  v2: { base: "-f qcow2 -o compat=0.10,cluster_size=4k", overlay: "-o compat=0.10" },
  small: { base: "-f qcow2 -o cluster_size=512,refcount_bits=1", overlay: "-o cluster_size=2M" },
  large: { base: "-f qcow2 -o cluster_size=2M", overlay: "-o cluster_size=512" },
  extended: {
    base: "-f qcow2 -o cluster_size=16k,extended_l2=on",
    overlay: "-o cluster_size=16k,extended_l2=on",
  },
  lazy: { base: "-f qcow2 -o lazy_refcounts=on", overlay: "-o lazy_refcounts=on" },
  raw: { base: "-f raw", overlay: "-o cluster_size=4k" },
  data: { base: "-f qcow2 -o data_file=FOLDER/data-base.data", overlay: "-o data_file=FOLDER/data.data" },
  "raw-data": { base: "-f qcow2 -o data_file=FOLDER/rd.data,data_file_raw=on", overlay: "" },
  // Smaller ones grow first.
  "grows-plain": { base: "-f qcow2", overlay: "", size: 3 * M + 512 },
  "grows-v2": { base: "-f qcow2 -o compat=0.10,cluster_size=512", overlay: "", size: 2 * M },
  "grows-raw": { base: "-f raw", overlay: "-o cluster_size=512", size: 2 * M + 512 },
  "grows-data": { base: "-f qcow2 -o data_file=FOLDER/gd.data,data_file_raw=on", overlay: "", size: 2 * M },
  snapshots: { base: "-f qcow2 -o cluster_size=4k", overlay: "", more: ["snapshot -c one BASE"] },
};
const NAMES = Object.keys(LAYOUTS);

/** A base, and an overlay on it which has data, zeros, and holes where it was discarded. */
function makePair(folder: string, name: string): void {
  const { base, overlay, more = [], size = SIZE } = LAYOUTS[name]!;
  const words = (text: string) =>
    text
      .replace("FOLDER", folder)
      .split(" ")
      .filter((word) => word !== "");
  const [below, above] = [`${name}-base`, name].map((one) => path.join(folder, `${one}.img`));
  runWell("qemu-img", "create", "-q", ...words(base), below!, String(size));
  const format = base.includes("-f raw") ? "raw" : "qcow2";
  writeGuest(below!, format, "write -P 7 3k 900k", "write -P 8 1047k 700k", `write -P 9 ${size - 1024} 1024`);
  for (const line of more)
    runWell("qemu-img", ...line.split(" ").map((word) => (word === "BASE" ? below! : word)));
  createOverlay(above!, { name: below!, format }, String(SIZE), ...words(overlay));
  writeGuest(above!, "qcow2", "write -P 1 1M 300k", "write -P 2 5k 1536", `write -P 3 ${SIZE - 512} 512`);
  writeGuest(
    above!,
    "qcow2",
    "write -z 2100k 256k",
    "write -z -u 200k 64k",
    "discard 64k 64k",
    "write -P 4 6M 64k",
  );
}

function compare(one: string, other: string): string {
  return run("qemu-img", "compare", one, other).output;
}

describe("a merged overlay", () => {
  qemu.test(
    "leaves in its base what qemu-img commit leaves in a copy, in every layout, and goes",
    async () => {
      const bench = new Workbench(makeFolder());
      const theirs = path.join(bench.root, "theirs");
      bench.makeFile("theirs/README", "copies for qemu-img\n");
      for (const name of NAMES) {
        makePair(bench.root, name);
        makePair(theirs, name);
        await bench.add(name, bench.at(`${name}.img`), "qcow2");
        runWell("qemu-img", "convert", "-O", "raw", bench.at(`${name}.img`), bench.at(`${name}.before`));
        runWell("qemu-img", "commit", "-q", path.join(theirs, `${name}.img`));
      }
      await bench.run(mergeRequest(bench, NAMES));
      for (const name of NAMES) {
        const [ours, other] = [bench.at(`${name}-base.img`), path.join(theirs, `${name}-base.img`)];
        expect(existsSync(bench.at(`${name}.img`)), name).toBe(false);
        expect(compare(ours, other), name).toContain("identical");
        expect(compare(ours, bench.at(`${name}.before`)), name).toContain("identical");
        if (infoOf(ours)["format"] !== "raw") runWell("qemu-img", "check", "-q", ours);
        const told = [ours, other].map((file) => {
          const { snapshots, ...info } = infoOf(file) as { snapshots?: readonly { name: string }[] };
          return { ...info, filename: "", "actual-size": 0, snapshots: snapshots?.map((one) => one.name) };
        });
        const [mine, its] = told.map((one) => JSON.stringify(one).replaceAll(`${theirs}/`, `${bench.root}/`));
        expect(mine, name).toBe(its);
      }
      expect(existsSync(bench.at("data.data"))).toBe(false);
      expect(run("qemu-img", "snapshot", "-l", bench.at("snapshots-base.img")).output).toContain("one");
    },
  );
});

/** Backing names as they are stored, of the images that are there. */
function backingNames(bench: Workbench, names: readonly string[]): Readonly<Record<string, unknown>> {
  const there = names.filter((name) => existsSync(bench.at(name)));
  return Object.fromEntries(there.map((name) => [name, infoOf(bench.at(name))["backing-filename"] ?? null]));
}

const CHAIN = ["low/base.qcow2", "low/a.qcow2", "b.qcow2", "c.qcow2", "d.qcow2"];

describe("layers of a chain", () => {
  qemu.test.each([
    [
      "the active layer",
      {},
      { "low/base.qcow2": null, "low/a.qcow2": "base.qcow2", "b.qcow2": "low/a.qcow2", "c.qcow2": "b.qcow2" },
    ],
    ["all of them", { into: "low/base.qcow2" }, { "low/base.qcow2": null }],
    [
      "one in the middle",
      { from: "b.qcow2" },
      { "low/base.qcow2": null, "low/a.qcow2": "base.qcow2", "c.qcow2": "low/a.qcow2", "d.qcow2": "c.qcow2" },
    ],
    [
      "three in the middle",
      { from: "c.qcow2", into: "low/base.qcow2" },
      { "low/base.qcow2": null, "d.qcow2": "low/base.qcow2" },
    ],
    [
      "and stay where that is asked for",
      { from: "low/a.qcow2", keep: true },
      {
        "low/base.qcow2": null,
        "low/a.qcow2": "base.qcow2",
        "b.qcow2": "low/base.qcow2",
        "c.qcow2": "b.qcow2",
        "d.qcow2": "c.qcow2",
      },
    ],
  ])("are merged: %s; what is above names the result, relative as before", async (_, how, names) => {
    for (const words of [
      ["-o", "cluster_size=512"],
      ["-o", "compat=0.10,cluster_size=4k"],
    ]) {
      const bench = await makeChain(CHAIN, { words });
      await bench.run(mergeRequest(bench, ["vda"], how));
      expect(await compareWithBefore(bench)).toBe(IDENTICAL);
      expect(backingNames(bench, CHAIN)).toEqual(names);
      for (const name of Object.keys(names)) runWell("qemu-img", "check", "-q", bench.at(name));
      expect((await bench.session()).recovered).toEqual([]);
    }
  });

  qemu.test("are merged into what the guest may not be able to open, which is said", async () => {
    const bench = await makeChain(["base.qcow2", "a.qcow2"]);
    chmodSync(bench.at("base.qcow2"), 0o600);
    const { actions } = await bench.run(mergeRequest(bench, ["vda"]));
    expect(actions[0]?.notes.join("\n")).toContain("base.qcow2 has another owner or other permissions");
  });

  qemu.test("show zeros where one of them ends before those around it", async () => {
    const bench = await makeChain(["base.qcow2", "a.qcow2", "b.qcow2", "c.qcow2"], {
      sizes: ["4M", "1M", "4M", "4M"],
    });
    writeGuest(bench.at("base.qcow2"), "qcow2", "write -P 9 3M 512k");
    await bench.run(mergeRequest(bench, ["vda"], { from: "b.qcow2", into: "base.qcow2" }));
    expect(await compareWithBefore(bench)).toBe(IDENTICAL);
  });
});

describe("on a file system that shares blocks", () => {
  oracle("qemu-img", "qemu-io", "root", "loops", "mkfs.xfs").test(
    "what is merged takes no space, but for tables and what is only a part of a cluster",
    async () => {
      const disk = LoopDisk.make(makeFolder(), "disk", "xfs");
      const free = () => Number(runWell("stat", "-f", "-c", "%f", disk.mountPoint)) * 4096;
      for (const [name, format] of [
        ["base.qcow2", "qcow2"],
        ["base.raw", "raw"],
      ] as const) {
        const bench = new Workbench(path.join(disk.mountPoint, format));
        bench.makeFile("README", "images\n");
        runWell("qemu-img", "create", "-q", "-f", format, bench.at(name), "48M");
        runWell("qemu-img", "create", "-q", "-f", "qcow2", "-b", name, "-F", format, bench.at("top.qcow2"));
        writeGuest(bench.at("top.qcow2"), "qcow2", "write -P 4 1M 40M", "write -P 5 45M 3k");
        await bench.add("vda", "top.qcow2");
        runWell("qemu-img", "convert", "-O", "raw", bench.at("top.qcow2"), bench.at("before.raw"));
        runWell("sync", "-f", disk.mountPoint);
        const before = free();
        await bench.run(mergeRequest(bench, ["vda"], { keep: true }));
        runWell("sync", "-f", disk.mountPoint);
        expect(before - free(), format).toBeLessThan(2 * M);
        expect(await compareWithBefore(bench)).toBe(IDENTICAL);
      }
    },
  );
});

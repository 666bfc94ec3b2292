// Persistent bitmaps of images that are merged: they are in the image below what qemu-img makes of them there, which takes
// a command for each, and a commit in between.

import { cpSync } from "node:fs";
import path from "node:path";
import { describe, expect } from "vitest";
import { findMarkedRanges } from "../../../src/format/qcow2/read/qcow2-bitmaps.ts";
import { openChain, readBitmapDirectory } from "../../../src/format/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { createOverlay, run, runWell } from "../../helpers/qemu-programs.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { compareWithBefore, makeChain, mergeRequest } from "../../helpers/transaction/merging.ts";
import { IDENTICAL, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { Workbench } from "../../helpers/transaction/workbench.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";

const qemu = oracle("qemu-img", "qemu-io");
const NAMES = ["base.qcow2", "a.qcow2", "b.qcow2"];

/** Each bitmap: whether it is enabled, its granularity, and what it marks. */
async function bitmapsOf(image: string): Promise<Readonly<Record<string, unknown>>> {
  const gate = { workspaceRoot: path.dirname(image), allowPaths: [], currentFolder: path.dirname(image) };
  const chain = await openChain(makeNodeStorage(), image, { format: "qcow2", gate, backing: false });
  try {
    const [link] = chain.links;
    const found: Record<string, unknown> = {};
    for (const bitmap of await readBitmapDirectory(link!)) {
      const marks = [];
      for await (const { start, lengthBytes } of findMarkedRanges(link!, bitmap))
        marks.push([start, lengthBytes]);
      const { isAuto, isInUse, granularityBits } = bitmap;
      found[bitmap.name] = { isAuto, isInUse, granularityBits, marks };
    }
    return found;
  } finally {
    await chain.close();
  }
}

const bitmap = (...words: readonly string[]) => runWell("qemu-img", "bitmap", ...words);

/** base ← a ← b; bitmaps in all of them, of different granularities, and writes after that. */
async function makeMarked(): Promise<Workbench> {
  const bench = await makeChain(NAMES, { sizes: ["4M", "6M", "6M"] });
  const [base, a, b] = NAMES.map((name) => bench.at(name)) as [string, string, string];
  bitmap("--add", base, "on");
  bitmap("--add", "--disable", base, "off");
  bitmap("--add", "-g", "4096", base, "both");
  writeGuest(base, "qcow2", "write -P 40 3M 4k");
  bitmap("--add", a, "lower");
  writeGuest(a, "qcow2", "write -P 41 2M 64k");
  bitmap("--add", "-g", "16384", b, "both");
  bitmap("--add", "--disable", b, "upper");
  bitmap("--add", "-g", "1M", b, "coarse");
  writeGuest(b, "qcow2", "write -P 42 5M 300k", "discard 2M 64k");
  runWell("qemu-img", "convert", "-O", "raw", b, bench.at("before.raw"));
  return bench;
}

/** By qemu-img, of a copy: one image into the next, the bitmaps of the upper one first. */
function commitByQemu(
  folder: string,
  upper: string,
  lower: string,
  names: Readonly<Record<string, string[]>>,
): void {
  const [from, into] = [path.join(folder, upper), path.join(folder, lower)];
  runWell("qemu-img", "resize", "-q", into, "6M");
  for (const [name, how] of Object.entries(names)) {
    const [words, isNew] = [how.filter((word) => word !== "enable"), how.includes("add")];
    if (isNew) bitmap("--add", "--disable", ...words.filter((word) => word !== "add"), into, name);
    bitmap("--merge", name, "-b", from, "-F", "qcow2", into, name);
  }
  runWell("qemu-img", "commit", "-q", from);
  for (const [name, how] of Object.entries(names)) if (how.includes("enable")) bitmap("--enable", into, name);
}

describe("bitmaps of merged images", () => {
  qemu.test("are in the base what qemu-img makes of them, step by step", async () => {
    const bench = await makeMarked();
    const theirs = makeFolder();
    for (const name of NAMES) cpSync(bench.at(name), path.join(theirs, name));
    commitByQemu(theirs, "b.qcow2", "a.qcow2", {
      both: ["add", "-g", "16384", "enable"],
      upper: ["add"],
      coarse: ["add", "-g", "1M", "enable"],
    });
    commitByQemu(theirs, "a.qcow2", "base.qcow2", {
      both: [],
      upper: ["add"],
      coarse: ["add", "-g", "1M", "enable"],
      lower: ["add", "enable"],
    });
    const before = snapshotWorkspace(bench.root);
    await bench.begin();
    await bench.run(mergeRequest(bench, ["vda"]));
    await bench.run(mergeRequest(bench, ["vda"]));
    await bench.abort();
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    const other = new Workbench(makeFolder());
    cpSync(bench.root, other.root, { recursive: true, filter: (file) => !/\.imgtx|devices$/.test(file) });
    await other.add("vda", "b.qcow2");
    await bench.run(mergeRequest(bench, ["vda"], { into: "base.qcow2" }));
    await other.run([mergeRequest(other, ["vda"]), mergeRequest(other, ["vda"])]);
    const expected = await bitmapsOf(path.join(theirs, "base.qcow2"));
    for (const each of [bench, other]) {
      expect(await bitmapsOf(each.at("base.qcow2"))).toEqual(expected);
      expect(await compareWithBefore(each)).toBe(IDENTICAL);
      runWell("qemu-img", "check", "-q", each.at("base.qcow2"));
    }
  });

  qemu.test("stay with an image that stays; those of the base mark what is written", async () => {
    const bench = await makeMarked();
    const before = await bitmapsOf(bench.at("b.qcow2"));
    await bench.run(mergeRequest(bench, ["vda"], { into: "base.qcow2", keep: true }));
    expect(await bitmapsOf(bench.at("b.qcow2"))).toEqual(before);
    const after = await bitmapsOf(bench.at("base.qcow2"));
    expect(Object.keys(after).sort()).toEqual(["both", "off", "on"]);
    expect(after["off"]).toMatchObject({ marks: [] });
    expect(after["on"]).toMatchObject({ isAuto: true });
    expect(JSON.stringify(after["on"])).toContain(`[${5 * 2 ** 20},`);
  });

  qemu.test("that can't be carried have the merge refused, by name", async () => {
    for (const [words, error] of [
      [
        [],
        {
          code: "E_REFUSED",
          image: "b.qcow2",
          message: 'its bitmap "backup" is inconsistent, and can\'t be carried',
        },
      ],
      [["-o", "compat=0.10"], { code: "E_UNSUPPORTED", image: "a.qcow2" }],
    ] as const) {
      const bench = await makeChain(["base.qcow2", "a.qcow2"], { words });
      createOverlay(bench.at("b.qcow2"), { name: "a.qcow2", format: "qcow2" }, "4M");
      bitmap("--add", bench.at("b.qcow2"), "backup");
      // A guest that dies leaves it in use.
      if (words.length === 0)
        run("qemu-io", "-f", "qcow2", "-c", "write 0 4k", "-c", "sigraise 9", bench.at("b.qcow2"));
      await bench.remove("vda");
      await bench.add("vdb", "b.qcow2");
      const before = snapshotWorkspace(bench.root);
      const failure = await failureOf(async () => await bench.run(mergeRequest(bench, ["vdb"])));
      expect(failure).toMatchObject({ ...error, image: bench.at(error.image), changed: false });
      expect(snapshotWorkspace(bench.root)).toEqual(before);
    }
  });
});

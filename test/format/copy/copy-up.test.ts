// What an image would show otherwise on another backing image comes up into it: judged by QEMU, over chains of every
// layout with any content.

import { copyFileSync, rmSync, statSync } from "node:fs";
import { describe, expect } from "vitest";
import { type CopyUp, copyUp } from "../../../src/format/copy/copy-up.ts";
import { changeBacking } from "../../../src/format/qcow2/change/change-backing.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { LoopDisk } from "../../helpers/loop-disk.ts";
import { oracle } from "../../helpers/oracles.ts";
import { runWell } from "../../helpers/qemu-programs.ts";
import { type Random, seededRandom } from "../../helpers/random.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const qemu = oracle("qemu-img", "qemu-io");
const [K, M] = [1024, 1024 ** 2];
const storage = makeNodeStorage();
const gate = { allowPaths: ["/"], currentFolder: "/" };

interface Layer {
  readonly name: string;
  /** Options of qcow2; undefined: raw. */
  readonly options: string | undefined;
  readonly sizeBytes: number;
}

function make(folder: string, { name, options, sizeBytes }: Layer, below: Layer | undefined): string {
  const file = `${folder}/${name}`;
  const words = (options ?? "").replaceAll("FOLDER", folder).replaceAll("NAME", name);
  const backing = below ? ["-b", below.name, "-F", below.options === undefined ? "raw" : "qcow2"] : [];
  const format = options === undefined ? ["-f", "raw"] : ["-f", "qcow2", "-o", words];
  runWell("qemu-img", "create", "-q", ...format, ...backing, file, String(sizeBytes));
  return file;
}

/** Any writes, zeros, discards and compressed clusters, at any place. */
function scribble(file: string, { options, sizeBytes }: Layer, random: Random, count: number): void {
  const isData = options?.includes("data_file") === true;
  const clusterBytes = Number(/cluster_size=(\d+)/.exec(options ?? "")?.[1] ?? 512);
  // QEMU compresses no cluster that it has written before.
  const packed = new Set<number>();
  const lines: string[] = [];
  for (let number = 0; number < count; number += 1) {
    const start = random.below(sizeBytes / 512) * 512;
    const length = Math.min(sizeBytes - start, (1 + random.below(400)) * 512);
    const whole = Math.floor(start / clusterBytes) * clusterBytes;
    const kind = random.below(6);
    const canPack = options !== undefined && !isData && whole + clusterBytes <= sizeBytes;
    if (kind === 0) lines.push(`write -z ${start} ${length}`);
    else if (kind === 1 && options !== undefined) lines.push(`write -zu ${start} ${length}`);
    else if (kind === 2 && canPack) packed.add(whole);
    else if (kind === 3) lines.push(`write -P 0 ${start} ${length}`);
    else lines.push(`write -P ${1 + random.below(3)} ${start} ${length}`);
  }
  for (const start of packed) lines.unshift(`write -c -P ${1 + random.below(3)} ${start} ${clusterBytes}`);
  const format = options === undefined ? "raw" : "qcow2";
  runWell("qemu-io", "-f", format, ...lines.flatMap((line) => ["-c", line]), file);
}

const TOPS = [
  "cluster_size=65536",
  "cluster_size=512",
  "cluster_size=2097152",
  "cluster_size=4096,compat=0.10",
  "cluster_size=16384,extended_l2=on",
  "cluster_size=65536,extended_l2=on",
  "cluster_size=4096,lazy_refcounts=on",
  "cluster_size=65536,data_file=FOLDER/NAME.data",
];
const LOWER = [undefined, "cluster_size=512", "cluster_size=65536", "cluster_size=16384,extended_l2=on"];

const pick = <T>(list: readonly T[], random: Random): T => list[random.below(list.length)]!;

interface Case {
  readonly folder: string;
  readonly top: string;
  /** The same bytes, by themselves. */
  readonly content: string;
  readonly onto: CopyUp["onto"] & { readonly name: string };
}

/** base <- middle <- top, and another image that has some of it, or all. */
function makeCase(seed: number, options: string): Case {
  const random = seededRandom(seed);
  const folder = makeFolder();
  const size = () => Math.ceil((1 + random.below(4 * M)) / 512) * 512;
  const base: Layer = { name: "base", options: pick(LOWER, random), sizeBytes: size() };
  const middle: Layer = { name: "middle", options: pick(LOWER.slice(1), random), sizeBytes: size() };
  const top: Layer = { name: "top", options, sizeBytes: size() };
  scribble(make(folder, base, undefined), base, random, 12);
  scribble(make(folder, middle, base), middle, random, 12);
  const other: Layer = { name: "other", options: pick(LOWER, random), sizeBytes: size() };
  const standsOnBase = other.options !== undefined && random.below(2) === 0;
  make(folder, other, standsOnBase ? base : undefined);
  scribble(`${folder}/other`, other, random, 6);
  make(folder, top, middle);
  scribble(`${folder}/top`, top, random, 8);
  runWell("qemu-img", "convert", "-O", "raw", `${folder}/top`, `${folder}/content`);
  const onto = pick([base, other], random);
  return {
    folder,
    top: `${folder}/top`,
    content: `${folder}/content`,
    onto: {
      name: onto.name,
      path: `${folder}/${onto.name}`,
      format: onto.options === undefined ? "raw" : "qcow2",
    },
  };
}

async function put(
  { top, onto }: Pick<Case, "top"> & { readonly onto: Case["onto"] | undefined },
  how: Partial<CopyUp> = {},
): Promise<void> {
  const copy = { into: { path: top }, onto, leavesOutEqual: false, isCompressed: false, ...how };
  await copyUp(storage, copy, { gate });
  const file = await storage.openFile(top, "write");
  await changeBacking(file, onto && { name: onto.name, format: onto.format });
  await file.close();
}

function judge({ top, content }: Case): void {
  runWell("qemu-img", "check", "-q", top);
  runWell("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", top, content);
}

describe("what a top image would miss on another backing image", () => {
  qemu.test.each(TOPS)("comes up into it, by itself and on any other one: %s", async (options) => {
    const isPlain = !options.includes("data_file");
    for (let seed = 1; seed <= 3; seed += 1) {
      const one = makeCase(seed, options);
      const theirs = `${one.folder}/theirs`;
      if (isPlain) copyFileSync(one.top, theirs);
      await put(one, { leavesOutEqual: seed % 2 === 0, isCompressed: isPlain && seed % 3 === 0 });
      judge(one);
      // Not larger than what qemu-img makes of it, but for what it reads to leave it out.
      if (isPlain && seed % 2 === 0 && seed % 3 !== 0) {
        runWell("qemu-img", "rebase", "-b", one.onto.name, "-F", one.onto.format, theirs);
        expect(statSync(one.top).size).toBeLessThanOrEqual(statSync(theirs).size + 256 * K);
      }
      await put({ ...one, onto: undefined });
      expect(runWell("qemu-img", "info", "-U", one.top)).not.toContain("backing file");
      judge(one);
      // And down again: on nothing it has zeros where the other one has data.
      await put(one, { leavesOutEqual: true });
      judge(one);
    }
  });
});

describe("on a file system that shares blocks", () => {
  oracle("qemu-img", "qemu-io", "root", "loops", "mkfs.xfs").test(
    "what comes up takes no space, but for tables and what is only a part of a cluster",
    async () => {
      const disk = LoopDisk.make(makeFolder(), "disk", "xfs");
      const at = (name: string) => `${disk.mountPoint}/${name}`;
      for (const options of ["cluster_size=65536", "cluster_size=65536,extended_l2=on", "compat=0.10"]) {
        const layers = [
          { name: "base", options: "cluster_size=65536", sizeBytes: 48 * M },
          { name: "middle", options: "cluster_size=4096", sizeBytes: 47 * M + 512 },
          { name: "top", options, sizeBytes: 48 * M },
        ] as const;
        for (const [index, layer] of layers.entries()) make(disk.mountPoint, layer, layers[index - 1]);
        runWell("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 40M", at("base"));
        runWell(
          "qemu-io",
          "-f",
          "qcow2",
          "-c",
          "write -P 2 3M 5000k",
          "-c",
          "write -P 3 44M 700k",
          at("middle"),
        );
        runWell("qemu-io", "-f", "qcow2", "-c", "write -P 4 10M 70k", at("top"));
        runWell("qemu-img", "convert", "-O", "raw", at("top"), at("content"));
        runWell("sync", "-f", disk.mountPoint);
        const free = () => Number(runWell("stat", "-f", "-c", "%f", disk.mountPoint)) * 4096;
        const before = free();
        await put({ top: at("top"), onto: undefined });
        judge({ top: at("top"), content: at("content") } as Case);
        runWell("sync", "-f", disk.mountPoint);
        expect(before - free(), options).toBeLessThan(2 * M);
        for (const name of ["base", "middle", "top", "content"]) rmSync(at(name));
      }
    },
  );
});

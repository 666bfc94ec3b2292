// qemu-img and qemu-io make images with every kind of cluster, by seeded random writes; what qemu-img convert
// reads from them and what qemu-img map says of them is what imgtx reads and finds.

import { guestOffset, guestRange } from "../../../src/units/index.ts";
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { describe, expect } from "vitest";
import type { Extent, ImageFormat } from "../../../src/format/index.ts";
import { openImage } from "../../../src/format/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { type Random, seededRandom } from "../../helpers/random.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const qemu = oracle("qemu-img", "qemu-io");
const storage = makeNodeStorage();
const KIB = 1024;

function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** Whatever its exit status is. */
function runOn(program: string, ...args: string[]): void {
  expect(spawnSync(program, args, { stdio: "ignore" }).error).toBeUndefined();
}

interface Row {
  readonly clusterBytes: number;
  readonly options?: string;
  readonly backing?: "raw" | "qcow2" | "qcow2 over raw";
  /** Size of the backing image, of that of the image. */
  readonly share?: number;
  readonly snapshots?: boolean;
  readonly dataFile?: boolean;
}

const SIZES = [512, 4 * KIB, 16 * KIB, 64 * KIB, 2048 * KIB];
const ROWS: Row[] = [
  ...SIZES.map((clusterBytes) => ({ clusterBytes, options: "compat=0.10" })),
  ...SIZES.map((clusterBytes) => ({ clusterBytes, snapshots: true })),
  ...SIZES.filter((size) => size >= 16 * KIB).map((clusterBytes) => ({
    clusterBytes,
    options: "extended_l2=on",
    backing: "raw" as const,
  })),
  { clusterBytes: 64 * KIB, options: "extended_l2=on", snapshots: true },
  { clusterBytes: 4 * KIB, snapshots: true, backing: "qcow2 over raw", share: 0.7 },
  { clusterBytes: 64 * KIB, options: "extended_l2=on", backing: "qcow2 over raw", share: 0.6 },
  ...[4 * KIB, 64 * KIB, 2048 * KIB].map((clusterBytes) => ({
    clusterBytes,
    options: "compression_type=zstd",
  })),
  ...(["raw", "qcow2", "qcow2 over raw"] as const).flatMap((backing) =>
    [0.6, 1, 1.4].map((share) => ({ clusterBytes: 4 * KIB, backing, share })),
  ),
  { clusterBytes: 64 * KIB, dataFile: true },
  { clusterBytes: 4 * KIB, dataFile: true, backing: "qcow2" },
  { clusterBytes: 64 * KIB, dataFile: true, options: "data_file_raw=on" },
  { clusterBytes: 64 * KIB, options: "preallocation=metadata" },
  { clusterBytes: 512, options: "preallocation=metadata" },
  { clusterBytes: 64 * KIB, options: "preallocation=falloc" },
  { clusterBytes: 64 * KIB, options: "preallocation=metadata,extended_l2=on" },
];

/** Three quarters of an L2 table and more, and no whole number of clusters. */
function sizeOf(row: Row): number {
  return row.clusterBytes === 512 ? 100 * KIB + 512 : Math.min(row.clusterBytes * 160, 20_480 * KIB) + 512;
}

/** What a guest and a backup do: writes of all kinds, some aligned to clusters, some not. */
function makeCommands(random: Random, row: Row, sizeBytes: number, noise: string): string[] {
  return Array.from({ length: 40 }, () => {
    const unit = [row.clusterBytes, row.clusterBytes, row.clusterBytes / 32, 512][random.below(4)]!;
    const grain = Math.max(unit, 512);
    const offset = random.below(Math.floor(sizeBytes / grain)) * grain;
    const length = Math.min((1 + random.below(4)) * grain, sizeBytes - offset);
    const pattern = 1 + random.below(255);
    const cluster = Math.floor(offset / row.clusterBytes) * row.clusterBytes;
    const clusterLength = Math.min(row.clusterBytes, sizeBytes - cluster);
    const commands = [
      `write -P ${pattern} ${offset} ${length}`,
      `write -s ${noise} ${offset} ${length}`,
      `write -z ${offset} ${length}`,
      `write -z -u ${offset} ${length}`,
      `discard ${offset} ${length}`,
      `write -c -P ${pattern} ${cluster} ${clusterLength}`,
      `write -c -s ${noise} ${cluster} ${clusterLength}`,
    ];
    return commands[random.below(row.dataFile === true ? 5 : commands.length)]!;
  });
}

/**
 * Compressed writes by a process of their own: QEMU 7.2 can give the cluster of one that it overwrote in the same
 * run to both data and compressed data. qemu-io goes on after a command that the image refuses.
 */
function write(path: string, format: string, commands: readonly string[]): void {
  const isCompressed = (command: string): boolean => command.startsWith("write -c");
  for (const part of [commands.filter(isCompressed), commands.filter((each) => !isCompressed(each))]) {
    const list = part.flatMap((each) => ["-c", each]);
    runOn("qemu-io", "-d", "unmap", "-f", format, ...list, path);
  }
  if (format === "qcow2") run("qemu-img", "check", "-q", path);
}

function makeBacking(row: Row, folder: string, random: Random, noise: string): string[] {
  if (row.backing === undefined) return [];
  const sizeBytes = Math.floor((sizeOf(row) * (row.share ?? 1)) / 512) * 512;
  const raw = `${folder}/base.raw`;
  const layered = row.backing === "qcow2 over raw";
  const made: string[] = [];
  if (row.backing !== "qcow2") {
    run("qemu-img", "create", "-q", "-f", "raw", raw, `${layered ? sizeBytes + 1024 : sizeBytes}`);
    write(raw, "raw", makeCommands(random, { ...row, dataFile: true }, sizeBytes, noise));
    made.push("-b", raw, "-F", "raw");
  }
  if (row.backing === "raw") return made;
  const middle = `${folder}/middle.qcow2`;
  run("qemu-img", "create", "-q", "-f", "qcow2", ...made, middle, `${sizeBytes}`);
  write(middle, "qcow2", makeCommands(random, { clusterBytes: 64 * KIB }, sizeBytes, noise));
  return ["-b", middle, "-F", "qcow2"];
}

function makeImage(row: Row, folder: string, seed: number): string {
  const random = seededRandom(seed);
  const noise = `${folder}/noise`;
  writeFileSync(
    noise,
    Uint8Array.from({ length: 64 * KIB }, () => random.below(256)),
  );
  const sizeBytes = sizeOf(row);
  const path = `${folder}/top.qcow2`;
  const options = [
    `cluster_size=${row.clusterBytes}`,
    row.options ?? "",
    row.dataFile === true ? `data_file=${folder}/data` : "",
  ];
  const backing = makeBacking(row, folder, random, noise);
  const list = options.filter((each) => each !== "").join(",");
  run("qemu-img", "create", "-q", "-f", "qcow2", "-o", list, ...backing, path, `${sizeBytes}`);
  write(path, "qcow2", makeCommands(random, row, sizeBytes, noise));
  if (row.snapshots === true) {
    run("qemu-img", "snapshot", "-c", "first", path);
    write(path, "qcow2", makeCommands(random, row, sizeBytes, noise));
    run("qemu-img", "snapshot", "-c", "2", path);
    write(path, "qcow2", makeCommands(random, row, sizeBytes, noise).slice(0, 8));
  }
  return path;
}

interface MapEntry {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  readonly offset?: number;
}

function toMapEntry(extent: Extent): MapEntry {
  const { start, lengthBytes, depth, present, isData, hostOffset } = extent;
  const zero = extent.kind === "zero" || extent.kind === "unallocated";
  const entry = { start, length: lengthBytes, depth, present, zero, data: isData };
  return hostOffset === undefined ? entry : { ...entry, offset: hostOffset };
}

async function expectAsQemuReads(path: string, format: ImageFormat, snapshot?: string): Promise<void> {
  const folder = path.slice(0, path.lastIndexOf("/"));
  const copy = `${folder}/copy`;
  const fromSnapshot = snapshot === undefined ? [] : ["-l", snapshot];
  run("qemu-img", "convert", "-f", format, ...fromSnapshot, "-O", "raw", path, copy);
  const gate = { allowPaths: [], currentFolder: "/" };
  const image = await openImage(storage, path, { format, gate, snapshot });
  try {
    const wanted = readFileSync(copy);
    expect(image.virtualSizeBytes).toBe(wanted.length);
    for (const step of [wanted.length, 70_001]) {
      for (let at = 0; at < wanted.length; at += step) {
        const part = new Uint8Array(Math.min(step, wanted.length - at)).fill(0x77);
        await image.read(part, guestOffset(at));
        expect(wanted.subarray(at, at + part.length).equals(part), `at ${at}`).toBe(true);
      }
    }
    const extents = await image.findExtents(guestRange(0, image.virtualSizeBytes));
    if (snapshot !== undefined) return;
    const map = JSON.parse(run("qemu-img", "map", "--output=json", "-f", format, path)) as MapEntry[];
    expect(extents.map(toMapEntry)).toEqual(map);
  } finally {
    await image.close();
  }
}

describe("an image that QEMU wrote", () => {
  qemu.test.each(ROWS.map((row, index) => [JSON.stringify(row), row, index] as const))(
    "with %s reads and maps as QEMU reads and maps it",
    async (_, row, index) => {
      const path = makeImage(row, makeFolder(), 1000 + index);
      await expectAsQemuReads(path, "qcow2");
      if (row.snapshots !== true) return;
      // Id 2 and the name 2 are the same snapshot here; id 1 has another name.
      for (const snapshot of ["first", "1", "2"]) await expectAsQemuReads(path, "qcow2", snapshot);
    },
  );

  qemu.test(
    "raw with holes and an end inside a sector reads and maps as QEMU reads and maps it",
    async () => {
      const path = `${makeFolder()}/disk.raw`;
      run("qemu-img", "create", "-q", "-f", "raw", path, "3M");
      write(path, "raw", [
        "write -P 7 64k 64k",
        "write -P 8 1M 4k",
        "write -z -u 68k 8k",
        "write -P 9 2900k 1k",
      ]);
      for (const sizeBytes of [3 * 1024 * KIB, 2900 * KIB + 700, 2950 * KIB + 1]) {
        truncateSync(path, sizeBytes);
        await expectAsQemuReads(path, "raw");
      }
    },
  );

  qemu.test("a snapshot of a smaller disk reads as QEMU reads it", async () => {
    const path = `${makeFolder()}/disk.qcow2`;
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "1M");
    write(path, "qcow2", ["write -P 1 0 1M"]);
    run("qemu-img", "snapshot", "-c", "small", path);
    run("qemu-img", "resize", "-q", path, "9M");
    write(path, "qcow2", ["write -P 2 512k 6M"]);
    await expectAsQemuReads(path, "qcow2", "small");
    await expectAsQemuReads(path, "qcow2");
  });

  // Borders of slices: 8192 entries of an L1 table, or of an L2 table that is larger than a slice.
  const FAR: readonly (readonly [string, string, string, number])[] = [
    ["512", "", "1G", 2 ** 28],
    ["4k", "", "40G", 2 ** 34],
    ["128k", "", "4G", 2 ** 30],
    ["2M", "", "2T", 2 ** 34],
    ["2M", ",extended_l2=on", "2T", 2 ** 33],
    ["64k", "", "10T", 2 ** 42],
  ];
  qemu.test.each(FAR)(
    "in clusters of %s%s, with data where slices of its tables meet, reads and maps as QEMU maps it",
    async (cluster, more, size, border) => {
      const path = `${makeFolder()}/disk.qcow2`;
      run("qemu-img", "create", "-q", "-f", "qcow2", "-o", `cluster_size=${cluster}${more}`, path, size);
      const places = [0, border - 70_144, border + 200 * KIB, 2 * border - 512].map((at) => at - (at % 512));
      write(
        path,
        "qcow2",
        places.map((at, index) => `write -P ${index + 1} ${at} 137k`),
      );
      const image = await openImage(storage, path, {
        format: "qcow2",
        gate: { allowPaths: [], currentFolder: "/" },
      });
      const found: Extent[] = [];
      for (
        let at = 0;
        at < image.virtualSizeBytes;
        at = found.reduce((end, each) => end + each.lengthBytes, 0)
      ) {
        found.push(...(await image.findExtents(guestRange(at, image.virtualSizeBytes - at))));
      }
      const map = JSON.parse(run("qemu-img", "map", "--output=json", path)) as MapEntry[];
      expect(found.map(toMapEntry)).toEqual(map);
      for (const [index, at] of places.entries()) {
        const bytes = new Uint8Array(137 * KIB + 512);
        await image.read(bytes, guestOffset(at));
        expect(bytes.subarray(0, 137 * KIB).every((byte) => byte === index + 1)).toBe(true);
        expect(bytes.subarray(137 * KIB).every((byte) => byte === 0)).toBe(true);
      }
      await image.close();
    },
  );
});

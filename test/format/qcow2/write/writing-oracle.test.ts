// QEMU judges what the writer leaves: the same guest bytes, and `qemu-img check` clean, over a matrix of
// layouts, with backing images, internal snapshots, compressed clusters and data files.

import { guestOffset, type GuestRange, guestRange } from "../../../../src/units/index.ts";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect } from "vitest";
import { planImage, writeImage } from "../../../../src/format/new/create.ts";
import type { CreateOptions } from "../../../../src/format/new/create-options.ts";
import type { WritableImage } from "../../../../src/format/image.ts";
import { openForWriting } from "../../../../src/format/open/open-for-writing.ts";
import { makeNodeStorage } from "../../../../src/storage/index.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { seededRandom } from "../../../helpers/random.ts";
import { makeFolder } from "../../../helpers/temporary-folder.ts";

const qemu = oracle("qemu-img", "qemu-io");
const storage = makeNodeStorage();
const MIB = 1024 ** 2;

function run(folder: string, program: string, ...args: string[]): string {
  return execFileSync(program, args, { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

interface Layout {
  readonly options: CreateOptions;
  readonly sizeBytes: number;
  /** Of the backing image, whose content is random; none without. */
  readonly backingBytes?: number;
  /** An internal snapshot is taken in the midst. */
  readonly snapshot?: boolean;
}

function titleOf(layout: Layout): string {
  const { options, sizeBytes, ...rest } = layout;
  return `${JSON.stringify(options)} of ${sizeBytes} ${JSON.stringify(rest)}`;
}

type Random = ReturnType<typeof seededRandom>;

function fillRandomly(bytes: Uint8Array, random: Random): void {
  // Short runs of few values: compressible, and never all zeros by chance.
  let value = 1 + random.below(255);
  for (let at = 0; at < bytes.length; at += 1) {
    if (at % 61 === 0) value = 1 + random.below(255);
    bytes[at] = value;
  }
}

function pickRange(random: Random, sizeBytes: number, clusterBytes: number): GuestRange {
  const most = [512, 3 * 512, clusterBytes, 5 * clusterBytes, 40 * clusterBytes][random.below(5)] ?? 512;
  const unit = random.below(3) === 0 ? clusterBytes : 512;
  const start = Math.floor(random.below(sizeBytes) / unit) * unit;
  const lengthBytes = Math.max(512, Math.floor(random.below(most) / unit) * unit);
  return guestRange(start, Math.min(lengthBytes, sizeBytes - start));
}

/** One random change, made to the image and to the model of what the guest must see. */
async function changeOnce(
  image: WritableImage,
  model: Uint8Array,
  random: Random,
  layout: Layout,
): Promise<void> {
  const { clusterSizeBytes: clusterBytes = 65_536, dataFileName } = layout.options;
  const range = pickRange(random, model.length, clusterBytes);
  const { start, lengthBytes } = range;
  const end = start + lengthBytes;
  switch (random.below(7)) {
    case 0:
      model.fill(0, start, end);
      await image.writeZeroes(range, random.below(2) === 0);
      return;
    case 1: {
      const first = Math.ceil(start / clusterBytes) * clusterBytes;
      const last = end === model.length ? end : Math.floor(end / clusterBytes) * clusterBytes;
      if (first >= last) return;
      // Version 2 can't say zero: what is discarded there stays as it is over a backing image.
      if (layout.options.compat !== "0.10" || layout.backingBytes === undefined) model.fill(0, first, last);
      await image.discard(range);
      return;
    }
    case 2: {
      if (dataFileName !== undefined) return;
      const first = Math.floor(start / clusterBytes) * clusterBytes;
      const cluster = model.subarray(first, Math.min(first + clusterBytes, model.length));
      fillRandomly(cluster, random);
      await image.writeCompressed(cluster.slice(), guestOffset(first));
      return;
    }
    default:
      fillRandomly(model.subarray(start, end), random);
      await image.write(model.slice(start, end), guestOffset(start));
  }
}

async function changeOften(path: string, model: Uint8Array, random: Random, layout: Layout): Promise<void> {
  const image = await openForWriting(storage, path, {
    format: "qcow2",
    gate: { allowPaths: ["/"], currentFolder: "/" },
  });
  for (let step = 0; step < 60; step += 1) {
    await changeOnce(image, model, random, layout);
    if (random.below(12) === 0) await image.flush("test");
  }
  const seen = new Uint8Array(model.length);
  await image.read(seen, guestOffset(0));
  expect(firstDifference(seen, model), "read before closing").toBeUndefined();
  await image.close();
}

function firstDifference(one: Uint8Array, other: Uint8Array): number | undefined {
  if (Buffer.compare(one, other) === 0) return undefined;
  return one.findIndex((byte, index) => byte !== other[index]);
}

function expectQemuToAgree(folder: string, model: Uint8Array, what: string): void {
  run(folder, "qemu-img", "check", "-q", "-f", "qcow2", "disk");
  run(folder, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", "disk", "read.raw");
  expect(firstDifference(readFileSync(`${folder}/read.raw`), model), what).toBeUndefined();
}

async function expectSoundWrites(layout: Layout, seed: number): Promise<void> {
  const folder = makeFolder();
  const random = seededRandom(seed);
  const { options, sizeBytes, backingBytes } = layout;
  const model = new Uint8Array(sizeBytes);
  if (backingBytes !== undefined) {
    const base = new Uint8Array(backingBytes);
    fillRandomly(base, random);
    base.fill(0, Math.floor(backingBytes / 3), Math.floor(backingBytes / 2));
    writeFileSync(`${folder}/base`, base);
    model.set(base.subarray(0, sizeBytes));
  }
  const dataPath = options.dataFileName === undefined ? undefined : `${folder}/${options.dataFileName}`;
  const plan = await planImage({
    format: "qcow2",
    virtualSizeBytes: sizeBytes,
    options: {
      ...options,
      dataFileName: dataPath,
      ...(backingBytes === undefined ? {} : { backingFileName: `${folder}/base`, backingFormat: "raw" }),
    },
  });
  const file = await storage.createFile(`${folder}/disk`, 0o644);
  const dataFile = dataPath === undefined ? undefined : await storage.createFile(dataPath, 0o644);
  await writeImage({ file, dataFile }, plan);
  await file.close();
  await dataFile?.close();

  await changeOften(`${folder}/disk`, model, random, layout);
  expectQemuToAgree(folder, model, "after the first changes");
  // What QEMU wrote is changed in turn.
  run(folder, "qemu-io", "-f", "qcow2", "-c", `write -P 7 0 ${Math.min(sizeBytes, 70_656)}`, "disk");
  model.fill(7, 0, Math.min(sizeBytes, 70_656));
  const kept = model.slice();
  if (layout.snapshot === true) run(folder, "qemu-img", "snapshot", "-c", "kept", "disk");
  await changeOften(`${folder}/disk`, model, random, layout);
  expectQemuToAgree(folder, model, "after the second changes");
  if (layout.snapshot === true) {
    run(folder, "qemu-img", "convert", "-f", "qcow2", "-l", "kept", "-O", "raw", "disk", "kept.raw");
    expect(firstDifference(readFileSync(`${folder}/kept.raw`), kept), "the snapshot").toBeUndefined();
    run(folder, "qemu-img", "snapshot", "-d", "kept", "disk");
    expectQemuToAgree(folder, model, "without the snapshot");
  }
  if (options.dataFileRaw === true && dataPath !== undefined) {
    const raw = readFileSync(dataPath).subarray(0, sizeBytes);
    expect(firstDifference(raw, model.subarray(0, raw.length)), "the raw data file").toBeUndefined();
  }
}

const LAYOUTS: Layout[] = [
  { options: {}, sizeBytes: 4 * MIB },
  { options: {}, sizeBytes: 4 * MIB + 1024, backingBytes: 3 * MIB + 512 },
  { options: {}, sizeBytes: 3 * MIB, backingBytes: 5 * MIB, snapshot: true },
  { options: { compat: "0.10" }, sizeBytes: 4 * MIB },
  { options: { compat: "0.10" }, sizeBytes: 3 * MIB, backingBytes: 2 * MIB, snapshot: true },
  { options: { clusterSizeBytes: 512 }, sizeBytes: MIB + 512 },
  { options: { clusterSizeBytes: 512, refcountBits: 64 }, sizeBytes: MIB, backingBytes: MIB, snapshot: true },
  { options: { clusterSizeBytes: 512, compat: "0.10" }, sizeBytes: MIB, snapshot: true },
  { options: { clusterSizeBytes: 4096 }, sizeBytes: 2 * MIB, backingBytes: MIB + 1024, snapshot: true },
  { options: { clusterSizeBytes: 2 ** 21 }, sizeBytes: 9 * MIB, backingBytes: 5 * MIB, snapshot: true },
  ...[1, 2, 4, 8, 32, 64].map((refcountBits) => ({
    options: { refcountBits, clusterSizeBytes: 4096 },
    sizeBytes: 2 * MIB,
    // Packed compressed clusters take all that narrow refcounts hold: QEMU can't take a snapshot then.
    snapshot: refcountBits > 4,
  })),
  { options: { lazyRefcounts: true }, sizeBytes: 3 * MIB, backingBytes: MIB },
  { options: { extendedL2: true }, sizeBytes: 4 * MIB },
  { options: { extendedL2: true }, sizeBytes: 4 * MIB + 512, backingBytes: 3 * MIB, snapshot: true },
  {
    options: { extendedL2: true, clusterSizeBytes: 16_384 },
    sizeBytes: 2 * MIB,
    backingBytes: MIB,
    snapshot: true,
  },
  { options: { extendedL2: true, clusterSizeBytes: 2 ** 21 }, sizeBytes: 9 * MIB, backingBytes: 3 * MIB },
  { options: { compressionType: "zstd" }, sizeBytes: 4 * MIB, backingBytes: MIB, snapshot: true },
  { options: { compressionType: "zstd", extendedL2: true }, sizeBytes: 4 * MIB, backingBytes: MIB },
  { options: { dataFileName: "data" }, sizeBytes: 4 * MIB },
  { options: { dataFileName: "data", clusterSizeBytes: 4096 }, sizeBytes: 2 * MIB, backingBytes: MIB },
  { options: { dataFileName: "data", dataFileRaw: true }, sizeBytes: 4 * MIB },
  { options: { dataFileName: "data", extendedL2: true }, sizeBytes: 4 * MIB, backingBytes: MIB },
  { options: { preallocation: "metadata" }, sizeBytes: 4 * MIB },
  { options: { preallocation: "falloc", extendedL2: true }, sizeBytes: 4 * MIB, backingBytes: 2 * MIB },
];

describe("random writes leave an image that QEMU finds sound, with the guest bytes that were written", () => {
  qemu.test.each(LAYOUTS.map((layout, index) => [titleOf(layout), layout, index + 1] as const))(
    "%s",
    async (_, layout, seed) => expectSoundWrites(layout, seed),
  );
});

const TIB = 1024 ** 4;

async function makeDisk(folder: string, sizeBytes: number, options: CreateOptions): Promise<string> {
  const plan = await planImage({ format: "qcow2", virtualSizeBytes: sizeBytes, options });
  const file = await storage.createFile(`${folder}/disk`, 0o644);
  await writeImage({ file }, plan);
  await file.close();
  return `${folder}/disk`;
}

describe("an image whose tables do not fit into memory all at once", () => {
  qemu.test("takes writes all over the disk, and keeps them", async () => {
    const folder = makeFolder();
    const path = await makeDisk(folder, 20 * TIB, { clusterSizeBytes: 2 ** 21, lazyRefcounts: false });
    const image = await openForWriting(storage, path, {
      format: "qcow2",
      gate: { allowPaths: [], currentFolder: "/" },
    });
    const places = Array.from({ length: 38 }, (_, index) => index * (TIB / 2) + index * 4096);
    for (const round of [0, 1]) {
      for (const [index, place] of places.entries()) {
        await image.write(new Uint8Array(512).fill(index + 1), guestOffset(place + round * 512));
      }
    }
    const seen = new Uint8Array(1024);
    for (const [index, place] of places.entries()) {
      await image.read(seen, guestOffset(place));
      expect(seen.every((byte) => byte === index + 1)).toBe(true);
    }
    await image.close();
    run(folder, "qemu-img", "check", "-q", "disk");
    const reads = places.flatMap((place, index) => ["-c", `read -P ${index + 1} ${place} 1024`]);
    expect(run(folder, "qemu-io", "-f", "qcow2", ...reads, "disk")).not.toMatch(/failed/);
  });

  qemu.test("gives everything back that is discarded", async () => {
    const folder = makeFolder();
    const options = { clusterSizeBytes: 2 ** 21, refcountBits: 64, preallocation: "metadata" };
    const path = await makeDisk(folder, 6 * TIB, options);
    const image = await openForWriting(storage, path, {
      format: "qcow2",
      gate: { allowPaths: [], currentFolder: "/" },
    });
    await image.write(new Uint8Array(4096).fill(1), guestOffset(5 * TIB));
    await image.discard(guestRange(0, 6 * TIB));
    await image.flush("test");
    await image.write(new Uint8Array(4096).fill(2), guestOffset(3 * TIB));
    await image.close();
    run(folder, "qemu-img", "check", "-q", "disk");
    const reads = ["-c", `read -P 0 ${5 * TIB} 4096`, "-c", `read -P 2 ${3 * TIB} 4096`];
    expect(run(folder, "qemu-io", "-f", "qcow2", ...reads, "disk")).not.toMatch(/failed/);
    const info = JSON.parse(run(folder, "qemu-img", "check", "--output=json", "disk")) as object;
    expect(info).toHaveProperty("allocated-clusters", 1);
  });
});

describe("writes that overlap in time", () => {
  qemu.test.each([{ clusterSizeBytes: 4096 }, { extendedL2: true }])(
    "with zeros, discards and flushes between them leave a sound image: %o",
    async (options) => {
      const folder = makeFolder();
      const sizeBytes = 4 * MIB;
      const path = await makeDisk(folder, sizeBytes, options);
      const random = seededRandom(7);
      const model = new Uint8Array(sizeBytes);
      const layout: Layout = { options, sizeBytes };
      const image = await openForWriting(storage, path, {
        format: "qcow2",
        gate: { allowPaths: [], currentFolder: "/" },
      });
      const changes: Promise<void>[] = [];
      for (let step = 0; step < 300; step += 1) {
        changes.push(changeOnce(image, model, random, layout));
        if (step % 50 === 49) changes.push(image.flush("test"));
      }
      await Promise.all(changes);
      await image.close();
      expectQemuToAgree(folder, model, "after all changes");
    },
  );
});

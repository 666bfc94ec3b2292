// An image made of layers, with layers that a test makes up: what shows through, in batches of bounded size.

import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { ComposedImage } from "../../../src/format/read/composed-image.ts";
import type { Extent } from "../../../src/format/index.ts";
import type { LayerReader } from "../../../src/format/read/layer-reader.ts";
import { type Run, RunList } from "../../../src/format/read/run-list.ts";
import type { StorageFile } from "../../../src/storage/index.ts";
import { guestOffset, hostOffset, offsetBy, guestRange } from "../../../src/units/index.ts";
import { errorFrom } from "../../helpers/expect-error.ts";

type Kind = Run["kind"];
const UNIT = 1024;

interface Reads {
  underWay: number;
  most: number;
  done: number;
}

/** A layer of units, one letter each: d data at its own place, r data in reverse order, z zero, - nothing. */
function layerOf(units: string, reads: Reads = { underWay: 0, most: 0, done: 0 }, failAt = -1): LayerReader {
  const sizeBytes = units.length * UNIT;
  const dataFile = {
    path: units,
    async read(target: Uint8Array, offset: number): Promise<number> {
      reads.underWay += 1;
      reads.most = Math.max(reads.most, reads.underWay);
      await new Promise((resolve) => setTimeout(resolve, 1));
      reads.underWay -= 1;
      reads.done += 1;
      if (offset === failAt) throw new ImgtxError("E_IO", "the disk is gone", { offset });
      for (let at = 0; at < target.length; at += 1) target[at] = Math.floor((offset + at) / UNIT) + 1;
      return target.length;
    },
  } as unknown as StorageFile;
  return {
    path: units,
    format: "qcow2",
    virtualSizeBytes: sizeBytes,
    dataFile,
    findRuns(start, end, runs) {
      let at = start;
      while (at < end && !runs.isFull) {
        const unit = Math.floor(at / UNIT);
        const next = guestOffset(Math.min(end, (unit + 1) * UNIT));
        const letter = units[unit];
        const kind: Kind = letter === "z" ? "zero" : letter === "-" ? "unallocated" : "data";
        const place = letter === "r" ? sizeBytes - (unit + 1) * UNIT : unit * UNIT;
        runs.push(at, next - at, kind, kind === "data" ? hostOffset(place + at - unit * UNIT) : undefined);
        at = next;
      }
      return Promise.resolve(at);
    },
    readCompressed: () => Promise.resolve(),
  };
}

function imageOf(...layers: readonly [LayerReader, ...LayerReader[]]): ComposedImage {
  return new ComposedImage(layers, () => Promise.resolve());
}

function drawExtents(extents: readonly Extent[]): string {
  return extents.map(({ kind, depth, lengthBytes }) => `${kind}@${depth}*${lengthBytes / UNIT}`).join(" ");
}

async function readUnits(image: ComposedImage): Promise<number[]> {
  const bytes = new Uint8Array(image.virtualSizeBytes).fill(0xee);
  await image.read(bytes, guestOffset(0));
  return Array.from({ length: bytes.length / UNIT }, (_, unit) => bytes[unit * UNIT] ?? -1);
}

const ALL = (image: ComposedImage) => guestRange(0, image.virtualSizeBytes);

describe("an image of layers", () => {
  test("shows what lies below where a layer has nothing, and zeros past the end of a shorter one", async () => {
    const image = imageOf(layerOf("d--z----"), layerOf("-d---"), layerOf("dddddddd"));
    expect(drawExtents(await image.findExtents(ALL(image)))).toBe(
      "data@0*1 data@1*1 data@2*1 zero@0*1 data@2*1 unallocated@0*3",
    );
    expect(await readUnits(image)).toEqual([1, 2, 3, 0, 5, 0, 0, 0]);
  });

  test("ends where the image itself ends, though its backing image is longer", async () => {
    const image = imageOf(layerOf("d-"), layerOf("dddd"));
    expect(drawExtents(await image.findExtents(ALL(image)))).toBe("data@0*1 data@1*1");
    expect(await readUnits(image)).toEqual([1, 2]);
  });

  test("joins what two runs of one layer say, and not what lies in two places", async () => {
    const image = imageOf(layerOf("dd-rr"), layerOf("zzzzz"));
    expect(drawExtents(await image.findExtents(ALL(image)))).toBe("data@0*2 zero@1*1 data@0*1 data@0*1");
  });

  test("gives any part of any range, cut at no border", async () => {
    const image = imageOf(layerOf("-d-"), layerOf("dd"));
    const whole = new Uint8Array(3 * UNIT);
    await image.read(whole, guestOffset(0));
    for (const [start, length] of [
      [1, 1],
      [1023, 2],
      [1000, 2000],
      [3071, 1],
      [0, 3072],
      [5, 0],
    ] as const) {
      const part = new Uint8Array(length).fill(0xee);
      await image.read(part, guestOffset(start));
      expect(part).toEqual(whole.subarray(start, start + length));
      const extents = await image.findExtents(guestRange(start, length));
      expect(extents.reduce((sum, extent) => sum + extent.lengthBytes, 0)).toBe(length);
      expect(extents[0]?.start).toBe(length === 0 ? undefined : start);
    }
  });

  test("gives extents in batches of bounded size, which go on where the one before ended", async () => {
    const image = imageOf(layerOf("-".repeat(50_000)), layerOf("rz".repeat(20_000)));
    const batches: (readonly Extent[])[] = [];
    let at = 0;
    while (at < image.virtualSizeBytes) {
      const batch = await image.findExtents(guestRange(at, image.virtualSizeBytes - at));
      expect(batch.length).toBeGreaterThan(0);
      expect(batch.length).toBeLessThanOrEqual(4097);
      expect(batch[0]?.start).toBe(at);
      at = batch.reduce((end, extent) => (expect(extent.start).toBe(end), end + extent.lengthBytes), at);
      batches.push(batch);
    }
    expect(batches.length).toBeGreaterThan(5);
    expect(batches.flat().length).toBeGreaterThanOrEqual(40_001);
    expect(batches.at(-1)?.at(-1)).toMatchObject({ kind: "unallocated", depth: 0, present: false });
  });

  test("reads more pieces than a batch holds in one call, a few at a time", async () => {
    const reads = { underWay: 0, most: 0, done: 0 };
    const image = imageOf(layerOf("r-".repeat(3000), reads), layerOf("z".repeat(6000)));
    const units = await readUnits(image);
    expect(units.slice(0, 4)).toEqual([6000 & 0xff, 0, 5998 & 0xff, 0]);
    expect(reads.done).toBe(3000);
    expect(reads.most).toBeGreaterThan(1);
    expect(reads.most).toBeLessThanOrEqual(8);
  });

  test("lets the disk begin with all small reads before it waits for the first", async () => {
    const layer = layerOf("rr");
    const calls: string[] = [];
    const dataFile: StorageFile = {
      ...layer.dataFile,
      beginRead: ({ start }) => calls.push(`begin ${start}`),
      read: (target, offset) => {
        calls.push(`read ${offset}`);
        return Promise.resolve(target.length);
      },
    };
    await readUnits(imageOf({ ...layer, dataFile }));
    expect(calls).toEqual(["begin 1024", "begin 0", "read 1024", "read 0"]);
  });

  test("throws the error of a read when no other is under way any more", async () => {
    const reads = { underWay: 0, most: 0, done: 0 };
    const image = imageOf(layerOf("r".repeat(100), reads, 90 * UNIT));
    const error = await errorFrom(readUnits(image));
    expect([error.code, reads.underWay]).toEqual(["E_IO", 0]);
    expect(reads.done).toBeLessThan(40);
  });

  test("refuses what lies outside of the disk, as a bug", async () => {
    const image = imageOf(layerOf("dd"));
    for (const [start, length] of [
      [-1, 1],
      [2048, 1],
      [0, 2049],
      [0.5, 1],
      [Number.NaN, 1],
    ] as const) {
      expect(
        (await errorFrom(image.read(new Uint8Array(length), offsetBy(guestOffset(0), start)))).code,
      ).toBe("E_INTERNAL");
      expect(
        (await errorFrom(image.findExtents({ start: offsetBy(guestOffset(0), start), lengthBytes: length })))
          .code,
      ).toBe("E_INTERNAL");
    }
    expect(await image.findExtents(guestRange(2048, 0))).toEqual([]);
  });

  test("of 200 layers is searched to the last", async () => {
    const [top, ...below] = Array.from({ length: 200 }, (_, depth) =>
      layerOf("-".repeat(depth) + "d" + "-".repeat(199 - depth)),
    );
    const image = imageOf(top!, ...below);
    expect((await image.findExtents(ALL(image))).map((extent) => extent.depth)).toEqual(
      Array.from({ length: 200 }, (_, depth) => depth),
    );
  });
});

describe("a list of runs", () => {
  test("joins neighbours of one kind and, where they have one, of one place", () => {
    const list = new RunList(10);
    list.push(guestOffset(0), 10, "data", hostOffset(100));
    list.push(guestOffset(10), 10, "data", hostOffset(110));
    list.push(guestOffset(20), 10, "data", hostOffset(200));
    list.push(guestOffset(30), 10, "zero", undefined);
    list.push(guestOffset(40), 10, "zero", undefined);
    list.push(guestOffset(50), 10, "zero", hostOffset(300));
    list.push(guestOffset(60), 10, "zero", hostOffset(310), true);
    expect(list.runs.map((run) => [run.start, run.lengthBytes])).toEqual([
      [0, 20],
      [20, 10],
      [30, 20],
      [50, 10],
      [60, 10],
    ]);
  });

  test("keeps compressed clusters apart", () => {
    const list = new RunList(2);
    list.pushCompressed(guestOffset(0), 10, hostOffset(100), 5);
    expect(list.isFull).toBe(false);
    list.pushCompressed(guestOffset(10), 10, hostOffset(105), 5);
    expect([list.runs.length, list.isFull]).toEqual([2, true]);
  });
});

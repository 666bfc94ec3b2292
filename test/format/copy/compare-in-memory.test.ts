// What is in memory is compared at once, or by another thread, whose yes alone counts: the answer is what it would be otherwise.

import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { guestOffset, hostOffset } from "../../../src/units/index.ts";
import { compareImages } from "../../../src/format/copy/compare.ts";
import type { Image } from "../../../src/format/image.ts";
import type { StorageFile } from "../../../src/storage/index.ts";

const MIB = 1024 * 1024;
const SIZE_BYTES = 300 * MIB;

/** A disk of zeros in a file that is in memory, and what was asked of it. */
class Subject {
  /** Offsets in the disk. */
  readonly readNow: number[] = [];
  readonly read: number[] = [];
  readonly elsewhere: number[] = [];
  readonly image: Image;
  elsewhereSays: (offset: number) => boolean = () => true;
  /** What is read as ever, and at once; zeros are in the memory that is read into. */
  fill: (target: Uint8Array, offset: number) => void = () => undefined;
  isInMemory: (offset: number) => boolean = () => true;

  constructor(inode: string, sizeBytes: number, readsByExtent = true) {
    const dataFile = {
      stat: async () => Promise.resolve({ fileSystem: "1", inode }),
      readNow: (target: Uint8Array, offset: number) => {
        this.readNow.push(offset);
        if (!this.isInMemory(offset)) return 0;
        this.fill(target, offset);
        return target.length;
      },
      areEqualElsewhere: (ranges: readonly { readonly offsets: readonly [number, number] }[]) => {
        const offset = ranges[0]?.offsets[0] ?? 0;
        this.elsewhere.push(offset);
        // Every other one: this thread has a part to do as well.
        return this.elsewhere.length % 2 === 0 ? undefined : Promise.resolve(this.elsewhereSays(offset));
      },
    } as unknown as StorageFile;
    const read = async (target: Uint8Array, offset: number): Promise<void> => {
      this.read.push(offset);
      target.fill(0);
      this.fill(target, offset);
      return Promise.resolve();
    };
    this.image = {
      path: "/images/one.raw",
      format: "raw",
      virtualSizeBytes: sizeBytes,
      layers: [{ path: "/images/one.raw", format: "raw", virtualSizeBytes: sizeBytes, dataFile }],
      findExtents: async ({ start, lengthBytes }) =>
        Promise.resolve([
          {
            start: guestOffset(start),
            lengthBytes,
            kind: "data",
            depth: 0,
            present: true,
            isData: true,
            hostOffset: hostOffset(start),
          },
        ]),
      read,
      ...(readsByExtent ? { readExtent: async (_, target, offset) => read(target, offset) } : {}),
      close: async () => Promise.resolve(),
    };
  }
}

function pairOf(sizeBytes = SIZE_BYTES): readonly [Subject, Subject] {
  return [new Subject("1", sizeBytes), new Subject("2", sizeBytes)];
}

describe("two disks in memory", () => {
  test("are shared with another thread once enough was found there, and read in no other way", async () => {
    const [one, other] = pairOf();
    const progress: number[] = [];
    const result = await compareImages(one.image, other.image, {
      strict: true,
      onProgress: (doneBytes) => progress.push(doneBytes),
    });
    expect(result).toEqual({ kind: "identical", sizesDiffer: false });
    expect([one.read, other.read]).toEqual([[], []]);
    expect(one.elsewhere[0]).toBe(18 * MIB);
    expect(progress).toEqual([
      ...Array.from({ length: 38 }, (_, index) => (index * 8 + 2) * MIB),
      SIZE_BYTES,
    ]);
  });

  test.each([
    ["too small", 256 * MIB, true],
    ["not read where its files say", SIZE_BYTES, false],
  ])("are shared with none where one is %s", async (_, sizeBytes, readsByExtent) => {
    const one = new Subject("1", sizeBytes, readsByExtent);
    const other = new Subject("2", sizeBytes);
    await compareImages(one.image, other.image, { strict: false });
    expect(one.elsewhere).toEqual([]);
  });

  test("are shared with none before 16 MiB in a row were in memory", async () => {
    const [one, other] = pairOf();
    other.isInMemory = (offset) => offset % (14 * MIB) !== 0;
    await compareImages(one.image, other.image, { strict: false });
    expect(one.elsewhere).toEqual([]);
    // With what lies before it, which was asked for in one with it.
    const places = Array.from({ length: 21 }, (_, index) => (index + 1) * 14 * MIB);
    expect(other.read).toEqual([0, ...places.flatMap((place) => [place - 2 * MIB, place])]);
  });

  test("differ where the bytes do, whatever that thread's no is for", async () => {
    const [one, other] = pairOf();
    one.elsewhereSays = () => false;
    other.fill = (target, offset) => {
      if (offset >= 200 * MIB) target.fill(1);
    };
    const result = await compareImages(one.image, other.image, { strict: false });
    expect(result).toEqual({ kind: "content-differs", offset: 200 * MIB, beyond: false });
    expect(one.read.filter((offset) => offset < 200 * MIB)).not.toEqual([]);
  });

  test("fail at the chunk that can't be read, after all that lies before it", async () => {
    const [one, other] = pairOf();
    const place = 22 * MIB;
    one.elsewhereSays = (offset) => offset !== 18 * MIB;
    one.fill = (_, offset) => {
      if (offset === place) throw new ImgtxError("E_IO", "unreadable");
    };
    const result = await compareImages(one.image, other.image, { strict: false });
    expect(result).toMatchObject({ kind: "unreadable", which: 0, what: "data", offset: place });
  });
});

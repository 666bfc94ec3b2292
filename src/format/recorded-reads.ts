// What was read of block devices, so that a commit can tell whether all that a plan rests on is as it was then. A device has
// no times that tell of a write, and the digests of what is to be replaced say nothing of a table that was read and left alone.
//
// Invariants
// - Whole pieces are read and digested, in one go with what is wanted of them: what the reader got is what the digest is of.
// - A piece that reads otherwise a second time is E_CHANGED at once: no plan rests on two contents of one device.

import { createHash } from "node:crypto";
import { ImgtxError } from "../errors/index.ts";
import type { FileStat, StorageFile } from "../storage/index.ts";
import { alignDown, alignUp } from "../units/index.ts";
import { identityOf } from "./fingerprint.ts";
import { withCalls } from "./watched-file.ts";

/** As large as most clusters: what a guest writes beside a table is no change of it. */
const PIECE_BYTES = 65_536;

/** How many are read at a time to be compared. */
const PIECES_AT_ONCE = 16;

/** Which pieces of a device were read, and what they were. Plain data: a journal keeps it. */
export interface DeviceReads {
  readonly image: string;
  /** The number of a piece, and how many from there on were read: one pair after the other, ascending. */
  readonly runs: readonly number[];
  /** Where the device ended: what it has got since was not read. Left out by the version before. */
  readonly endBytes?: number;
  /** SHA-256, in hex, of the SHA-256 of each of these pieces in order. */
  readonly sha256: string;
}

interface ReadDevice {
  readonly image: string;
  readonly pieces: Map<number, Buffer>;
  endBytes: number;
}

/** The reads of one statement, as long as they are told to it. */
export class RecordedReads {
  readonly #devices = new Map<string, ReadDevice>();
  #isPaused = false;

  /** The file, whose reads are recorded from then on where it is a block device. */
  async observe(file: StorageFile): Promise<StorageFile> {
    const stat = await file.stat();
    if (stat.kind !== "device") return file;
    const identity = identityOf(stat);
    return withCalls(file, {
      read: async (target, offset) => await this.#read(identity, { file, stat }, target, offset),
    });
  }

  /** Another statement begins. */
  forget(): void {
    this.#devices.clear();
  }

  /** What a plan only looked at need not stay as it is: of these alone, by their stats, the reads so far count. */
  keepOnly(images: readonly Parameters<typeof identityOf>[0][]): void {
    const kept = new Set(images.map(identityOf));
    for (const identity of this.#devices.keys()) if (!kept.has(identity)) this.#devices.delete(identity);
  }

  /** Does work whose reads count for nothing: who commits does it anew. */
  async withoutThoseOf<T>(work: () => Promise<T>): Promise<T> {
    this.#isPaused = true;
    try {
      return await work();
    } finally {
      this.#isPaused = false;
    }
  }

  stored(): DeviceReads[] {
    return [...this.#devices.values()].map(({ image, pieces, endBytes }) => {
      const order = [...pieces].toSorted(([a], [b]) => a - b);
      const all = createHash("sha256");
      for (const [, digest] of order) all.update(digest);
      return { image, runs: runsOf(order.map(([index]) => index)), endBytes, sha256: all.digest("hex") };
    });
  }

  async #read(
    identity: string,
    { file, stat }: { readonly file: StorageFile; readonly stat: FileStat },
    target: Uint8Array,
    offset: number,
  ): Promise<number> {
    if (this.#isPaused || target.length === 0) return await file.read(target, offset);
    const [start, end] = [alignDown(offset, PIECE_BYTES), alignUp(offset + target.length, PIECE_BYTES)];
    const isWhole = start === offset && end - start === target.length;
    const bytes = isWhole ? target : new Uint8Array(end - start);
    const count = await file.read(bytes, start);
    const known = this.#devices.get(identity) ?? { image: file.path, pieces: new Map(), endBytes: 0 };
    known.endBytes = Math.max(known.endBytes, stat.sizeBytes);
    this.#devices.set(identity, known);
    keep(known, start, bytes.subarray(0, count));
    if (isWhole) return count;
    const wanted = bytes.subarray(offset - start, Math.min(count, offset - start + target.length));
    target.set(wanted);
    return wanted.length;
  }
}

function keep({ image, pieces }: ReadDevice, start: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    const index = (start + at) / PIECE_BYTES;
    const digest = digestOf(bytes.subarray(at, at + PIECE_BYTES));
    const before = pieces.get(index);
    if (before && !before.equals(digest)) throw writtenMeanwhile(image, start + at);
    pieces.set(index, digest);
  }
}

/** Whether all that was read is as it was. */
export async function isAsRead(
  file: Pick<StorageFile, "read" | "stat">,
  { runs, sha256, endBytes = Infinity }: Pick<DeviceReads, "runs" | "sha256" | "endBytes">,
): Promise<boolean> {
  const sizeBytes = Math.min((await file.stat()).sizeBytes, endBytes);
  const all = createHash("sha256");
  for (let at = 0; at < runs.length; at += 2) {
    const [first = 0, count = 0] = [runs[at], runs[at + 1]];
    // Hostile numbers, or a device that is smaller by now.
    if ((first + count - 1) * PIECE_BYTES >= sizeBytes) return false;
    for (let index = first; index < first + count; index += PIECES_AT_ONCE) {
      const pieces = Math.min(PIECES_AT_ONCE, first + count - index);
      const bytes = new Uint8Array(Math.min(pieces * PIECE_BYTES, sizeBytes - index * PIECE_BYTES));
      const there = bytes.subarray(0, await file.read(bytes, index * PIECE_BYTES));
      for (let from = 0; from < there.length; from += PIECE_BYTES) {
        all.update(digestOf(there.subarray(from, from + PIECE_BYTES)));
      }
    }
  }
  return all.digest("hex") === sha256;
}

function digestOf(piece: Uint8Array): Buffer {
  return createHash("sha256").update(piece).digest();
}

/** Of numbers that ascend. */
function runsOf(indexes: readonly number[]): number[] {
  const runs: { first: number; count: number }[] = [];
  for (const index of indexes) {
    const last = runs.at(-1);
    if (last && last.first + last.count === index) last.count += 1;
    else runs.push({ first: index, count: 1 });
  }
  return runs.flatMap(({ first, count }) => [first, count]);
}

function writtenMeanwhile(image: string, offset: number): ImgtxError {
  return new ImgtxError("E_CHANGED", "somebody has written to it while imgtx read it", {
    image,
    offset,
    hint: "find out who has it open, and run the command again when nobody does",
  });
}

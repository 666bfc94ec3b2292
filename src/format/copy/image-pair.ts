// Two images side by side: what is known of a place in both without reading it, and buffers to read it into.
//
// Invariant: both buffers are lent until both reads have ended, the failed one and the other. What a read still writes
// into must not be lent to the next.

import type { GuestOffset } from "../../units/index.ts";
import { settleAll } from "../../errors/index.ts";
import { type RangePair, ReusedBytes } from "../../storage/index.ts";
import { identityOf } from "../fingerprint.ts";
import type { Extent, Image } from "../image.ts";
import { BufferPool } from "../read/buffer-pool.ts";
import { ExtentCursor, readsAsZeros } from "../read/extent-cursor.ts";

export type Which = 0 | 1;

/**
 * What is read of each image at once, at most, and how many such reads are under way: more only leaves the processor's
 * caches.
 */
export const CHUNK_BYTES = 2 * 1024 * 1024;
export const READS_AT_ONCE = 3;

/** Of that, at once, of what is in memory: both sides stay in the processor's cache. */
const NOW_BYTES = 256 * 1024;
/** More pieces take as long to be listed as to be read. */
const PIECES_MAX = 256;

/** Guest bytes that lie in one extent of either image. */
export interface PairPiece {
  readonly start: GuestOffset;
  readonly end: GuestOffset;
  readonly extents: readonly [Extent, Extent];
}

export class ImagePair {
  readonly images: readonly [Image, Image];
  /** Of each layer's data file, by depth: the same text means the same file. */
  readonly #identities: readonly (readonly string[])[];
  readonly #cursors: readonly [ExtentCursor, ExtentCursor];
  readonly #nowOne = new ReusedBytes();
  readonly #nowOther = new ReusedBytes();
  readonly #buffers = new BufferPool(CHUNK_BYTES);

  private constructor(images: readonly [Image, Image], identities: readonly (readonly string[])[]) {
    this.images = images;
    this.#identities = identities;
    this.#cursors = [
      new ExtentCursor(images[0], images[0].virtualSizeBytes),
      new ExtentCursor(images[1], images[1].virtualSizeBytes),
    ];
  }

  static async of(first: Image, second: Image): Promise<ImagePair> {
    const identities = [first, second].map((image) =>
      settleAll(image.layers.map(async ({ dataFile }) => identityOf(await dataFile.stat()))),
    );
    return new ImagePair([first, second], await settleAll(identities));
  }

  async find(which: Which, offset: GuestOffset): Promise<Extent> {
    return this.#cursors[which].find(offset);
  }

  /** Both, where nothing has to be read for that: without a promise. */
  findKnown(offset: GuestOffset): readonly [Extent, Extent] | undefined {
    const one = this.#cursors[0].findKnown(offset);
    const other = one && this.#cursors[1].findKnown(offset);
    return one && other && [one, other];
  }

  /** Whether the bytes at the offset are equal for all that is known of them. */
  knowsEqual([one, other]: readonly [Extent, Extent], offset: GuestOffset): boolean {
    return (readsAsZeros(one) && readsAsZeros(other)) || this.#isSamePlace(one, other, offset);
  }

  /** An overlay and its base, or two overlays of one base, have most of their data in common. */
  #isSamePlace(one: Extent, other: Extent, offset: GuestOffset): boolean {
    if (one.kind !== "data" || other.kind !== "data") return false;
    if (one.hostOffset === undefined || other.hostOffset === undefined) return false;
    return (
      this.haveOneFile([one, other]) &&
      one.hostOffset + (offset - one.start) === other.hostOffset + (offset - other.start)
    );
  }

  /** Whether both extents are in the same file. */
  haveOneFile([one, other]: readonly [Extent, Extent]): boolean {
    const file = this.#identities[0]?.[one.depth];
    return file !== undefined && file === this.#identities[1]?.[other.depth];
  }

  /** Whether all of it is in memory, and equal: told without a promise. */
  areEqualNow(pieces: readonly PairPiece[]): boolean {
    return this.#stored(pieces)?.every((piece) => this.#isEqualNow(piece)) ?? false;
  }

  /** Whether all of it is equal, as another thread finds it; undefined where none has room. A no may mean anything else. */
  areEqualElsewhere(pieces: readonly PairPiece[]): Promise<boolean> | undefined {
    const stored = this.#stored(pieces);
    return stored && stored[0]?.files[0].areEqualElsewhere?.(stored);
  }

  #isEqualNow({ files: [one, other], offsets, lengthBytes }: RangePair): boolean {
    for (let at = 0; at < lengthBytes; at += NOW_BYTES) {
      const length = Math.min(NOW_BYTES, lengthBytes - at);
      const first = this.#nowOne.take(length);
      if (one.readNow?.(first, offsets[0] + at) !== length) return false;
      const second = this.#nowOther.take(length);
      if (other.readNow?.(second, offsets[1] + at) !== length) return false;
      if (Buffer.compare(first, second) !== 0) return false;
    }
    return true;
  }

  /** Where it lies in files; undefined where that can't be told of all of it. */
  #stored(pieces: readonly PairPiece[]): readonly RangePair[] | undefined {
    if (pieces.length > PIECES_MAX) return undefined;
    const stored: RangePair[] = [];
    for (const { start, end, extents } of pieces) {
      const one = this.#placeOf(0, extents[0], start);
      const other = one && this.#placeOf(1, extents[1], start);
      if (!one || !other) return undefined;
      stored.push({
        files: [one.file, other.file],
        offsets: [one.offset, other.offset],
        lengthBytes: end - start,
      });
    }
    return stored;
  }

  #placeOf(
    which: Which,
    { kind, hostOffset, depth, start }: Extent,
    at: GuestOffset,
  ): { readonly file: RangePair["files"][0]; readonly offset: number } | undefined {
    const image = this.images[which];
    const file = image.layers[depth]?.dataFile;
    // An image that can't be read by its extents may show other bytes than its file has.
    if (kind !== "data" || hostOffset === undefined || !file || !image.readExtent) return undefined;
    return { file, offset: hostOffset + (at - start) };
  }

  /** Reads both images, by `read`, and lends what it has read to the work. */
  async compareBytes<R, T>(
    lengthBytes: number,
    read: (which: Which, target: Uint8Array) => Promise<R>,
    work: (pieces: readonly [Uint8Array, Uint8Array], results: readonly R[]) => T,
  ): Promise<T> {
    return this.lend(lengthBytes, (one) =>
      this.lend(lengthBytes, async (other) =>
        work([one, other], await settleAll([read(0, one), read(1, other)])),
      ),
    );
  }

  async lend<T>(lengthBytes: number, work: (buffer: Uint8Array) => Promise<T>): Promise<T> {
    return this.#buffers.lend((buffer) => work(buffer.subarray(0, lengthBytes)));
  }
}

// Whether two images hold the same guest data, as qemu-img compare judges it.
//
// Invariants
// - The answer is that of a comparison byte by byte from the start: of several differences the first one.
// - Nothing is read whose bytes are known: zeros on both sides, or one place of one file on both.
// - Several reads are under way at once, over both images; memory is bounded by their number.

import { setImmediate as letOthersRun } from "node:timers/promises";
import { alignDown, earliest, endOf, type GuestOffset, guestOffset, offsetBy } from "../../units/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { CHUNK_BYTES, ImagePair, type PairPiece, READS_AT_ONCE, type Which } from "./image-pair.ts";
import { readIn, readsAsZeros } from "../read/extent-cursor.ts";
import type { Extent, Image } from "../image.ts";
import { Pipeline } from "../read/pipeline.ts";
import { findDifference, findNonZero } from "../read/zero-blocks.ts";

/** Another thread takes as long to start as this one to compare half of that. */
const BYTES_TO_SHARE = 256 * 1024 * 1024;
/** Compared at once of what is in memory. */
const MEMORY_BYTES = 4 * CHUNK_BYTES;
const BYTES_BEFORE_SHARING = 16 * 1024 * 1024;

/** They follow each other, and are compared at once. */
type Pieces = [PairPiece, ...PairPiece[]];

export interface CompareOptions {
  /** Sizes and the kinds of extents must match too. */
  readonly strict: boolean;
  /** Guest bytes done, of the larger image's. */
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export type CompareResult =
  | { readonly kind: "identical"; readonly sizesDiffer: boolean }
  /** Of strict comparison alone. */
  | { readonly kind: "sizes-differ" }
  | { readonly kind: "status-differs"; readonly offset: number }
  /** `beyond`: in what the larger image has more, where only zeros are no difference. */
  | { readonly kind: "content-differs"; readonly offset: number; readonly beyond: boolean }
  | CompareFailure;

/** One of the images could not be read. */
interface CompareFailure {
  readonly kind: "unreadable";
  readonly which: Which;
  readonly what: "extents" | "data";
  readonly offset: number;
  readonly error: ImgtxError;
}

export async function compareImages(
  first: Image,
  second: Image,
  options: CompareOptions,
): Promise<CompareResult> {
  const sizes = [first.virtualSizeBytes, second.virtualSizeBytes] as const;
  const sizesDiffer = sizes[0] !== sizes[1];
  if (options.strict && sizesDiffer) return { kind: "sizes-differ" };
  const comparison = new Comparison(await ImagePair.of(first, second), options);
  const common = await comparison.compareBoth(guestOffset(Math.min(...sizes)));
  if (common !== undefined) return common;
  if (sizesDiffer) {
    const beyond = await comparison.compareWithZeros(
      sizes[0] > sizes[1] ? 0 : 1,
      guestOffset(Math.min(...sizes)),
    );
    if (beyond !== undefined) return beyond;
  }
  return { kind: "identical", sizesDiffer };
}

class Comparison {
  readonly #pair: ImagePair;
  readonly #options: CompareOptions;
  readonly #totalBytes: number;
  /** Compared in memory without a break. */
  #foundNowBytes = 0;
  /** Whether there was ever enough for another thread. */
  #isShared = false;

  constructor(pair: ImagePair, options: CompareOptions) {
    this.#pair = pair;
    this.#options = options;
    this.#totalBytes = Math.max(...pair.images.map(({ virtualSizeBytes }) => virtualSizeBytes));
  }

  async compareBoth(end: GuestOffset): Promise<CompareResult | undefined> {
    const pipeline = new Pipeline<CompareResult>(READS_AT_ONCE);
    for (let offset = guestOffset(0); offset < end && !pipeline.isSettled; ) {
      this.#options.signal?.throwIfAborted();
      const found = this.#pair.findKnown(offset) ?? (await this.#findBoth(offset));
      if ("error" in found) return (await pipeline.finish()) ?? found;
      const [one, other] = found;
      if (this.#options.strict && statusOf(one) !== statusOf(other)) {
        return (await pipeline.finish()) ?? { kind: "status-differs", offset };
      }
      const known = this.#pair.knowsEqual([one, other], offset);
      const extentEnd = earliest(endOf(one), endOf(other), end);
      const kind = known ? "known" : readsAsZeros(one) || readsAsZeros(other) ? "zeros" : "data";
      const firstEnd = kind === "known" ? extentEnd : earliest(extentEnd, offsetBy(offset, CHUNK_BYTES));
      const pieces: Pieces = [{ start: offset, end: firstEnd, extents: [one, other] }];
      if (kind !== "data") await this.#addComparison(pipeline, kind, pieces);
      else await this.#addData(pipeline, pieces, end);
      offset = endOfAll(pieces);
    }
    return pipeline.finish();
  }

  /**
   * Goes on over the data that follows on both sides, wherever it is stored: one comparison of many extents is
   * cheaper. Adds them.
   */
  async #join(pieces: Pieces, stop: GuestOffset): Promise<void> {
    for (let at = endOfAll(pieces); at < stop; at = endOfAll(pieces)) {
      const found = this.#pair.findKnown(at) ?? (await this.#findBoth(at));
      // Told when its turn comes: what lies before it is compared first.
      if ("error" in found) return;
      const [one, other] = found;
      if (this.#options.strict && statusOf(one) !== statusOf(other)) return;
      if (readsAsZeros(one) || readsAsZeros(other) || this.#pair.knowsEqual(found, at)) return;
      pieces.push({
        start: at,
        end: earliest(endOf(one), endOf(other), chunkEndAt(pieces, at), stop),
        extents: found,
      });
    }
  }

  async compareWithZeros(which: Which, start: GuestOffset): Promise<CompareResult | undefined> {
    const image = this.#pair.images[which];
    const pipeline = new Pipeline<CompareResult>(READS_AT_ONCE);
    for (let offset = start; offset < image.virtualSizeBytes && !pipeline.isSettled; ) {
      this.#options.signal?.throwIfAborted();
      const found = await this.#find(which, offset);
      if ("error" in found) return (await pipeline.finish()) ?? found;
      const zeros = readsAsZeros(found.value);
      const extentEnd = endOf(found.value);
      const end = zeros ? extentEnd : earliest(extentEnd, offsetBy(offset, CHUNK_BYTES));
      const at = offset;
      await pipeline.add(
        async () => (zeros ? undefined : this.#findNonZero(which, at, end - at, true)),
        () => this.#options.onProgress?.(end, this.#totalBytes),
      );
      offset = end;
    }
    return pipeline.finish();
  }

  async #addComparison(
    pipeline: Pipeline<CompareResult>,
    kind: "known" | "zeros" | "data",
    pieces: Pieces,
  ): Promise<void> {
    const [{ start, extents }] = pieces;
    const end = endOfAll(pieces);
    const compare = async (): Promise<CompareResult | undefined> => {
      if (kind === "known") return undefined;
      if (readsAsZeros(extents[0])) return this.#findNonZero(1, start, end - start, false);
      if (readsAsZeros(extents[1])) return this.#findNonZero(0, start, end - start, false);
      const result = await this.#findDifference(start, end - start, extents);
      return result?.kind === "unreadable" && pieces.length > 1 ? this.#findInEach(pieces) : result;
    };
    await pipeline.add(compare, () => {
      this.#tellDone(pieces);
    });
  }

  /**
   * Adds all that is compared with it to the first piece: what is in memory here at once or by another thread, the rest as it
   * is read.
   */
  async #addData(pipeline: Pipeline<CompareResult>, pieces: Pieces, diskEnd: GuestOffset): Promise<void> {
    const [{ start }] = pieces;
    const mostBytes = this.#foundNowBytes > 0 ? MEMORY_BYTES : CHUNK_BYTES;
    await this.#join(pieces, earliest(diskEnd, offsetBy(start, mostBytes)));
    const onDone = (): void => {
      this.#tellDone(pieces);
    };
    const answer = this.#askElsewhere(pieces, diskEnd);
    if (answer) {
      await pipeline.add(async () => ((await answer) ? undefined : this.#findInEach(pieces)), onDone, false);
    } else if (this.#pair.areEqualNow(pieces)) {
      this.#foundNowBytes += endOfAll(pieces) - start;
      await pipeline.add(async () => undefined, onDone, false);
      await letOthersRun();
    } else {
      this.#foundNowBytes = 0;
      const chunkEnd = chunkEndAt(pieces, start);
      while (endOfAll(pieces) > chunkEnd) pieces.pop();
      await this.#addComparison(pipeline, "data", pieces);
    }
  }

  #tellDone(pieces: Pieces): void {
    this.#options.onProgress?.(endOfAll(pieces), this.#totalBytes);
  }

  /** Another thread takes a part while all is in memory, and where there is enough of it to be worth its start. */
  #askElsewhere(pieces: Pieces, diskEnd: GuestOffset): Promise<boolean> | undefined {
    this.#isShared ||=
      this.#foundNowBytes >= BYTES_BEFORE_SHARING && diskEnd - pieces[0].start >= BYTES_TO_SHARE;
    return this.#isShared && this.#foundNowBytes > 0 ? this.#pair.areEqualElsewhere(pieces) : undefined;
  }

  /** One extent after the other: a difference may lie before what can't be read. */
  async #findInEach(pieces: Pieces): Promise<CompareResult | undefined> {
    for (const { start, end } of pieces) {
      const result = await this.#findDifference(start, end - start);
      if (result !== undefined) return result;
    }
    return undefined;
  }

  /** The extents, as far as they reach, are known to hold it. */
  async #findDifference(
    offset: GuestOffset,
    lengthBytes: number,
    found?: readonly [Extent, Extent],
  ): Promise<CompareResult | undefined> {
    return this.#pair.compareBytes(
      lengthBytes,
      (which, piece) => this.#read(which, piece, offset, found?.[which]),
      (pieces, failures) =>
        failures[0] ?? failures[1] ?? differenceAt(findDifference(...pieces), offset, false),
    );
  }

  async #findNonZero(
    which: Which,
    offset: GuestOffset,
    lengthBytes: number,
    beyond: boolean,
  ): Promise<CompareResult | undefined> {
    return this.#pair.lend(lengthBytes, async (piece) => {
      const failure = await this.#read(which, piece, offset);
      return failure ?? differenceAt(findNonZero(piece), offset, beyond);
    });
  }

  async #read(
    which: Which,
    target: Uint8Array,
    offset: GuestOffset,
    extent?: Extent,
  ): Promise<CompareFailure | undefined> {
    const read = await this.#guarded(which, "data", offset, () =>
      readIn(extent, this.#pair.images[which], target, offset),
    );
    return "error" in read ? read : undefined;
  }

  async #findBoth(offset: GuestOffset): Promise<readonly [Extent, Extent] | CompareFailure> {
    const one = await this.#find(0, offset);
    if ("error" in one) return one;
    const other = await this.#find(1, offset);
    return "error" in other ? other : [one.value, other.value];
  }

  async #find(which: Which, offset: GuestOffset): Promise<{ value: Extent } | CompareFailure> {
    return this.#guarded(which, "extents", offset, () => this.#pair.find(which, offset));
  }

  async #guarded<T>(
    which: Which,
    what: "extents" | "data",
    offset: number,
    work: () => Promise<T>,
  ): Promise<{ value: T } | CompareFailure> {
    try {
      return { value: await work() };
    } catch (error) {
      if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL") throw error;
      return { kind: "unreadable", which, what, offset, error };
    }
  }
}

/** Where the chunk of the disk ends that the offset lies in: they begin at the first piece. */
function chunkEndAt([{ start }]: Pieces, at: GuestOffset): GuestOffset {
  return offsetBy(start, alignDown(at - start, CHUNK_BYTES) + CHUNK_BYTES);
}

function endOfAll(pieces: Pieces): GuestOffset {
  return (pieces.at(-1) ?? pieces[0]).end;
}

function differenceAt(found: number | undefined, offset: number, beyond: boolean): CompareResult | undefined {
  return found === undefined ? undefined : { kind: "content-differs", offset: offset + found, beyond };
}

/** What QEMU's block status says of an extent, apart from where it is: as text, to be compared. */
function statusOf({ kind, present, hostOffset, isData }: Extent): string {
  const zero = kind === "zero" || kind === "unallocated";
  return [
    zero ? "zero" : "",
    isData ? "data" : "",
    present ? "allocated" : "",
    hostOffset === undefined ? "" : "placed",
  ].join();
}

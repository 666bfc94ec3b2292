// Whether two images hold the same guest data, as qemu-img compare judges it.
//
// Invariants
// - The answer is that of a comparison byte by byte from the start: of several differences the first one.
// - Nothing is read whose bytes are known: zeros on both sides, or one place of one file on both.
// - Several reads are under way at once, over both images; memory is bounded by their number.

import { earliest, endOf, type GuestOffset, guestOffset, offsetBy } from "../../units/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { CHUNK_BYTES, ImagePair, READS_AT_ONCE, type Which } from "./image-pair.ts";
import { readIn, readsAsZeros } from "../read/extent-cursor.ts";
import type { Extent, Image } from "../image.ts";
import { Pipeline } from "../read/pipeline.ts";
import { findDifference, findNonZero } from "../read/zero-blocks.ts";

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
      const ends = [kind === "known" ? extentEnd : earliest(extentEnd, offsetBy(offset, CHUNK_BYTES))];
      if (kind === "data") await this.#join(ends, earliest(end, offsetBy(offset, CHUNK_BYTES)));
      const chunkEnd = ends.at(-1) ?? extentEnd;
      await this.#addComparison(pipeline, known, [one, other], offset, ends);
      offset = chunkEnd;
    }
    return pipeline.finish();
  }

  /**
   * Goes on over the data that follows on both sides, wherever it is stored: one comparison of many extents is
   * cheaper. Adds their ends.
   */
  async #join(ends: GuestOffset[], stop: GuestOffset): Promise<void> {
    for (let at = ends.at(-1) ?? stop; at < stop; at = ends.at(-1) ?? stop) {
      const found = this.#pair.findKnown(at) ?? (await this.#findBoth(at));
      // Told when its turn comes: what lies before it is compared first.
      if ("error" in found) return;
      const [one, other] = found;
      if (this.#options.strict && statusOf(one) !== statusOf(other)) return;
      if (readsAsZeros(one) || readsAsZeros(other) || this.#pair.knowsEqual(found, at)) return;
      ends.push(earliest(endOf(one), endOf(other), stop));
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
    known: boolean,
    found: readonly [Extent, Extent],
    offset: GuestOffset,
    ends: readonly GuestOffset[],
  ): Promise<void> {
    const end = ends.at(-1) ?? offset;
    const lengthBytes = end - offset;
    const [one, other] = found;
    const compare = async (): Promise<CompareResult | undefined> => {
      if (known) return undefined;
      if (readsAsZeros(one)) return this.#findNonZero(1, offset, lengthBytes, false);
      if (readsAsZeros(other)) return this.#findNonZero(0, offset, lengthBytes, false);
      const result = await this.#findDifference(offset, lengthBytes, found);
      return result?.kind === "unreadable" && ends.length > 1 ? this.#findInEach(offset, ends) : result;
    };
    await pipeline.add(compare, () => this.#options.onProgress?.(end, this.#totalBytes));
  }

  /** One extent after the other: a difference may lie before what can't be read. */
  async #findInEach(offset: GuestOffset, ends: readonly GuestOffset[]): Promise<CompareResult | undefined> {
    let start = offset;
    for (const end of ends) {
      const result = await this.#findDifference(start, end - start);
      if (result !== undefined) return result;
      start = end;
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

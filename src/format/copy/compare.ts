// Whether two images hold the same guest data, as qemu-img compare judges it.
//
// Invariants
// - The answer is that of a comparison byte by byte from the start: of several differences the first one.
// - Nothing is read whose bytes are known: zeros on both sides, or one place of one file on both.
// - Several reads are under way at once, over both images; memory is bounded by their number.

import { ImgtxError } from "../../errors/index.ts";
import { BufferPool } from "../read/buffer-pool.ts";
import { ExtentCursor, readsAsZeros } from "../read/extent-cursor.ts";
import type { Extent, Image } from "../image.ts";
import { Pipeline } from "../read/pipeline.ts";
import { findDifference, findNonZero } from "../read/zero-blocks.ts";
import { identityOf } from "../fingerprint.ts";

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
  readonly which: 0 | 1;
  readonly what: "extents" | "data";
  readonly offset: number;
  readonly error: ImgtxError;
}

const CHUNK_BYTES = 2 * 1024 * 1024;
const READS_AT_ONCE = 2;

export async function compareImages(
  first: Image,
  second: Image,
  options: CompareOptions,
): Promise<CompareResult> {
  const sizes = [first.virtualSizeBytes, second.virtualSizeBytes] as const;
  const sizesDiffer = sizes[0] !== sizes[1];
  if (options.strict && sizesDiffer) return { kind: "sizes-differ" };
  const comparison = new Comparison([first, second], await findIdentities([first, second]), options);
  const common = await comparison.compareBoth(Math.min(...sizes));
  if (common !== undefined) return common;
  if (sizesDiffer) {
    const beyond = await comparison.compareWithZeros(sizes[0] > sizes[1] ? 0 : 1, Math.min(...sizes));
    if (beyond !== undefined) return beyond;
  }
  return { kind: "identical", sizesDiffer };
}

class Comparison {
  readonly #images: readonly [Image, Image];
  readonly #identities: Identities;
  readonly #options: CompareOptions;
  readonly #totalBytes: number;
  readonly #buffers = new BufferPool(CHUNK_BYTES);

  constructor(images: readonly [Image, Image], identities: Identities, options: CompareOptions) {
    this.#images = images;
    this.#identities = identities;
    this.#options = options;
    this.#totalBytes = Math.max(images[0].virtualSizeBytes, images[1].virtualSizeBytes);
  }

  async compareBoth(end: number): Promise<CompareResult | undefined> {
    const cursors = this.#images.map((image) => new ExtentCursor(image, image.virtualSizeBytes));
    const pipeline = new Pipeline<CompareResult>(READS_AT_ONCE);
    for (let offset = 0; offset < end && !pipeline.isSettled; ) {
      this.#options.signal?.throwIfAborted();
      const extents: Extent[] = [];
      for (const [index, cursor] of cursors.entries()) {
        const found = await this.#guarded(index === 0 ? 0 : 1, "extents", offset, () => cursor.find(offset));
        if ("error" in found) return (await pipeline.finish()) ?? found;
        extents.push(found.value);
      }
      const [one, other] = extents;
      if (one === undefined || other === undefined) break;
      if (this.#options.strict && statusOf(one) !== statusOf(other)) {
        return (await pipeline.finish()) ?? { kind: "status-differs", offset };
      }
      const known = (readsAsZeros(one) && readsAsZeros(other)) || this.#isSamePlace(one, other, offset);
      const extentEnd = Math.min(endOf(one), endOf(other), end);
      const kind = known ? "known" : readsAsZeros(one) || readsAsZeros(other) ? "zeros" : "data";
      const ends = [kind === "known" ? extentEnd : Math.min(extentEnd, offset + CHUNK_BYTES)];
      if (kind === "data") await this.#join(cursors, ends, Math.min(end, offset + CHUNK_BYTES));
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
  async #join(cursors: readonly ExtentCursor[], ends: number[], stop: number): Promise<void> {
    for (let at = ends.at(-1) ?? stop; at < stop; at = ends.at(-1) ?? stop) {
      const extents: Extent[] = [];
      for (const [index, cursor] of cursors.entries()) {
        const found = await this.#guarded(index === 0 ? 0 : 1, "extents", at, () => cursor.find(at));
        // Told when its turn comes: what lies before it is compared first.
        if ("error" in found) return;
        extents.push(found.value);
      }
      const [one, other] = extents;
      if (one === undefined || other === undefined) return;
      if (this.#options.strict && statusOf(one) !== statusOf(other)) return;
      if (readsAsZeros(one) || readsAsZeros(other) || this.#isSamePlace(one, other, at)) return;
      ends.push(Math.min(endOf(one), endOf(other), stop));
    }
  }

  async compareWithZeros(which: 0 | 1, start: number): Promise<CompareResult | undefined> {
    const image = this.#images[which];
    const cursor = new ExtentCursor(image, image.virtualSizeBytes);
    const pipeline = new Pipeline<CompareResult>(READS_AT_ONCE);
    for (let offset = start; offset < image.virtualSizeBytes && !pipeline.isSettled; ) {
      this.#options.signal?.throwIfAborted();
      const found = await this.#guarded(which, "extents", offset, () => cursor.find(offset));
      if ("error" in found) return (await pipeline.finish()) ?? found;
      const extent = found.value;
      const zeros = readsAsZeros(extent);
      const extentEnd = extent.start + extent.lengthBytes;
      const end = zeros ? extentEnd : Math.min(extentEnd, offset + CHUNK_BYTES);
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
    [one, other]: readonly [Extent, Extent],
    offset: number,
    ends: readonly number[],
  ): Promise<void> {
    const end = ends.at(-1) ?? offset;
    const lengthBytes = end - offset;
    const compare = async (): Promise<CompareResult | undefined> => {
      if (known) return undefined;
      if (readsAsZeros(one)) return this.#findNonZero(1, offset, lengthBytes, false);
      if (readsAsZeros(other)) return this.#findNonZero(0, offset, lengthBytes, false);
      const result = await this.#findDifference(offset, lengthBytes);
      return result?.kind === "unreadable" && ends.length > 1 ? this.#findInEach(offset, ends) : result;
    };
    await pipeline.add(compare, () => this.#options.onProgress?.(end, this.#totalBytes));
  }

  /** One extent after the other: a difference may lie before what can't be read. */
  async #findInEach(offset: number, ends: readonly number[]): Promise<CompareResult | undefined> {
    let start = offset;
    for (const end of ends) {
      const result = await this.#findDifference(start, end - start);
      if (result !== undefined) return result;
      start = end;
    }
    return undefined;
  }

  async #findDifference(offset: number, lengthBytes: number): Promise<CompareResult | undefined> {
    return this.#buffers.lend((one) =>
      this.#buffers.lend(async (other) => {
        const pieces = [one.subarray(0, lengthBytes), other.subarray(0, lengthBytes)] as const;
        const failures = await Promise.all([
          this.#read(0, pieces[0], offset),
          this.#read(1, pieces[1], offset),
        ]);
        return failures[0] ?? failures[1] ?? differenceAt(findDifference(...pieces), offset, false);
      }),
    );
  }

  async #findNonZero(
    which: 0 | 1,
    offset: number,
    lengthBytes: number,
    beyond: boolean,
  ): Promise<CompareResult | undefined> {
    return this.#buffers.lend(async (buffer) => {
      const piece = buffer.subarray(0, lengthBytes);
      const failure = await this.#read(which, piece, offset);
      return failure ?? differenceAt(findNonZero(piece), offset, beyond);
    });
  }

  async #read(which: 0 | 1, target: Uint8Array, offset: number): Promise<CompareFailure | undefined> {
    const read = await this.#guarded(which, "data", offset, () => this.#images[which].read(target, offset));
    return "error" in read ? read : undefined;
  }

  async #guarded<T>(
    which: 0 | 1,
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

  #isSamePlace(one: Extent, other: Extent, offset: number): boolean {
    return isSamePlace(this.#identities, [one, other], offset);
  }
}

/** Of each layer's data file, by depth: the same text means the same file. */
type Identities = readonly [readonly string[], readonly string[]];

/** An overlay and its base, or two overlays of one base, have most of their data in common. */
export function isSamePlace(
  identities: Identities,
  [one, other]: readonly [Extent, Extent],
  offset: number,
): boolean {
  if (one.kind !== "data" || other.kind !== "data") return false;
  if (one.hostOffset === undefined || other.hostOffset === undefined) return false;
  const file = identities[0][one.depth];
  return (
    file !== undefined &&
    file === identities[1][other.depth] &&
    one.hostOffset + (offset - one.start) === other.hostOffset + (offset - other.start)
  );
}

export async function findIdentities(images: readonly [Image, Image]): Promise<Identities> {
  const [first, second] = await Promise.all(
    images.map((image) =>
      Promise.all(image.layers.map(async ({ dataFile }) => identityOf(await dataFile.stat()))),
    ),
  );
  return [first ?? [], second ?? []];
}

function differenceAt(found: number | undefined, offset: number, beyond: boolean): CompareResult | undefined {
  return found === undefined ? undefined : { kind: "content-differs", offset: offset + found, beyond };
}

function endOf({ start, lengthBytes }: Extent): number {
  return start + lengthBytes;
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

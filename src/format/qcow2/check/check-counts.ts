// How often each cluster of the file is referenced, as a check computes it.
//
// Invariants
// - Sparse: a chunk of clusters takes memory when the first of them is counted; 1 byte a cluster, and 4 more
//   only in chunks that hold a count of 255 or more.
// - A count never exceeds what the image's refcount width holds: what goes beyond is told to the caller, and
//   not counted.

import type { ClusterIndex } from "../../../units/index.ts";
export const CHUNK_BITS = 16;
export const CHUNK_CLUSTERS = 2 ** CHUNK_BITS;
export const CHUNK_MASK = CHUNK_CLUSTERS - 1;
/** In a chunk of bytes: the count is this or more, and stands elsewhere. */
export const LARGE_COUNT = 255;

/** Of counts that were released. Several checks in a row make do with the memory of one. */
const FREE_CHUNKS: Uint8Array[] = [];

const COUNT_MAX = 2 ** 32 - 1;

export class ClusterCounts {
  /** By chunk, a byte a cluster: the count, or LARGE_COUNT. Scans may add to counts that stay below it. */
  readonly low: (Uint8Array | undefined)[] = [];
  readonly #large: (Uint32Array | undefined)[] = [];
  readonly #max: number;
  /** Clusters that were counted or lie in the file. */
  clusters: number;

  /** max: the largest count that the refcount width holds. */
  constructor(clusters: number, max: number) {
    this.clusters = clusters;
    this.#max = Math.min(max, COUNT_MAX);
  }

  /** Counts up to which a scan may add one by itself: below LARGE_COUNT and below the maximum. */
  get fastMax(): number {
    return Math.min(LARGE_COUNT - 1, this.#max);
  }

  chunkFor(index: number): Uint8Array {
    const known = this.low[index];
    if (known !== undefined) return known;
    const made = FREE_CHUNKS.pop()?.fill(0) ?? new Uint8Array(CHUNK_CLUSTERS);
    this.low[index] = made;
    return made;
  }

  /** Nobody uses them any more: the next ones take their memory, which may not be collected by then. */
  release(): void {
    for (const chunk of this.low.splice(0)) if (chunk) FREE_CHUNKS.push(chunk);
  }

  count(cluster: ClusterIndex): number {
    const index = Math.floor(cluster / CHUNK_CLUSTERS);
    const at = cluster % CHUNK_CLUSTERS;
    const low = this.low[index]?.[at] ?? 0;
    return low === LARGE_COUNT ? (this.#large[index]?.[at] ?? low) : low;
  }

  /** Returns by how much the count would have exceeded the maximum; 0 for almost every image. */
  add(cluster: ClusterIndex, times: number): number {
    const index = Math.floor(cluster / CHUNK_CLUSTERS);
    const at = cluster % CHUNK_CLUSTERS;
    const chunk = this.chunkFor(index);
    const wanted = this.count(cluster) + times;
    const count = Math.min(wanted, this.#max);
    if (cluster >= this.clusters) this.clusters = cluster + 1;
    chunk[at] = Math.min(count, LARGE_COUNT);
    if (count >= LARGE_COUNT) {
      this.#large[index] ??= new Uint32Array(CHUNK_CLUSTERS);
      this.#large[index][at] = count;
    }
    return wanted - count;
  }
}

/** For a check that judges by counts of before: takes all, and keeps nothing. */
export class NoCounts extends ClusterCounts {
  readonly #scratch = new Uint8Array(CHUNK_CLUSTERS);

  override get fastMax(): number {
    return 2 ** 30;
  }

  override chunkFor(): Uint8Array {
    return this.#scratch;
  }

  override add(): number {
    return 0;
  }
}

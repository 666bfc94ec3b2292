// How often each cluster of the file is referenced, as a check computes it.
//
// Invariants
// - Sparse: a chunk of clusters takes memory when the first of them is counted. It begins with 2 bits a cluster, and
//   gets 4, then 8, when a count of its own no longer fits; 32 more only in chunks that hold a count of 255 or more.
//   So a full disk of 8 TiB takes 32 MiB, also with an internal snapshot of it.
// - A count never exceeds what the image's refcount width holds: what goes beyond is told to the caller, and
//   not counted.

import { findCollector } from "../../../storage/index.ts";
import type { ClusterIndex } from "../../../units/index.ts";

export const CHUNK_BITS = 16;
export const CHUNK_CLUSTERS = 2 ** CHUNK_BITS;
export const CHUNK_MASK = CHUNK_CLUSTERS - 1;
/** As a byte: the count is this or more, and stands elsewhere. */
export const LARGE_COUNT = 255;

/** Bits of a count, as an order: 2 to 8. */
type Order = 1 | 2 | 3;

/** Of counts that were released. Several checks in a row make do with the memory of one. */
const FREE_CHUNKS: Readonly<Record<Order, Uint8Array[]>> = { 1: [], 2: [], 3: [] };

const COUNT_MAX = 2 ** 32 - 1;
/** Those of 1 TiB in clusters of 64 KiB. */
const COLLECTED_BYTES = 4 * 1024 * 1024;

/** How many bits a count of the chunk has: its length tells. */
export function orderOf({ length }: Uint8Array): Order {
  if (length === CHUNK_CLUSTERS) return 3;
  return length === CHUNK_CLUSTERS / 2 ? 2 : 1;
}

/** The largest count of so many bits that stands for itself. */
function maxOf(order: Order): number {
  return order === 3 ? LARGE_COUNT - 1 : 2 ** (2 ** order) - 1;
}

export class ClusterCounts {
  /** By chunk, the counts side by side, the first in the lowest bits; of 8 bits, LARGE_COUNT as well. */
  readonly #packed: (Uint8Array | undefined)[] = [];
  readonly #large: (Uint32Array | undefined)[] = [];
  readonly #max: number;
  /** Clusters that were counted or lie in the file. */
  clusters: number;

  /** max: the largest count that the refcount width holds. */
  constructor(clusters: number, max: number) {
    this.clusters = clusters;
    this.#max = Math.min(max, COUNT_MAX);
  }

  /** After the last one with a count. */
  get chunksEnd(): number {
    return this.#packed.length;
  }

  /** Up to which a scan may raise a count in this chunk by itself. */
  fastMax(chunk: Uint8Array): number {
    return Math.min(maxOf(orderOf(chunk)), this.#max);
  }

  /** As it is in memory (orderOf): for scans, until anything is added by somebody else. */
  chunkFor(index: number): Uint8Array {
    return (this.#packed[index] ??= makeChunk(1));
  }

  /** The counts of a chunk as bytes, or LARGE_COUNT. False: all are 0. */
  readChunk(index: number, target: Uint8Array): boolean {
    const chunk = this.#packed[index];
    if (chunk === undefined) target.fill(0);
    else unpack(chunk, target);
    return chunk !== undefined;
  }

  /**
   * Nobody uses them any more. The next ones take their memory, which may not be collected by then; of a large disk it is
   * collected now where that can be had, since all that comes after would be held to the size that it had with them.
   */
  release(): void {
    const collect = findCollector();
    const sizeBytes = this.#packed.reduce((sum, chunk) => sum + (chunk?.length ?? 0), 0);
    if (collect && sizeBytes >= COLLECTED_BYTES) {
      this.#packed.length = 0;
      collect();
      return;
    }
    for (const chunk of this.#packed.splice(0)) if (chunk) FREE_CHUNKS[orderOf(chunk)].push(chunk);
  }

  count(cluster: ClusterIndex): number {
    const index = Math.floor(cluster / CHUNK_CLUSTERS);
    const at = cluster % CHUNK_CLUSTERS;
    const chunk = this.#packed[index];
    if (chunk === undefined) return 0;
    const order = orderOf(chunk);
    const { byte, shift, mask } = placeOf(at, order);
    const count = ((chunk[byte] ?? 0) >>> shift) & mask;
    return order === 3 && count === LARGE_COUNT ? (this.#large[index]?.[at] ?? count) : count;
  }

  /** Returns by how much the count would have exceeded the maximum; 0 for almost every image. */
  add(cluster: ClusterIndex, times: number): number {
    const index = Math.floor(cluster / CHUNK_CLUSTERS);
    const at = cluster % CHUNK_CLUSTERS;
    const wanted = this.count(cluster) + times;
    const count = Math.min(wanted, this.#max);
    if (cluster >= this.clusters) this.clusters = cluster + 1;
    const chunk = this.#chunkForCount(index, count);
    const { byte, shift, mask } = placeOf(at, orderOf(chunk));
    chunk[byte] = ((chunk[byte] ?? 0) & ~(mask << shift)) | (Math.min(count, LARGE_COUNT) << shift);
    if (count >= LARGE_COUNT) {
      this.#large[index] ??= new Uint32Array(CHUNK_CLUSTERS);
      this.#large[index][at] = count;
    }
    return wanted - count;
  }

  #chunkForCount(index: number, count: number): Uint8Array {
    let order: Order = 1;
    while (order < 3 && count > maxOf(order)) order = order === 1 ? 2 : 3;
    const known = this.#packed[index];
    if (known !== undefined && orderOf(known) >= order) return known;
    const made = makeChunk(order);
    if (known !== undefined) {
      repack(known, made);
      FREE_CHUNKS[orderOf(known)].push(known);
    }
    this.#packed[index] = made;
    return made;
  }
}

function makeChunk(order: Order): Uint8Array {
  return FREE_CHUNKS[order].pop()?.fill(0) ?? new Uint8Array(CHUNK_CLUSTERS >>> (3 - order));
}

/** Where the count is that is the at-th of its chunk. */
function placeOf(at: number, order: Order): { byte: number; shift: number; mask: number } {
  const inByte = 3 - order;
  return { byte: at >>> inByte, shift: (at & (2 ** inByte - 1)) << order, mask: 2 ** (2 ** order) - 1 };
}

/** Into one of wider counts. */
function repack(source: Uint8Array, target: Uint8Array): void {
  const [from, to] = [orderOf(source), orderOf(target)];
  for (let at = 0; at < CHUNK_CLUSTERS; at += 1) {
    const { byte, shift, mask } = placeOf(at, from);
    const count = ((source[byte] ?? 0) >>> shift) & mask;
    if (count === 0) continue;
    const place = placeOf(at, to);
    target[place.byte] = (target[place.byte] ?? 0) | (count << place.shift);
  }
}

/** Counts of 2 bits, each of them 1: as most are, and told at once. */
const PAIRS_OF_ONE = new Uint8Array(CHUNK_CLUSTERS / 4).fill(0b0101_0101);

function unpack(chunk: Uint8Array, target: Uint8Array): void {
  const order = orderOf(chunk);
  if (order === 3) {
    target.set(chunk);
  } else if (order === 2) {
    const pairs = new Uint16Array(target.buffer, target.byteOffset, chunk.length);
    for (let at = 0; at < chunk.length; at += 1) {
      const byte = chunk[at] ?? 0;
      pairs[at] = (byte & 15) | ((byte >>> 4) << 8);
    }
  } else if (Buffer.compare(chunk, PAIRS_OF_ONE) === 0) {
    target.fill(1);
  } else {
    const fours = new Uint32Array(target.buffer, target.byteOffset, chunk.length);
    for (let at = 0; at < chunk.length; at += 1) {
      const byte = chunk[at] ?? 0;
      fours[at] = (byte & 3) | (((byte >>> 2) & 3) << 8) | (((byte >>> 4) & 3) << 16) | ((byte >>> 6) << 24);
    }
  }
}

/** For a check that judges by counts of before: takes all, and keeps nothing. */
export class NoCounts extends ClusterCounts {
  readonly #scratch = new Uint8Array(CHUNK_CLUSTERS);

  override fastMax(): number {
    return 2 ** 30;
  }

  override chunkFor(): Uint8Array {
    return this.#scratch;
  }

  override add(): number {
    return 0;
  }
}

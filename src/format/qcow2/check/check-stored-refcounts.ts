// The refcounts that the image stores: whether each is 1, for the scans, and compared with what was computed.
//
// Invariants
// - A bit a cluster is kept, of chunks of clusters that have a count. The blocks are read once for that, and once more
//   to be compared: as a byte each they would not fit the memory that imgtx allows itself.
// - As a byte, a count of 255 or more, and one that can't be read, is LARGE_COUNT; the exact one is read again from the
//   file, where it is needed.

import { type ClusterIndex, clusterIndex, offsetBy, safeNumber, startOf } from "../../../units/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import { CHUNK_CLUSTERS, type ClusterCounts, LARGE_COUNT } from "./check-counts.ts";
import type { CheckFindings } from "./check-findings.ts";
import { readRefcount, WORDS_OF_ONE } from "../codec/refcount-block.ts";
import { countBlockEntries, type RefcountLayout } from "../codec/refcount-table.ts";

/** Bits 8 to 0 of an entry of the refcount table, in its low half. */
const TABLE_RESERVED_LO = 0x1ff;
/** From here on QEMU reads nothing, and zeros before. */
const OFFSET_END = 2 ** 63 - 2 ** 30;

export interface RefcountTable extends RefcountLayout {
  /** Entries of the refcount table as they are in the file; where the file ends inside it, zeros follow. */
  readonly table: Uint32Array;
}

/** The offset that an entry of the table holds, in bytes; inexact above 2^53, where no file reaches. */
export function refcountBlockOffset(table: Uint32Array, index: number): number {
  const hi = table[2 * index] ?? 0;
  const lo = table[2 * index + 1] ?? 0;
  return hi * 2 ** 32 + ((lo & ~TABLE_RESERVED_LO) >>> 0);
}

export function hasReservedBits(table: Uint32Array, index: number): boolean {
  return ((table[2 * index + 1] ?? 0) & TABLE_RESERVED_LO) !== 0;
}

export class StoredRefcounts {
  /** By chunk, a bit a cluster: whether its count is 1. */
  ones: readonly (Uint8Array | undefined)[] = [];
  readonly #file: StorageFile;
  readonly #layout: RefcountTable;
  readonly #entriesPerBlock: number;
  readonly clusterSizeBytes: number;
  readonly #unreadable = new Set<number>();
  #corrected: ClusterCounts | undefined;
  /** The block that was read last, for exact counts. */
  #block: { readonly index: number; readonly bytes: Uint8Array } | undefined;
  readonly #part: Uint8Array;

  constructor(file: StorageFile, layout: RefcountTable) {
    this.#file = file;
    this.#layout = layout;
    this.clusterSizeBytes = 2 ** layout.clusterBits;
    this.#entriesPerBlock = countBlockEntries(layout);
    const partBytes = (CHUNK_CLUSTERS * 2 ** layout.refcountOrder) / 8;
    this.#part = new Uint8Array(Math.min(partBytes, this.clusterSizeBytes));
  }

  /** Reads the counts of the first clusters of the file. */
  async load(clusters: number): Promise<void> {
    const counts = new Uint8Array(CHUNK_CLUSTERS);
    const ones: (Uint8Array | undefined)[] = [];
    for (let index = 0; index * CHUNK_CLUSTERS < clusters; index += 1) {
      if (await this.readChunk(index, counts)) ones[index] = findOnes(counts);
    }
    this.ones = ones;
  }

  /** Takes these counts in the place of those of the file, which need not be loaded then. */
  correct(counts: ClusterCounts): void {
    const bytes = new Uint8Array(CHUNK_CLUSTERS);
    const ones: (Uint8Array | undefined)[] = [];
    for (let index = 0; index < counts.chunksEnd; index += 1) {
      if (counts.readChunk(index, bytes)) ones[index] = findOnes(bytes);
    }
    this.ones = ones;
    this.#corrected = counts;
  }

  /** Whether the count can't be read, because the table's entry for it can't be true. */
  isUnreadable(cluster: ClusterIndex): boolean {
    return this.#unreadable.size > 0 && this.#unreadable.has(Math.floor(cluster / this.#entriesPerBlock));
  }

  isOne(cluster: ClusterIndex): boolean {
    const at = cluster % CHUNK_CLUSTERS;
    const ones = this.ones[Math.floor(cluster / CHUNK_CLUSTERS)];
    return (((ones?.[at >>> 3] ?? 0) >>> (at & 7)) & 1) === 1;
  }

  /** The counts of a chunk as bytes; LARGE_COUNT where they can't be read. False: all are 0. */
  async readChunk(index: number, target: Uint8Array): Promise<boolean> {
    let isUsed = false;
    for (let at = 0; at < CHUNK_CLUSTERS; ) {
      const cluster = index * CHUNK_CLUSTERS + at;
      const entry = cluster % this.#entriesPerBlock;
      const end = Math.min(CHUNK_CLUSTERS, at + this.#entriesPerBlock - entry);
      const block = Math.floor(cluster / this.#entriesPerBlock);
      isUsed = (await this.#readPart(block, entry, target.subarray(at, end))) || isUsed;
      at = end;
    }
    return isUsed;
  }

  /** The exact count, beyond 2^53 the nearest double. Undefined where it is unreadable. */
  async readCount(cluster: ClusterIndex): Promise<number | undefined> {
    if (this.#corrected) return this.#corrected.count(cluster);
    if (this.isUnreadable(cluster)) return undefined;
    const index = Math.floor(cluster / this.#entriesPerBlock);
    if (this.#block?.index !== index) {
      const bytes = this.#block?.bytes ?? new Uint8Array(this.clusterSizeBytes);
      const offset = refcountBlockOffset(this.#layout.table, index);
      this.#block = undefined;
      if (offset === 0) bytes.fill(0);
      else await this.#read(bytes, offset);
      this.#block = { index, bytes };
    }
    return readRefcount(this.#block.bytes, cluster % this.#entriesPerBlock, this.#layout.refcountOrder);
  }

  /** The count as it is printed: exact, also beyond 2^53. "unknown" where it is unreadable. */
  async formatCount(cluster: ClusterIndex): Promise<string> {
    const count = await this.readCount(cluster);
    if (count === undefined) return "unknown";
    const bytes = this.#block?.bytes;
    if (Number.isSafeInteger(count) || bytes === undefined) return String(count);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return view.getBigUint64((cluster % this.#entriesPerBlock) * 8).toString();
  }

  /** The same of a part of a block, from an entry on. What lies past the end of the file reads as zeros. */
  async #readPart(index: number, entry: number, target: Uint8Array): Promise<boolean> {
    const offset = refcountBlockOffset(this.#layout.table, index);
    const order = this.#layout.refcountOrder;
    if (offset !== 0 && !this.#isPlace(offset)) {
      this.#unreadable.add(index);
      target.fill(LARGE_COUNT);
      return true;
    }
    const bytes = this.#part.subarray(0, (target.length * 2 ** order) / 8);
    if (offset !== 0) await this.#read(bytes, offset + (entry * 2 ** order) / 8);
    if (offset === 0 || Buffer.compare(bytes, ZEROS.subarray(0, bytes.length)) === 0) {
      target.fill(0);
      return false;
    }
    if (order === 4 && Buffer.compare(bytes, WORDS_OF_ONE.subarray(0, bytes.length)) === 0) target.fill(1);
    else if (order === 4) narrowWords(bytes, target);
    else
      for (let at = 0; at < target.length; at += 1) {
        target[at] = Math.min(readRefcount(bytes, at, order), LARGE_COUNT);
      }
    return true;
  }

  /** False where the entry of the table can't be true. */
  #isPlace(offset: number): boolean {
    return offset % this.clusterSizeBytes === 0 && offset < OFFSET_END;
  }

  async #read(bytes: Uint8Array, offset: number): Promise<void> {
    const readable = safeNumber(BigInt(offset)) !== undefined;
    bytes.fill(0, readable ? await this.#file.read(bytes, offset) : 0);
  }
}

/** As many as a part of a block can have. */
const ZEROS = new Uint8Array(CHUNK_CLUSTERS * 8);

/** As most counts are: such chunks are told at once. */
const BYTES_OF_ONE = new Uint8Array(CHUNK_CLUSTERS).fill(1);
const ALL_ONE = new Uint8Array(CHUNK_CLUSTERS / 8).fill(0xff);

/** A bit for each count of a chunk: whether it is 1. Not to be changed. Undefined where none is. */
function findOnes(counts: Uint8Array): Uint8Array | undefined {
  if (Buffer.compare(counts, BYTES_OF_ONE) === 0) return ALL_ONE;
  if (!counts.includes(1)) return undefined;
  const ones = new Uint8Array(counts.length / 8);
  const fours = new Uint32Array(counts.buffer, counts.byteOffset, counts.length / 4);
  for (let at = 0; at < ones.length; at += 1) {
    const [low, high] = [fours[2 * at] ?? 0, fours[2 * at + 1] ?? 0];
    if ((low | high) === 0) continue;
    if (low === FOUR_ONES && high === FOUR_ONES) {
      ones[at] = 0xff;
      continue;
    }
    for (let bit = 0; bit < 8; bit += 1)
      if (counts[8 * at + bit] === 1) ones[at] = (ones[at] ?? 0) | (1 << bit);
  }
  return ones;
}

const FOUR_ONES = 0x01010101;

/** Counts of 16 bits, as almost every image has them: two at a time, as long as both fit a byte. */
function narrowWords(source: Uint8Array, target: Uint8Array): void {
  const pairs = new Uint32Array(source.buffer, source.byteOffset, source.length / 4);
  const narrow = new Uint16Array(target.buffer, target.byteOffset, target.length / 2);
  for (let pair = 0; pair < pairs.length; pair += 1) {
    const words = pairs[pair] ?? 0;
    if ((words & HIGH_BYTES) === 0) {
      narrow[pair] = ((words >>> 8) & 0xff) | ((words >>> 16) & 0xff00);
      continue;
    }
    for (let entry = 2 * pair; entry < 2 * pair + 2; entry += 1) {
      target[entry] = source[2 * entry] === 0 ? (source[2 * entry + 1] ?? 0) : LARGE_COUNT;
    }
  }
}

/** Of two big-endian words, read by a little-endian machine. */
const HIGH_BYTES = 0x00ff00ff;

/**
 * Compares stored with computed counts, as `qemu-img check` does: stored above computed is a leak, below it an
 * error. Returns where the last cluster in use ends, in clusters.
 */
export async function compareRefcounts(
  stored: StoredRefcounts,
  computed: ClusterCounts,
  findings: CheckFindings,
): Promise<ClusterIndex> {
  let lastUsed = clusterIndex(0);
  const chunks = Math.ceil(computed.clusters / CHUNK_CLUSTERS);
  const storedChunk = new Uint8Array(CHUNK_CLUSTERS);
  const computedChunk = new Uint8Array(CHUNK_CLUSTERS);
  for (let index = 0; index < chunks; index += 1) {
    const isUsed = await stored.readChunk(index, storedChunk);
    const isCounted = computed.readChunk(index, computedChunk);
    if (!isUsed && !isCounted) continue;
    const start = clusterIndex(index * CHUNK_CLUSTERS);
    const clusters = Math.min(CHUNK_CLUSTERS, computed.clusters - start);
    const one = storedChunk.subarray(0, clusters);
    const other = computedChunk.subarray(0, clusters);
    lastUsed = findLastUsed(start, one, other, stored) ?? lastUsed;
    // Bytes first: of two chunks that are equal, and hold no count that stands elsewhere, no entry is looked at.
    if (Buffer.compare(one, other) === 0 && !one.includes(LARGE_COUNT)) continue;
    for (let at = 0; at < clusters; at += 1) {
      const [count = 0, references = 0] = [one[at], other[at]];
      if (count === references && count !== LARGE_COUNT) continue;
      const cluster = offsetBy(start, at);
      if (count === LARGE_COUNT || references === LARGE_COUNT) {
        await compareLarge(cluster, stored, computed, findings);
      } else tellDifference(cluster, { count, references, stored, findings });
    }
  }
  return offsetBy(lastUsed, 1);
}

/** What has no readable count is passed over, as QEMU does. */
function findLastUsed(
  start: ClusterIndex,
  one: Uint8Array,
  other: Uint8Array,
  stored: StoredRefcounts,
): ClusterIndex | undefined {
  for (let at = one.length - 1; at >= 0; at -= 1) {
    const cluster = offsetBy(start, at);
    if ((one[at] !== 0 || other[at] !== 0) && !stored.isUnreadable(cluster)) return cluster;
  }
  return undefined;
}

/** What bytes do not tell. */
async function compareLarge(
  cluster: ClusterIndex,
  stored: StoredRefcounts,
  computed: ClusterCounts,
  findings: CheckFindings,
): Promise<void> {
  const count = await stored.readCount(cluster);
  const references = computed.count(cluster);
  if (count === undefined) {
    findings.unjudged(`Can't get refcount for cluster ${cluster}: Input/output error`);
  } else if (count !== references) {
    const text = await stored.formatCount(cluster);
    tellDifference(cluster, { count, references, stored, findings, text });
  }
}

interface Difference {
  readonly count: number;
  readonly references: number;
  readonly stored: StoredRefcounts;
  readonly findings: CheckFindings;
  /** The count as it is printed. */
  readonly text?: string;
}

function tellDifference(cluster: ClusterIndex, difference: Difference): void {
  const { count, references, stored, findings, text = String(count) } = difference;
  if (findings.takes(cluster, count, references)) return;
  if (count < references) {
    findings.corrupt(`ERROR cluster ${cluster} refcount=${text} reference=${references}`, 1, {
      kind: "uncounted",
      offset: startOf(cluster, stored.clusterSizeBytes),
      count,
    });
  } else {
    const line = `Leaked cluster ${cluster} refcount=${text} reference=${references}`;
    findings.leak(line, cluster, count - references);
  }
}

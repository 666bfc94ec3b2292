// The refcounts that the image stores: read once, kept a byte a cluster for the scans, and compared with what
// was computed.
//
// Invariants
// - Memory is taken for chunks of clusters that have a count, and only for clusters of the file; those whose counts are
//   all equal share one.
// - A count of 255 or more, and one that can't be read, is LARGE_COUNT in its chunk; the exact one is read
//   again from the file, where it is needed.

import { type ClusterIndex, clusterIndex, offsetBy, safeNumber, startOf } from "../../../units/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import { CHUNK_BITS, CHUNK_CLUSTERS, CHUNK_MASK, type ClusterCounts, LARGE_COUNT } from "./check-counts.ts";
import type { CheckFindings } from "./check-findings.ts";
import { readRefcount } from "../codec/refcount-block.ts";
import { countBlockEntries } from "../codec/refcount-table.ts";

/** Bits 8 to 0 of an entry of the refcount table, in its low half. */
const TABLE_RESERVED_LO = 0x1ff;
/** From here on QEMU reads nothing, and zeros before. */
const OFFSET_END = 2 ** 63 - 2 ** 30;

export interface RefcountLayout {
  readonly clusterBits: number;
  readonly refcountOrder: number;
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
  /** By chunk, a byte a cluster: the count, or LARGE_COUNT. */
  low: (Uint8Array | undefined)[] = [];
  readonly #file: StorageFile;
  readonly #layout: RefcountLayout;
  readonly #entriesPerBlock: number;
  readonly clusterSizeBytes: number;
  readonly #unreadable = new Set<number>();
  /** Chunks of one count all through, by that count. They are not written to any more. */
  readonly #alike = new Map<number, Uint8Array>();
  #corrected: ClusterCounts | undefined;
  /** The block that was read last, for exact counts. */
  #block: { readonly index: number; readonly bytes: Uint8Array } | undefined;

  constructor(file: StorageFile, layout: RefcountLayout) {
    this.#file = file;
    this.#layout = layout;
    this.clusterSizeBytes = 2 ** layout.clusterBits;
    this.#entriesPerBlock = countBlockEntries(layout);
  }

  /** Reads the counts of the first clusters of the file. */
  async load(clusters: number): Promise<void> {
    const tableEntries = this.#layout.table.length / 2;
    const blocks = Math.min(tableEntries, Math.ceil(clusters / this.#entriesPerBlock));
    const bytes = new Uint8Array(this.clusterSizeBytes);
    for (let index = 0, shared = 0; index < blocks; index += 1) {
      // No later block counts a cluster of these chunks.
      const complete = Math.floor((index * this.#entriesPerBlock) / CHUNK_CLUSTERS);
      for (; shared < complete; shared += 1) this.#shareAlike(shared);
      if (refcountBlockOffset(this.#layout.table, index) === 0) continue;
      if (await this.#readBlock(index, bytes)) this.#spread(index, bytes);
      else this.#markUnreadable(index, clusters);
    }
  }

  /** Takes these counts in the place of those of the file, which need not be loaded then. */
  correct(counts: ClusterCounts): void {
    this.low = counts.low;
    this.#corrected = counts;
  }

  /** A chunk of equal counts, as most of a full disk are, takes the memory of one. */
  #shareAlike(index: number): void {
    const chunk = this.low[index];
    const value = chunk?.[0];
    if (chunk === undefined || value === undefined) return;
    const alike = this.#alike.get(value) ?? new Uint8Array(CHUNK_CLUSTERS).fill(value);
    if (Buffer.compare(chunk, alike) !== 0) return;
    this.#alike.set(value, alike);
    this.low[index] = alike;
  }

  /** Whether the count can't be read, because the table's entry for it can't be true. */
  isUnreadable(cluster: ClusterIndex): boolean {
    return this.#unreadable.size > 0 && this.#unreadable.has(Math.floor(cluster / this.#entriesPerBlock));
  }

  /** The count as a byte: LARGE_COUNT stands for all from there on, and for an unreadable one. */
  lowCount(cluster: ClusterIndex): number {
    return this.low[Math.floor(cluster / CHUNK_CLUSTERS)]?.[cluster % CHUNK_CLUSTERS] ?? 0;
  }

  /** The exact count, beyond 2^53 the nearest double. Undefined where it is unreadable. */
  async readCount(cluster: ClusterIndex): Promise<number | undefined> {
    const low = this.lowCount(cluster);
    if (low !== LARGE_COUNT) return low;
    if (this.#corrected) return this.#corrected.count(cluster);
    if (this.isUnreadable(cluster)) return undefined;
    const index = Math.floor(cluster / this.#entriesPerBlock);
    if (this.#block?.index !== index) {
      const bytes = new Uint8Array(this.clusterSizeBytes);
      await this.#readBlock(index, bytes);
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

  /** False where the entry of the table can't be true. What lies past the end of the file reads as zeros. */
  async #readBlock(index: number, bytes: Uint8Array): Promise<boolean> {
    const offset = refcountBlockOffset(this.#layout.table, index);
    if (offset % this.clusterSizeBytes !== 0 || offset >= OFFSET_END) return false;
    const readable = safeNumber(BigInt(offset)) !== undefined;
    const got = readable ? await this.#file.read(bytes, offset) : 0;
    bytes.fill(0, got);
    return true;
  }

  #markUnreadable(index: number, clusters: number): void {
    this.#unreadable.add(index);
    const first = index * this.#entriesPerBlock;
    const end = Math.min(first + this.#entriesPerBlock, clusters);
    for (let at = first; at < end; ) {
      const pieceEnd = Math.min(end, (Math.floor(at / CHUNK_CLUSTERS) + 1) * CHUNK_CLUSTERS);
      this.#chunkFor(at).fill(LARGE_COUNT, at & CHUNK_MASK, pieceEnd - at + (at & CHUNK_MASK));
      at = pieceEnd;
    }
  }

  /** Copies the counts of a block to the chunks of its clusters; what is all zeros takes no memory. */
  #spread(index: number, bytes: Uint8Array): void {
    const order = this.#layout.refcountOrder;
    const first = index * this.#entriesPerBlock;
    const pieceEntries = Math.min(this.#entriesPerBlock, CHUNK_CLUSTERS);
    const pieceBytes = (pieceEntries * 2 ** order) / 8;
    for (let piece = 0; piece * pieceEntries < this.#entriesPerBlock; piece += 1) {
      const source = bytes.subarray(piece * pieceBytes, (piece + 1) * pieceBytes);
      if (source.every(isZero)) continue;
      const cluster = first + piece * pieceEntries;
      const chunk = this.#chunkFor(cluster);
      const at = cluster % CHUNK_CLUSTERS;
      const target = chunk.subarray(at, at + pieceEntries);
      if (order === 4) narrowWords(source, target);
      else
        for (let entry = 0; entry < pieceEntries; entry += 1) {
          target[entry] = Math.min(readRefcount(source, entry, order), LARGE_COUNT);
        }
    }
  }

  #chunkFor(cluster: number): Uint8Array {
    const index = cluster >>> CHUNK_BITS;
    const known = this.low[index];
    if (known !== undefined) return known;
    const made = new Uint8Array(CHUNK_CLUSTERS);
    this.low[index] = made;
    return made;
  }
}

function isZero(byte: number): boolean {
  return byte === 0;
}

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
  for (let index = 0; index < chunks; index += 1) {
    const storedChunk = stored.low[index];
    const computedChunk = computed.low[index];
    if (storedChunk === undefined && computedChunk === undefined) continue;
    const start = clusterIndex(index * CHUNK_CLUSTERS);
    const clusters = Math.min(CHUNK_CLUSTERS, computed.clusters - start);
    const one = (storedChunk ?? NO_COUNTS).subarray(0, clusters);
    const other = (computedChunk ?? NO_COUNTS).subarray(0, clusters);
    lastUsed = findLastUsed(start, one, other, stored) ?? lastUsed;
    // Bytes first: of two chunks that are equal, and hold no count that stands elsewhere, no entry is looked at.
    if (Buffer.compare(one, other) === 0 && !one.includes(LARGE_COUNT)) continue;
    for (let at = 0; at < clusters; at += 1) {
      if (one[at] !== other[at] || one[at] === LARGE_COUNT) {
        await compareCluster(offsetBy(start, at), stored, computed, findings);
      }
    }
  }
  return offsetBy(lastUsed, 1);
}

const NO_COUNTS = new Uint8Array(CHUNK_CLUSTERS);

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

async function compareCluster(
  cluster: ClusterIndex,
  stored: StoredRefcounts,
  computed: ClusterCounts,
  findings: CheckFindings,
): Promise<void> {
  const count = await stored.readCount(cluster);
  const references = computed.count(cluster);
  if (count !== undefined && count !== references) findings.miscounted(cluster, count, references);
  if (count === undefined) {
    findings.unjudged(`Can't get refcount for cluster ${cluster}: Input/output error`);
  } else if (count < references) {
    const line = `ERROR cluster ${cluster} refcount=${count} reference=${references}`;
    findings.corrupt(line, 1, {
      kind: "uncounted",
      offset: startOf(cluster, stored.clusterSizeBytes),
      count,
    });
  } else if (count > references) {
    const text = await stored.formatCount(cluster);
    findings.leak(
      `Leaked cluster ${cluster} refcount=${text} reference=${references}`,
      cluster,
      count - references,
    );
  }
}

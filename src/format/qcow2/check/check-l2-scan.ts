// Judges the entries of one L2 table, and counts what they refer to.
//
// Invariants
// - The loop over a table allocates nothing, and looks closer only at entries that are not plain data clusters
//   inside the file with a matching COPIED flag. A preallocated image of 1 TiB has 16 million of them.
// - Sixteen of them that lead to clusters side by side, each with one reference, are counted at once: nearly all do.
// - An entry is judged once, however many L1 entries lead to its table: findings and counts are multiplied.

import { type ClusterIndex, clusterIndex, SECTOR_BYTES } from "../../../units/index.ts";
import { CHUNK_BITS, CHUNK_CLUSTERS, CHUNK_MASK, orderOf } from "./check-counts.ts";
import { formatWord } from "./check-findings.ts";
import type { References } from "./check-references.ts";
import {
  L2_COMPRESSED_HI,
  L2_COPIED_HI,
  L2_RESERVED_HI,
  L2_RESERVED_LO,
  L2_ZERO_LO,
  type L2Layout,
} from "../codec/l2-table.ts";

/** The refcounts that the image stores. */
export interface StoredCounts {
  /** By chunk, a bit a cluster: whether the count is 1. */
  readonly ones: readonly (Uint8Array | undefined)[];
  isOne(cluster: ClusterIndex): boolean;
  isUnreadable(cluster: ClusterIndex): boolean;
}

/** Figures of the active layer. */
export interface LayoutFigures {
  allocatedClusters: number;
  fragmentedClusters: number;
  compressedClusters: number;
}

/** How often a table is reached. */
export interface TableUse {
  /** From all L1 tables, and from the active one. */
  readonly times: number;
  readonly activeTimes: number;
  /** Active references whose COPIED flags are to be judged: not where the table's own refcount is unreadable. */
  readonly judgedTimes: number;
}

/** A COPIED flag that says "one reference" of a cluster that has another number, or the reverse. */
export interface WrongFlag {
  readonly what: string;
  /** Undefined for a cluster of a data file, which has one reference always. */
  readonly cluster: ClusterIndex | undefined;
  readonly times: number;
  /** Whether it says "one reference", and so would let the cluster be written to in place. */
  readonly isSet: boolean;
}

interface Entry {
  readonly index: number;
  readonly hi: number;
  readonly lo: number;
  readonly zeroBits: number;
  readonly allocBits: number;
}

const OFFSET_HI = 0x00ffffff;
const OFFSET_LO = 0xfffffe00;
/** So many clusters have their counts of 2 bits in four bytes, and their bits of stored counts in two. */
const RUN = 16;
/** In the place of a COPIED flag. */
const NOT_JUDGED = -1;
/** Lines about COPIED flags come last, as in qemu-img; beyond these they are only counted. */
const FLAGS_KEPT_MAX = 10_000;

export class L2Scan {
  readonly figures: LayoutFigures = { allocatedClusters: 0, fragmentedClusters: 0, compressedClusters: 0 };
  /** Wrong COPIED flags, for the caller to tell after the comparison of refcounts. */
  readonly wrongFlags: WrongFlag[] = [];
  copiedErrors = 0;
  readonly #references: References;
  readonly #stored: StoredCounts;
  readonly #layout: L2Layout;
  readonly #clusterSizeBytes: number;
  /** Clusters of the file when it was opened. */
  readonly #fileClusters: number;
  #nextOffset = 0;
  #hasWrongSet = false;

  constructor(references: References, stored: StoredCounts, layout: L2Layout) {
    this.#references = references;
    this.#stored = stored;
    this.#layout = layout;
    this.#clusterSizeBytes = 2 ** layout.clusterBits;
    this.#fileClusters = Math.ceil(references.fileSizeBytes / this.#clusterSizeBytes);
  }

  /** halves: the whole table, as toHalves gives it. Returns whether any entry was set. */
  scan(halves: Uint32Array, use: TableUse): boolean {
    this.#nextOffset = 0;
    // In 32-bit integers all the way: numbers of clusters are below 2^31, and what is not takes the long way.
    const words = new Int32Array(halves.buffer, halves.byteOffset, halves.length);
    return this.#layout.hasExternalDataFile ? this.#scanExternal(words, use) : this.#scanOwn(words, use);
  }

  /** what: of millions nobody wants to hear. */
  noteWrongFlag(flag: Omit<WrongFlag, "what">, what: () => string): void {
    this.copiedErrors += flag.times;
    const isFirstSet = flag.isSet && !this.#hasWrongSet;
    this.#hasWrongSet ||= flag.isSet;
    if (this.wrongFlags.length < FLAGS_KEPT_MAX || isFirstSet)
      this.wrongFlags.push({ ...flag, what: what() });
  }

  #scanOwn(words: Int32Array, use: TableUse): boolean {
    const { clusterBits, hasExtendedL2 } = this.#layout;
    const { counts } = this.#references;
    const { ones } = this.#stored;
    const { times } = use;
    const fileClusters = this.#fileClusters;
    const stride = hasExtendedL2 ? 4 : 2;
    const specialHi = L2_COMPRESSED_HI | L2_RESERVED_HI | (OFFSET_HI & -(2 ** (clusterBits - 1)));
    const specialLo = this.#clusterSizeBytes - 1;
    const shift = 32 - clusterBits;
    const isJudged = use.judgedTimes > 0;
    let chunkIndex = -1;
    let countsRuns = false;
    let computedChunk: Uint8Array = NO_CHUNK;
    let onesChunk: Uint8Array = NO_CHUNK;
    // Of counts in this chunk: how many bits they have, as an order; and up to which one may be raised.
    let [order, countMax] = [0, 0];
    let [allocated, fragmented, next] = [0, 0, 0];
    let isUsed = false;
    for (let at = 0; at < words.length; at += stride) {
      const hi = words[at] ?? 0;
      const lo = words[at + 1] ?? 0;
      if ((hi | lo) === 0 && (stride === 2 || ((words[at + 2] ?? 0) | (words[at + 3] ?? 0)) === 0)) continue;
      isUsed = true;
      const cluster = ((hi & OFFSET_HI) << shift) | (lo >>> clusterBits);
      const isPlain = (hi & specialHi) === 0 && (lo & specialLo) === 0 && cluster !== 0;
      if (isPlain && cluster < fileClusters && (stride === 2 || isSoundBitmap(words, at))) {
        const index = cluster >>> CHUNK_BITS;
        if (index !== chunkIndex) {
          chunkIndex = index;
          computedChunk = counts.chunkFor(index);
          onesChunk = ones[index] ?? NO_ONES;
          order = orderOf(computedChunk);
          countMax = counts.fastMax(computedChunk) - times;
          countsRuns = stride === 2 && order === 1 && countMax >= 0;
        }
        const inChunk = cluster & CHUNK_MASK;
        const flag = isJudged ? hi >>> 31 : NOT_JUDGED;
        const mayRun = countsRuns && inChunk % RUN === 0 && cluster + RUN <= fileClusters;
        const isRun = mayRun && leadOn(words, at, this.#clusterSizeBytes);
        let taken = isRun && countRun(computedChunk, inChunk, times, onesChunk, flag) ? RUN : 0;
        const isOne = taken === 0 && fits(onesChunk, inChunk, flag);
        if (isOne && countOne(computedChunk, inChunk, times, order, countMax)) taken = 1;
        if (taken > 0) {
          allocated += taken;
          if (cluster !== next && next !== 0) fragmented += 1;
          next = cluster + taken;
          at += stride * (taken - 1);
          continue;
        }
      }
      this.#nextOffset = next * this.#clusterSizeBytes;
      this.#judge(entryAt(words, at, stride), use);
      next = this.#nextOffset / this.#clusterSizeBytes;
      chunkIndex = -1;
    }
    this.figures.allocatedClusters += allocated * use.activeTimes;
    this.figures.fragmentedClusters += fragmented * use.activeTimes;
    return isUsed;
  }

  /** Of a data file nothing is counted: what lies there is the image's own. */
  #scanExternal(words: Int32Array, use: TableUse): boolean {
    const stride = this.#layout.hasExtendedL2 ? 4 : 2;
    const { clusterBits } = this.#layout;
    const specialLo = this.#clusterSizeBytes - 1;
    const highScale = 2 ** (32 - clusterBits);
    let next = -1;
    let isUsed = false;
    for (let at = 0; at < words.length; at += stride) {
      const hi = words[at] ?? 0;
      const lo = words[at + 1] ?? 0;
      if ((hi | lo) === 0 && (stride === 2 || ((words[at + 2] ?? 0) | (words[at + 3] ?? 0)) === 0)) continue;
      isUsed = true;
      const cluster = (hi & OFFSET_HI) * highScale + (lo >>> clusterBits);
      const isPlain = (hi & (L2_COMPRESSED_HI | L2_RESERVED_HI)) === 0 && (lo & specialLo) === 0 && hi < 0;
      if (isPlain && cluster === next && (stride === 2 || isSoundBitmap(words, at))) {
        this.figures.allocatedClusters += use.activeTimes;
        next = cluster + 1;
        continue;
      }
      this.#nextOffset = Math.max(next, 0) * this.#clusterSizeBytes;
      this.#judge(entryAt(words, at, stride), use);
      next = this.#nextOffset === 0 ? -1 : this.#nextOffset / this.#clusterSizeBytes;
    }
    return isUsed;
  }

  #judge(entry: Entry, use: TableUse): void {
    const { hi, lo } = entry;
    if ((hi & L2_COMPRESSED_HI) !== 0) {
      this.#judgeCompressed(entry, use);
      return;
    }
    const { findings } = this.#references;
    if ((hi & L2_RESERVED_HI) !== 0 || (lo & L2_RESERVED_LO) !== 0) {
      findings.corrupt(`ERROR found l2 entry with reserved bits set: ${formatWord(hi, lo)}`, use.times);
    }
    const offset = (hi & OFFSET_HI) * 2 ** 32 + ((lo & OFFSET_LO) >>> 0);
    const { hasExtendedL2, hasExternalDataFile } = this.#layout;
    const isZero = (lo & L2_ZERO_LO) !== 0 && !hasExtendedL2;
    // In a data file the first cluster is at 0; there the COPIED flag tells it from no cluster.
    const hasCluster = offset !== 0 || (!isZero && hasExternalDataFile && hi >>> 31 === 1);
    if (hasCluster) this.#judgeAllocated(entry, offset, use);
    else if (entry.allocBits !== 0) {
      findings.corrupt("ERROR: Unallocated cluster has non-zero subcluster allocation map", use.times);
    }
  }

  #judgeAllocated(entry: Entry, offset: number, use: TableUse): void {
    const { findings } = this.#references;
    const { hasExtendedL2, hasExternalDataFile } = this.#layout;
    if ((entry.zeroBits & entry.allocBits) !== 0) {
      findings.corrupt(
        `ERROR offset=${formatPlace(entry)}: Allocated cluster has corrupted subcluster allocation bitmap`,
        use.times,
      );
    }
    if (offset % this.#clusterSizeBytes !== 0) {
      const holdsData = hasExtendedL2 ? entry.allocBits !== 0 : (entry.lo & L2_ZERO_LO) === 0;
      const what = holdsData ? "Data cluster" : "Preallocated cluster";
      findings.corrupt(
        `ERROR offset=${formatPlace(entry)}: ${what} is not properly aligned; L2 entry corrupted.`,
        use.times,
      );
    }
    this.figures.allocatedClusters += use.activeTimes;
    if (this.#nextOffset !== 0 && offset !== this.#nextOffset) {
      this.figures.fragmentedClusters += use.activeTimes;
    }
    this.#nextOffset = offset + this.#clusterSizeBytes;
    if (!hasExternalDataFile) this.#references.add(offset, this.#clusterSizeBytes, use.times);
    this.#judgeCopied(entry, offset, use);
  }

  #judgeCopied(entry: Entry, offset: number, use: TableUse): void {
    if (use.judgedTimes === 0) return;
    const isCopied = (entry.hi & L2_COPIED_HI) < 0;
    const note = (cluster: ClusterIndex | undefined): void => {
      const what = (): string => `data cluster: l2_entry=${formatWord(entry.hi, entry.lo)}`;
      this.noteWrongFlag({ cluster, times: use.judgedTimes, isSet: isCopied }, what);
    };
    if (this.#layout.hasExternalDataFile) {
      if (!isCopied) note(undefined);
      return;
    }
    const cluster = clusterIndex(Math.floor(offset / this.#clusterSizeBytes));
    if (this.#stored.isOne(cluster) === isCopied || this.#stored.isUnreadable(cluster)) return;
    note(cluster);
  }

  // Offset and length share the word: the larger the cluster, the more bits say how long it is.
  #judgeCompressed(entry: Entry, use: TableUse): void {
    const { findings } = this.#references;
    const { clusterBits, hasExternalDataFile } = this.#layout;
    const sizeShift = 62 - (clusterBits - 8) - 32;
    const offsetHi = entry.hi & (2 ** sizeShift - 1);
    const word = formatWord(entry.hi, entry.lo);
    if ((entry.hi & L2_COPIED_HI) !== 0) {
      const place = formatWord(offsetHi, entry.lo);
      findings.corrupt(
        `ERROR: coffset=0x${place}: copied flag must never be set for compressed clusters`,
        use.times,
      );
    }
    if (hasExternalDataFile) {
      findings.corrupt(`ERROR compressed cluster ${entry.index} with data file, entry=0x${word}`, use.times);
      return;
    }
    if ((entry.zeroBits | entry.allocBits) !== 0) {
      findings.corrupt(
        `ERROR compressed cluster ${entry.index} with non-zero subcluster allocation bitmap, entry=0x${word}`,
        use.times,
      );
      return;
    }
    const offset = offsetHi * 2 ** 32 + (entry.lo >>> 0);
    const sectors = ((entry.hi & ~(L2_COPIED_HI | L2_COMPRESSED_HI)) >>> sizeShift) + 1;
    const lengthBytes = sectors * SECTOR_BYTES - (entry.lo % SECTOR_BYTES);
    this.#references.add(offset, lengthBytes, use.times, { hi: offsetHi, lo: entry.lo });
    // They share sectors with their neighbours, so each of them counts as fragmented.
    this.figures.allocatedClusters += use.activeTimes;
    this.figures.compressedClusters += use.activeTimes;
    this.figures.fragmentedClusters += use.activeTimes;
  }
}

/** Whether RUN entries have the flags of the first, and lead to clusters side by side; that of the first is a multiple of RUN. */
function leadOn(words: Int32Array, at: number, clusterSizeBytes: number): boolean {
  if (at + 2 * RUN > words.length) return false;
  const hi = words[at] ?? 0;
  let lo = words[at + 1] ?? 0;
  for (let next = at + 2; next < at + 2 * RUN; next += 2) {
    lo = (lo + clusterSizeBytes) | 0;
    if (words[next + 1] !== lo || words[next] !== hi) return false;
  }
  return true;
}

/**
 * Counts RUN clusters that nothing was counted of yet, unless their stored counts say other than the flag. Counts of 2 bits.
 * Returns whether it has.
 */
function countRun(
  chunk: Uint8Array,
  inChunk: number,
  times: number,
  ones: Uint8Array,
  flag: number,
): boolean {
  const at = inChunk >>> 2;
  if (((chunk[at] ?? 0) | (chunk[at + 1] ?? 0) | (chunk[at + 2] ?? 0) | (chunk[at + 3] ?? 0)) !== 0)
    return false;
  if (flag !== NOT_JUDGED) {
    const wanted = flag === 0 ? 0 : 0xff;
    if (ones[inChunk >>> 3] !== wanted || ones[(inChunk >>> 3) + 1] !== wanted) return false;
  }
  const counts = times * 0b0101_0101;
  chunk[at] = counts;
  chunk[at + 1] = counts;
  chunk[at + 2] = counts;
  chunk[at + 3] = counts;
  return true;
}

/** Counts one cluster more, unless it is counted more often than may be raised here. Returns whether it has. */
function countOne(
  chunk: Uint8Array,
  inChunk: number,
  times: number,
  order: number,
  countMax: number,
): boolean {
  const inByte = 3 - order;
  const byte = chunk[inChunk >>> inByte] ?? 0;
  const place = (inChunk & ((1 << inByte) - 1)) << order;
  if (((byte >>> place) & ((1 << (1 << order)) - 1)) > countMax) return false;
  chunk[inChunk >>> inByte] = byte + (times << place);
  return true;
}

/** Whether the stored count is what the COPIED flag says, where that is to be judged. */
function fits(ones: Uint8Array, inChunk: number, flag: number): boolean {
  return flag === NOT_JUDGED || (((ones[inChunk >>> 3] ?? 0) >>> (inChunk & 7)) & 1) === flag;
}

/** No subcluster is both stored and zero. */
function isSoundBitmap(words: Int32Array, at: number): boolean {
  return ((words[at + 2] ?? 0) & (words[at + 3] ?? 0)) === 0;
}

function entryAt(words: Int32Array, at: number, stride: 2 | 4): Entry {
  const word = (index: number): number => (words[at + index] ?? 0) >>> 0;
  const isExtended = stride === 4;
  return {
    index: at / stride,
    hi: word(0),
    lo: word(1),
    zeroBits: isExtended ? word(2) : 0,
    allocBits: isExtended ? word(3) : 0,
  };
}

function formatPlace({ hi, lo }: Entry): string {
  return formatWord(hi & OFFSET_HI, lo & OFFSET_LO);
}

const NO_CHUNK: Uint8Array = new Uint8Array(0);
const NO_ONES = new Uint8Array(CHUNK_CLUSTERS / 8);

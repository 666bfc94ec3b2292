// Turns slices of L2 tables into runs. The hot loop of map, convert and compare: an image of 1 TiB has 17
// million entries.
//
// Invariants
// - No object and no bigint for an entry: neighbours that go on as expected cost two comparisons of halves.
// - Every entry that begins a run is decoded and judged; those that go on with it differ from it in nothing
//   but their place, so that judging the run's place judges theirs.
// - Nothing is read here, and errors have field and offset; the layer adds the image.

import { ImgtxError } from "../../../errors/index.ts";
import { type GuestOffset, type HostOffset, offsetBy } from "../../../units/index.ts";
import {
  decodeL2Entry,
  type L2Entry,
  type L2Layout,
  measureL2Entry,
  SUBCLUSTERS_PER_CLUSTER,
} from "../codec/l2-table.ts";
import type { RunList, RunPurpose } from "../../read/run-list.ts";

/** A piece of an L2 table, and the guest bytes that it is asked about: those of at least one of its entries. */
export interface L2Slice {
  readonly halves: Uint32Array;
  /** Where the slice lies in the image file. */
  readonly fileOffset: number;
  /** Guest offset of its first entry. */
  readonly guestStart: GuestOffset;
  readonly start: GuestOffset;
  readonly end: GuestOffset;
}

/** Throws where data of this length can't lie at this place. */
export type JudgePlace = (hostOffset: HostOffset, lengthBytes: number, guestOffset: GuestOffset) => void;

export class L2Scanner {
  readonly #layout: L2Layout;
  readonly #clusterBytes: number;
  readonly #judgeData: JudgePlace;
  readonly #judgeCompressed: JudgePlace;

  constructor(layout: L2Layout, judges: { data: JudgePlace; compressed: JudgePlace }) {
    this.#layout = layout;
    this.#clusterBytes = 2 ** layout.clusterBits;
    this.#judgeData = judges.data;
    this.#judgeCompressed = judges.compressed;
  }

  /** Appends the runs of slice.start to slice.end, or until the list is full. Returns how far it came. */
  scan(slice: L2Slice, runs: RunList, purpose: RunPurpose): GuestOffset {
    const first = Math.floor((slice.start - slice.guestStart) / this.#clusterBytes);
    const last = Math.ceil((slice.end - slice.guestStart) / this.#clusterBytes);
    let index = first;
    try {
      while (index < last && !runs.isFull) {
        index = this.#layout.hasExtendedL2
          ? this.#scanExtended(slice, index, last, runs, purpose)
          : this.#scanPlain(slice, index, last, runs, purpose);
      }
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      throw error.with({
        offset: slice.fileOffset + index * measureL2Entry(this.#layout),
        field: "l2_entry",
      });
    }
    return firstOf(slice.end, offsetBy(slice.guestStart, index * this.#clusterBytes));
  }

  /** One run of plain entries. Returns the index after it. */
  #scanPlain(slice: L2Slice, index: number, last: number, runs: RunList, purpose: RunPurpose): number {
    const { halves } = slice;
    const hi = halves[2 * index] ?? 0;
    const lo = halves[2 * index + 1] ?? 0;
    const entry = decodeL2Entry(hi, lo, this.#layout);
    if (entry.kind === "compressed") return this.#pushCompressed(slice, index, entry, runs, purpose);
    if (entry.kind === "unallocated" || (entry.kind === "zero" && entry.hostOffset === undefined)) {
      const next = findEndOfSame(halves, index + 1, last, hi, lo);
      this.#push(slice, index, next, entry.kind, undefined, runs);
      return next;
    }
    const next = findEndOfPlaces(halves, index + 1, last, this.#clusterBytes);
    this.#push(slice, index, next, entry.kind, entry.hostOffset, runs);
    return next;
  }

  /** One run of whole clusters, or one cluster in parts. Returns the index after it. */
  #scanExtended(slice: L2Slice, index: number, last: number, runs: RunList, purpose: RunPurpose): number {
    const { halves } = slice;
    const hi = halves[4 * index] ?? 0;
    const lo = halves[4 * index + 1] ?? 0;
    const entry = decodeL2Entry(hi, lo, this.#layout, halves[4 * index + 2], halves[4 * index + 3]);
    if (entry.kind === "compressed") return this.#pushCompressed(slice, index, entry, runs, purpose);
    if (entry.kind === "unallocated" && entry.zeroBits === 0) {
      let next = index + 1;
      while (next < last && isAllZero(halves, next)) next += 1;
      this.#push(slice, index, next, "unallocated", undefined, runs);
      return next;
    }
    if (entry.kind === "data" && entry.allocBits === 0xffffffff) {
      const next = findEndOfWholeData(halves, index + 1, last, this.#clusterBytes);
      this.#push(slice, index, next, "data", entry.hostOffset, runs);
      return next;
    }
    this.#pushSubclusters(slice, index, entry, runs);
    return index + 1;
  }

  #pushSubclusters(slice: L2Slice, index: number, entry: L2Entry, runs: RunList): void {
    const zeroBits = entry.kind === "data" || entry.kind === "unallocated" ? entry.zeroBits : 0;
    const allocBits = entry.kind === "data" ? entry.allocBits : 0;
    const place = entry.kind === "data" ? entry.hostOffset : undefined;
    const subclusterBytes = this.#clusterBytes / SUBCLUSTERS_PER_CLUSTER;
    const guest = offsetBy(slice.guestStart, index * this.#clusterBytes);
    let first = 0;
    while (first < SUBCLUSTERS_PER_CLUSTER) {
      const isZero = (zeroBits >>> first) & 1;
      const isAlloc = (allocBits >>> first) & 1;
      let next = first + 1;
      while (
        next < SUBCLUSTERS_PER_CLUSTER &&
        ((zeroBits >>> next) & 1) === isZero &&
        ((allocBits >>> next) & 1) === isAlloc
      ) {
        next += 1;
      }
      const kind = isZero === 1 ? "zero" : isAlloc === 1 ? "data" : "unallocated";
      const from = first * subclusterBytes;
      const hostOffset = place === undefined ? undefined : offsetBy(place, from);
      this.#pushClipped(
        slice,
        offsetBy(guest, from),
        (next - first) * subclusterBytes,
        kind,
        hostOffset,
        runs,
      );
      first = next;
    }
  }

  #pushCompressed(
    slice: L2Slice,
    index: number,
    entry: Extract<L2Entry, { kind: "compressed" }>,
    runs: RunList,
    purpose: RunPurpose,
  ): number {
    const guest = offsetBy(slice.guestStart, index * this.#clusterBytes);
    this.#judgeCompressed(entry.hostOffset, entry.lengthBytes, guest);
    const start = guest > slice.start ? guest : slice.start;
    const lengthBytes = Math.min(guest + this.#clusterBytes, slice.end) - start;
    if (purpose === "read") runs.pushCompressed(start, lengthBytes, entry.hostOffset, entry.lengthBytes);
    else runs.push(start, lengthBytes, "compressed", undefined);
    return index + 1;
  }

  #push(
    slice: L2Slice,
    index: number,
    next: number,
    kind: "data" | "zero" | "unallocated",
    hostOffset: HostOffset | undefined,
    runs: RunList,
  ): void {
    const guest = offsetBy(slice.guestStart, index * this.#clusterBytes);
    this.#pushClipped(slice, guest, (next - index) * this.#clusterBytes, kind, hostOffset, runs);
  }

  /** Only what was asked for: the first and the last cluster may reach beyond it. */
  #pushClipped(
    slice: L2Slice,
    guest: GuestOffset,
    lengthBytes: number,
    kind: "data" | "zero" | "unallocated",
    hostOffset: HostOffset | undefined,
    runs: RunList,
  ): void {
    const start = guest > slice.start ? guest : slice.start;
    const clipped = Math.min(guest + lengthBytes, slice.end) - start;
    if (clipped <= 0) return;
    if (kind === "data" && hostOffset !== undefined) this.#judgeData(hostOffset, lengthBytes, guest);
    runs.push(
      start,
      clipped,
      kind,
      hostOffset === undefined ? undefined : offsetBy(hostOffset, start - guest),
    );
  }
}

function firstOf(one: GuestOffset, other: GuestOffset): GuestOffset {
  return one < other ? one : other;
}

/** The index after the plain entries that are the same word. */
function findEndOfSame(halves: Uint32Array, from: number, last: number, hi: number, lo: number): number {
  let index = from;
  while (index < last && halves[2 * index] === hi && halves[2 * index + 1] === lo) index += 1;
  return index;
}

/**
 * The index after the plain entries that go on where the one before ends, with the same flags but COPIED. In
 * 32-bit integers all through: three times as fast as numbers that may be larger.
 */
function findEndOfPlaces(halves: Uint32Array, from: number, last: number, clusterBytes: number): number {
  const words = new Int32Array(halves.buffer, halves.byteOffset, halves.length);
  let expectedHi = (words[2 * from - 2] ?? 0) & 0x7fffffff;
  let expectedLo = words[2 * from - 1] ?? 0;
  let at = 2 * from;
  const end = 2 * last;
  while (at < end) {
    expectedLo = (expectedLo + clusterBytes) | 0;
    // Around from 2^32 to the flags in its lowest bits: the next upper half begins.
    if (expectedLo >= 0 && expectedLo < clusterBytes) expectedHi = (expectedHi + 1) | 0;
    if (words[at + 1] !== expectedLo || ((words[at] ?? 0) & 0x7fffffff) !== expectedHi) break;
    at = (at + 2) | 0;
  }
  return at >> 1;
}

/** The same for extended entries, of which those count that are wholly data. */
function findEndOfWholeData(halves: Uint32Array, from: number, last: number, clusterBytes: number): number {
  const words = new Int32Array(halves.buffer, halves.byteOffset, halves.length);
  let expectedHi = (words[4 * from - 4] ?? 0) & 0x7fffffff;
  let expectedLo = words[4 * from - 3] ?? 0;
  let at = 4 * from;
  const end = 4 * last;
  while (at < end) {
    expectedLo = (expectedLo + clusterBytes) | 0;
    if (expectedLo >= 0 && expectedLo < clusterBytes) expectedHi = (expectedHi + 1) | 0;
    if (words[at + 1] !== expectedLo || ((words[at] ?? 0) & 0x7fffffff) !== expectedHi) break;
    if (words[at + 2] !== 0 || words[at + 3] !== -1) break;
    at = (at + 4) | 0;
  }
  return at >> 2;
}

function isAllZero(halves: Uint32Array, index: number): boolean {
  const at = 4 * index;
  return halves[at] === 0 && halves[at + 1] === 0 && halves[at + 2] === 0 && halves[at + 3] === 0;
}

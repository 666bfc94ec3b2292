// Where a piece of guest data goes: which clusters are written in place, which get a new one, and what has to
// be copied along because a cluster is written only in part.
//
// Invariants
// - Pure but for reading the halves of the table. Nothing is allocated and no entry changed.
// - A cluster is written in place only where it is this image's alone (COPIED).
// - With extended L2 entries the unit of copying is the subcluster, except where all of the cluster moves.

import {
  alignDown,
  alignUp,
  guestOffset,
  type GuestOffset,
  type HostOffset,
  hostOffset,
  offsetBy,
} from "../../../units/index.ts";
import {
  decodeL2Entry,
  encodeL2EntryAt,
  L2_COPIED_HI,
  type L2Entry,
  type L2Layout,
  measureL2Entry,
  SUBCLUSTERS_PER_CLUSTER,
} from "../codec/l2-table.ts";
import { judgeDataFilePlace } from "../read/qcow2-layer.ts";
import type { L2Table } from "./l2-tables.ts";

/** Consecutive clusters of one table that are written in one way, to one stretch of the file. */
export interface WriteSegment {
  readonly index: number;
  count: number;
  /** `inPlace`: the entries stay. `keep`: they change, and the clusters stay. `new`: clusters are needed. */
  readonly kind: "inPlace" | "keep" | "new";
  /** Of the first cluster; undefined for `new`. */
  readonly hostOffset: HostOffset | undefined;
  /** Guest bytes of the request in it. */
  readonly start: GuestOffset;
  end: GuestOffset;
  /** The same, with what has to be copied along on either side. */
  readonly from: GuestOffset;
  to: GuestOffset;
  /** Whether what is copied along, before and after, is known to be zeros. */
  readonly headIsZero: boolean;
  tailIsZero: boolean;
}

export interface EntryLayout extends L2Layout {
  readonly clusterBytes: number;
  /** What entries say something of: a cluster, or a subcluster. */
  readonly unitBytes: number;
  /** Whether something shows where a cluster is unallocated. */
  readonly hasBacking: boolean;
}

export function makeEntryLayout(header: L2Layout, hasBacking: boolean): EntryLayout {
  const { version, clusterBits, hasExtendedL2, hasExternalDataFile } = header;
  const clusterBytes = 2 ** clusterBits;
  const unitBytes = hasExtendedL2 ? clusterBytes / SUBCLUSTERS_PER_CLUSTER : clusterBytes;
  return { version, clusterBits, hasExtendedL2, hasExternalDataFile, clusterBytes, unitBytes, hasBacking };
}

const UNALLOCATED: L2Entry = { kind: "unallocated", zeroBits: 0 };

export function readEntry(table: L2Table, index: number, layout: EntryLayout): L2Entry {
  const { halves } = table;
  const at = index * (layout.hasExtendedL2 ? 4 : 2);
  const hi = halves[at] ?? 0;
  const lo = halves[at + 1] ?? 0;
  if (hi === 0 && lo === 0 && !layout.hasExtendedL2) return UNALLOCATED;
  if (!layout.hasExtendedL2) return decodeL2Entry(hi, lo, layout);
  return decodeL2Entry(hi, lo, layout, halves[at + 2] ?? 0, halves[at + 3] ?? 0);
}

const scratch = new DataView(new ArrayBuffer(16));

/** Puts an entry into the table. The caller marks the table as changed. */
export function writeEntry(table: L2Table, index: number, entry: L2Entry, layout: EntryLayout): void {
  const words = measureL2Entry(layout) / 4;
  encodeL2EntryAt(scratch, 0, entry, layout);
  for (let word = 0; word < words; word += 1) {
    table.halves[index * words + word] = scratch.getUint32(4 * word);
  }
}

/** The entry of a cluster at `place` that is data all through: without an object for each. */
export function writeDataEntry(table: L2Table, index: number, place: HostOffset, layout: EntryLayout): void {
  const { halves } = table;
  const at = index * (layout.hasExtendedL2 ? 4 : 2);
  halves[at] = (L2_COPIED_HI | Math.floor(place / 2 ** 32)) >>> 0;
  halves[at + 1] = place % 2 ** 32;
  if (!layout.hasExtendedL2) return;
  halves[at + 2] = 0;
  halves[at + 3] = 0xffffffff;
}

/**
 * The same for clusters that lie side by side from `place` on, as far as their entries say nothing: without a call for each.
 * Returns how many those are. Extended ones are left to the caller.
 */
export function writeFirstEntries(
  table: L2Table,
  index: number,
  count: number,
  place: HostOffset,
  { clusterBytes, hasExtendedL2 }: EntryLayout,
): number {
  if (hasExtendedL2) return 0;
  const { halves } = table;
  const end = findEndOfBlank(halves, index, index + count);
  let hi = Math.floor(place / 2 ** 32);
  let lo = place % 2 ** 32;
  for (let at = 2 * index; at < 2 * end; at += 2) {
    halves[at] = (L2_COPIED_HI | hi) >>> 0;
    halves[at + 1] = lo;
    lo += clusterBytes;
    if (lo >= 2 ** 32) {
      lo -= 2 ** 32;
      hi += 1;
    }
  }
  return end - index;
}

/** tableStart: guest offset of the table's first entry. start and end lie in what it maps. */
export function planSegments(
  table: L2Table,
  tableStart: GuestOffset,
  start: GuestOffset,
  end: GuestOffset,
  layout: EntryLayout,
): WriteSegment[] {
  const { clusterBytes } = layout;
  const segments: WriteSegment[] = [];
  const last = Math.ceil((end - tableStart) / clusterBytes);
  const wholeEnd = Math.floor((end - tableStart) / clusterBytes);
  for (let index = Math.floor((start - tableStart) / clusterBytes); index < last; ) {
    const clusterStart = offsetBy(tableStart, index * clusterBytes);
    const from = guestOffset(Math.max(start, clusterStart));
    const to = guestOffset(Math.min(end, clusterStart + clusterBytes));
    const next = planCluster(table, index, clusterStart, from, to, layout);
    if (from === clusterStart && index < wholeEnd) {
      const count = countAlike(table, index, wholeEnd, next, layout);
      next.count = count;
      next.end = offsetBy(clusterStart, count * clusterBytes);
      next.to = next.end;
    }
    index += next.count;
    const before = segments.at(-1);
    if (before !== undefined && goesOn(before, next, clusterBytes)) {
      before.count += next.count;
      before.end = next.end;
      before.to = next.to;
      before.tailIsZero = next.tailIsZero;
    } else segments.push(next);
  }
  return segments;
}

function planCluster(
  table: L2Table,
  index: number,
  clusterStart: GuestOffset,
  start: GuestOffset,
  end: GuestOffset,
  layout: EntryLayout,
): WriteSegment {
  const entry = readEntry(table, index, layout);
  const isZero = entry.kind === "zero" || (entry.kind === "unallocated" && !layout.hasBacking);
  const segment = { index, count: 1, start, end, headIsZero: isZero, tailIsZero: isZero };
  const place = findOwnPlace(entry, clusterStart, layout);
  if (place === undefined) {
    const movesAll = entry.kind === "compressed" || (entry.kind === "data" && entry.allocBits !== 0);
    const unit = movesAll ? layout.clusterBytes : layout.unitBytes;
    const { from, to } = roundOut(start, end, unit);
    return { ...segment, kind: "new", hostOffset: undefined, from, to };
  }
  const stored = entry.kind === "data" ? entry.allocBits : 0;
  const touched = maskOf(start - clusterStart, end - clusterStart, layout);
  if ((touched & ~stored) === 0) {
    return { ...segment, kind: "inPlace", hostOffset: place, from: start, to: end };
  }
  const rounded = roundOut(start, end, layout.unitBytes);
  // What is stored at the edges already is not copied: it stays as it is.
  const isStored = (offset: number) =>
    ((stored >>> Math.floor((offset - clusterStart) / layout.unitBytes)) & 1) === 1 && layout.hasExtendedL2;
  const from = isStored(rounded.from) ? start : rounded.from;
  const to = isStored(rounded.to - 1) ? end : rounded.to;
  return { ...segment, kind: "keep", hostOffset: place, from, to };
}

/** How many whole clusters from this one on are planned as it is, by looking at their entries' halves alone. */
function countAlike(
  table: L2Table,
  index: number,
  end: number,
  first: WriteSegment,
  layout: EntryLayout,
): number {
  if (layout.hasExtendedL2 || layout.hasExternalDataFile || first.kind === "keep") return 1;
  const { halves } = table;
  const place = first.hostOffset;
  if (place === undefined) return Math.max(1, findEndOfBlank(halves, index, end) - index);
  let count = 1;
  while (index + count < end) {
    const offset = place + count * layout.clusterBytes;
    const hi = (L2_COPIED_HI | Math.floor(offset / 2 ** 32)) >>> 0;
    const at = 2 * (index + count);
    if (halves[at] !== hi || halves[at + 1] !== offset % 2 ** 32) break;
    count += 1;
  }
  return count;
}

/** The index of the first plain entry that says something, from index on and before end; end where there is none. */
function findEndOfBlank(halves: Uint32Array, index: number, end: number): number {
  let at = 2 * index;
  const endAt = 2 * end;
  while (at < endAt && halves[at] === 0 && halves[at + 1] === 0) at += 2;
  return at / 2;
}

/** The cluster that the entry's guest data may be written to as it is. */
function findOwnPlace(
  entry: L2Entry,
  clusterStart: GuestOffset,
  layout: EntryLayout,
): HostOffset | undefined {
  if (layout.hasExternalDataFile) {
    // Written where the entry does not lead to, the data would not be found again.
    if ("hostOffset" in entry && entry.hostOffset !== undefined) {
      judgeDataFilePlace(entry.hostOffset, clusterStart);
    }
    return hostOffset(clusterStart);
  }
  if (entry.kind === "data" && entry.isCopied) return entry.hostOffset;
  if (entry.kind === "zero" && entry.isCopied) return entry.hostOffset;
  return undefined;
}

function goesOn(before: WriteSegment, next: WriteSegment, clusterBytes: number): boolean {
  if (before.kind !== next.kind || before.to !== next.from || before.end !== next.start) return false;
  if (before.hostOffset === undefined || next.hostOffset === undefined) return next.hostOffset === undefined;
  return before.hostOffset + before.count * clusterBytes === next.hostOffset;
}

function roundOut(
  start: GuestOffset,
  end: GuestOffset,
  unit: number,
): { from: GuestOffset; to: GuestOffset } {
  return {
    from: guestOffset(alignDown(start, unit)),
    to: guestOffset(alignUp(end, unit)),
  };
}

/** The subclusters that bytes start to end of a cluster lie in, as bits. All, where there are none. */
export function maskOf(start: number, end: number, layout: EntryLayout): number {
  if (!layout.hasExtendedL2) return 0xffffffff;
  const first = Math.floor(start / layout.unitBytes);
  const last = Math.ceil(end / layout.unitBytes);
  const below = (count: number) => (count >= 32 ? 0xffffffff : 2 ** count - 1);
  return (below(last) & ~below(first)) >>> 0;
}

/** The entry of a cluster at `place` of which bytes from..to (of the cluster) were written just now. */
export function afterWrite(
  old: L2Entry,
  place: HostOffset,
  staysInPlace: boolean,
  from: number,
  to: number,
  layout: EntryLayout,
): L2Entry {
  const written = maskOf(from, to, layout);
  const stored = staysInPlace && old.kind === "data" ? old.allocBits : 0;
  const zeroBits = old.kind === "data" || old.kind === "unallocated" ? old.zeroBits : 0;
  return {
    kind: "data",
    hostOffset: place,
    isCopied: true,
    allocBits: (stored | written) >>> 0,
    zeroBits: layout.hasExtendedL2 ? (zeroBits & ~written) >>> 0 : 0,
  };
}

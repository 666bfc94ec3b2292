// L2 tables (qcow2 specification, "Cluster mapping", "L2 table entry", "Extended L2 entries"): where each
// cluster of guest data is.
//
// Invariants
// - Pure. A raw entry is two 32-bit halves, big-endian on disk: hi holds bits 63 to 32, lo bits 31 to 0. An
//   extended entry has two more, of its subcluster bitmap: zeroBits (its bits 63 to 32), allocBits (31 to 0);
//   bit n of each is subcluster n.
// - What decode accepts, encode gives back bit for bit.
// - Scans over whole tables work on halves (toHalves) and the masks below. A tagged entry is an object: for
//   the few entries that need thought, not for every one.

import { ImgtxError } from "../../../errors/index.ts";
import type { HostOffset } from "../../../units/index.ts";
import { joinOffset, requireOffset } from "./l1-table.ts";
import { SECTOR_BYTES } from "../../../units/index.ts";

/** Bit 63: the refcount of the cluster is exactly one, so it may be written in place. In hi. */
export const L2_COPIED_HI = 0x80000000;
/** Bit 62, in hi. */
export const L2_COMPRESSED_HI = 0x40000000;
/** Bits 61 to 56 of an entry that is not compressed, in hi. */
export const L2_RESERVED_HI = 0x3f000000;
/** Bits 8 to 1, in lo. Bit 0 is reserved too in version 2 and in extended entries. */
export const L2_RESERVED_LO = 0x000001fe;
/** Bit 0, in lo: the cluster reads as zeros. Version 3 without extended entries only. */
export const L2_ZERO_LO = 0x00000001;
export const SUBCLUSTERS_PER_CLUSTER = 32;
const ALL_SUBCLUSTERS = 0xffffffff;

/** What of the header decides how an entry is read. A Qcow2Header is one. */
export interface L2Layout {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly hasExtendedL2: boolean;
  readonly hasExternalDataFile: boolean;
}

/**
 * `unallocated`: has no cluster; its subclusters in zeroBits read as zeros, the others as what is below.
 * `data`: has a cluster; its subclusters in allocBits are stored there, those in zeroBits read as zeros, the
 * others as what is below. Without extended entries allocBits is all ones, and zeroBits is 0.
 * `zero`: reads as zeros, and may keep a cluster. Never in extended entries, which have zeroBits.
 * `compressed`: lengthBytes from hostOffset up to the end of a sector; the compressed data may end before.
 */
export type L2Entry =
  | { readonly kind: "unallocated"; readonly zeroBits: number }
  | {
      readonly kind: "data";
      readonly hostOffset: HostOffset;
      readonly isCopied: boolean;
      readonly allocBits: number;
      readonly zeroBits: number;
    }
  | { readonly kind: "zero"; readonly hostOffset: HostOffset | undefined; readonly isCopied: boolean }
  | {
      readonly kind: "compressed";
      readonly hostOffset: HostOffset;
      readonly lengthBytes: number;
      /** Must not be set; tools that read only don't mind. */
      readonly isCopied: boolean;
    };

/** 8, or 16 for extended entries. */
export function measureL2Entry(layout: L2Layout): number {
  return layout.hasExtendedL2 ? 16 : 8;
}

export function countL2Entries(layout: L2Layout): number {
  return 2 ** layout.clusterBits / measureL2Entry(layout);
}

/**
 * The big-endian words of a table as 32-bit halves: entry n is at 2n and 2n + 1, or from 4n on for extended
 * entries. Swaps in place, and returns a view of the same memory.
 */
export function toHalves(bytes: Uint8Array): Uint32Array {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return new Uint32Array(buffer.swap32().buffer, bytes.byteOffset, bytes.byteLength / 4);
}

/**
 * E_CORRUPT, with field and without a place: reserved bits, an offset that is not aligned to a cluster,
 * subclusters that are both stored and zero.
 */
export function decodeL2Entry(
  hi: number,
  lo: number,
  layout: L2Layout,
  zeroBits = 0,
  allocBits = 0,
): L2Entry {
  if ((hi & L2_COMPRESSED_HI) !== 0) return decodeCompressed(hi, lo, layout, zeroBits, allocBits);
  checkReserved(hi, lo, layout);
  const offset = joinOffset(hi, lo);
  const isCopied = hi >>> 31 === 1;
  if (offset % 2 ** layout.clusterBits !== 0) {
    throw corrupt(`Cluster allocation offset 0x${offset.toString(16)} unaligned`);
  }
  if ((lo & L2_ZERO_LO) !== 0) {
    return { kind: "zero", hostOffset: offset === 0 ? undefined : requireOffset(offset, FIELD), isCopied };
  }
  // In a data file the first cluster is at 0; there the COPIED flag tells it from no cluster.
  const isAllocated = offset !== 0 || (layout.hasExternalDataFile && isCopied);
  if ((zeroBits & allocBits) !== 0 || (!isAllocated && allocBits !== 0)) {
    throw corrupt("Invalid subcluster bitmap in an L2 entry");
  }
  if (!isAllocated) {
    if (isCopied) throw corrupt("a cluster that is in use lies on the header");
    return { kind: "unallocated", zeroBits: zeroBits >>> 0 };
  }
  return {
    kind: "data",
    hostOffset: requireOffset(offset, FIELD),
    isCopied,
    allocBits: layout.hasExtendedL2 ? allocBits >>> 0 : ALL_SUBCLUSTERS,
    zeroBits: zeroBits >>> 0,
  };
}

/** RangeError where the layout can't say the entry: a bug. */
export function encodeL2EntryAt(view: DataView, index: number, entry: L2Entry, layout: L2Layout): void {
  const at = index * measureL2Entry(layout);
  const [hi, lo] = encodeWord(entry, layout);
  view.setUint32(at, hi >>> 0);
  view.setUint32(at + 4, lo >>> 0);
  const zeroBits = entry.kind === "data" || entry.kind === "unallocated" ? entry.zeroBits : 0;
  if (!layout.hasExtendedL2) {
    if (zeroBits !== 0) throw new RangeError("zero subclusters need extended L2 entries");
    return;
  }
  view.setUint32(at + 8, zeroBits);
  view.setUint32(at + 12, entry.kind === "data" ? entry.allocBits : 0);
}

const FIELD = "l2_entry";

function encodeWord(entry: L2Entry, layout: L2Layout): readonly [number, number] {
  if (entry.kind === "unallocated") return [0, 0];
  const offset = entry.hostOffset ?? 0;
  const hi = Math.floor(offset / 2 ** 32) | (entry.isCopied ? L2_COPIED_HI : 0);
  const lo = offset % 2 ** 32;
  if (entry.kind === "data") return [hi, lo];
  if (entry.kind === "zero") {
    if (layout.version === 2 || layout.hasExtendedL2) throw new RangeError("no zero flag in this layout");
    return [hi, lo + L2_ZERO_LO];
  }
  const sectors = (entry.lengthBytes + (offset % SECTOR_BYTES)) / SECTOR_BYTES;
  if (!Number.isInteger(sectors) || sectors < 1 || sectors > 2 ** (layout.clusterBits - 8)) {
    throw new RangeError(`compressed data of ${entry.lengthBytes} bytes at ${offset}`);
  }
  return [hi | L2_COMPRESSED_HI | ((sectors - 1) << sizeShift(layout)), lo];
}

// Bits 61 to x are sectors after the first one, bits x - 1 to 0 the offset; x = 62 - (cluster_bits - 8).
function sizeShift(layout: L2Layout): number {
  return 62 - (layout.clusterBits - 8) - 32;
}

function decodeCompressed(
  hi: number,
  lo: number,
  layout: L2Layout,
  zeroBits: number,
  allocBits: number,
): L2Entry {
  if (zeroBits !== 0 || allocBits !== 0) throw corrupt("a compressed cluster has a subcluster bitmap");
  const shift = sizeShift(layout);
  const offsetHi = hi & (2 ** shift - 1);
  if (offsetHi >= 2 ** 24) throw corrupt("L2 entry has reserved bits set");
  const offset = requireOffset(offsetHi * 2 ** 32 + (lo >>> 0), FIELD);
  const sectors = ((hi & ~(L2_COPIED_HI | L2_COMPRESSED_HI)) >>> shift) + 1;
  return {
    kind: "compressed",
    hostOffset: offset,
    lengthBytes: sectors * SECTOR_BYTES - (offset % SECTOR_BYTES),
    isCopied: hi >>> 31 === 1,
  };
}

function checkReserved(hi: number, lo: number, layout: L2Layout): void {
  const hasZeroFlag = layout.version === 3 && !layout.hasExtendedL2;
  const reservedLo = hasZeroFlag ? L2_RESERVED_LO : L2_RESERVED_LO | L2_ZERO_LO;
  if ((hi & L2_RESERVED_HI) === 0 && (lo & reservedLo) === 0) return;
  if (layout.version === 2 && (lo & L2_ZERO_LO) !== 0)
    throw corrupt("Zero cluster entry found in pre-v3 image");
  throw corrupt("L2 entry has reserved bits set");
}

function corrupt(message: string): ImgtxError {
  return new ImgtxError("E_CORRUPT", message, { field: FIELD });
}

// The L1 table (qcow2 specification, "Cluster mapping", "L1 table entry"): for each stretch of guest data the
// L2 table that maps it.
//
// Invariants
// - Pure. A raw entry is two 32-bit halves, big-endian on disk: hi holds bits 63 to 32, lo bits 31 to 0.
// - Nothing here knows the file: whether an offset lies inside it is the caller's to check.

import { ImgtxError } from "../../../errors/index.ts";
import { type HostOffset, hostOffset } from "../../../units/index.ts";
import { OFFSET_MASK_HI, OFFSET_MASK_LO } from "./limits.ts";

/** Bit 63: the refcount of the L2 table is exactly one, so it may be written in place. In hi. */
const L1_COPIED_HI = 0x80000000;
/** Bits 62 to 56, in hi. */
export const L1_RESERVED_HI = 0x7f000000;
/** Bits 8 to 0, in lo. */
export const L1_RESERVED_LO = 0x000001ff;

export type L1Entry =
  | { readonly kind: "unallocated" }
  | { readonly kind: "table"; readonly hostOffset: HostOffset; readonly isCopied: boolean };

const UNALLOCATED: L1Entry = { kind: "unallocated" };

/** E_CORRUPT, without a place, for reserved bits and for a table that is not aligned to a cluster. */
export function decodeL1Entry(hi: number, lo: number, clusterBits: number): L1Entry {
  if ((hi & L1_RESERVED_HI) !== 0 || (lo & L1_RESERVED_LO) !== 0) {
    throw new ImgtxError("E_CORRUPT", "L1 entry has reserved bits set", { field: "l1_entry" });
  }
  const offset = joinOffset(hi, lo);
  if (offset === 0) return UNALLOCATED;
  if (offset % 2 ** clusterBits !== 0) {
    throw new ImgtxError("E_CORRUPT", `L2 table offset 0x${offset.toString(16)} unaligned`, {
      field: "l1_entry",
    });
  }
  return { kind: "table", hostOffset: requireOffset(offset, "l1_entry"), isCopied: hi >>> 31 === 1 };
}

export function decodeL1EntryAt(view: DataView, index: number, clusterBits: number): L1Entry {
  return decodeL1Entry(view.getUint32(index * 8), view.getUint32(index * 8 + 4), clusterBits);
}

export function encodeL1EntryAt(view: DataView, index: number, entry: L1Entry): void {
  const offset = entry.kind === "table" ? entry.hostOffset : 0;
  const copied = entry.kind === "table" && entry.isCopied ? L1_COPIED_HI : 0;
  view.setUint32(index * 8, (copied | Math.floor(offset / 2 ** 32)) >>> 0);
  view.setUint32(index * 8 + 4, offset % 2 ** 32);
}

/** Bits 55 to 9 as a number of bytes. Above 2^53 it is not exact: requireOffset refuses that. */
export function joinOffset(hi: number, lo: number): number {
  return (hi & OFFSET_MASK_HI) * 2 ** 32 + ((lo & OFFSET_MASK_LO) >>> 0);
}

/** The offset, or E_CORRUPT where no file can reach so far. */
export function requireOffset(offset: number, field: string): HostOffset {
  if (Number.isSafeInteger(offset)) return hostOffset(offset);
  throw new ImgtxError("E_CORRUPT", `${field} points past the end of any file`, { field });
}

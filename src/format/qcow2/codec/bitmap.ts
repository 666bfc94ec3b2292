// Persistent bitmaps: the directory, the bitmap tables, and the bits (qcow2 specification, "Bitmaps").
//
// Invariants
// - Pure. What decode accepts, encode gives back byte for byte.
// - An entry that decode returned satisfies QEMU's constraints, so that memory may be taken for its table.

import { ImgtxError } from "../../../errors/index.ts";
import { type HostOffset, hostOffset, safeNumber } from "../../../units/index.ts";
import { decodeName, encodeName, roundUpTo8 } from "./header-extension.ts";
import { joinOffset, requireOffset } from "./l1-table.ts";
import {
  BITMAP_BYTES_MAX,
  BITMAP_GRANULARITY_BITS_MAX,
  BITMAP_GRANULARITY_BITS_MIN,
  BITMAP_NAME_BYTES_MAX,
} from "./limits.ts";

const ENTRY_BYTES = 24;
const FLAG_IN_USE = 1;
const FLAG_AUTO = 2;
const FLAG_EXTRA_DATA_COMPATIBLE = 4;
const KNOWN_FLAGS = FLAG_IN_USE | FLAG_AUTO | FLAG_EXTRA_DATA_COMPATIBLE;
const TYPE_DIRTY_TRACKING = 1;

export interface BitmapEntry {
  readonly bitmapTableOffset: HostOffset;
  /** Entries of the bitmap table. */
  readonly bitmapTableSize: number;
  /** It was not saved properly, and may be wrong. */
  readonly isInUse: boolean;
  /** Writers keep it up. */
  readonly isAuto: boolean;
  readonly isExtraDataCompatible: boolean;
  readonly granularityBits: number;
  readonly extraData: Uint8Array;
  readonly name: string;
}

export interface BitmapLayout {
  readonly clusterBits: number;
  /** Virtual size of the image in bytes. */
  readonly size: number;
}

/** All entries of a bitmap directory. E_CORRUPT with field, and offset inside the directory. */
export function decodeBitmapDirectory(
  bytes: Uint8Array,
  nbBitmaps: number,
  layout: BitmapLayout,
): BitmapEntry[] {
  const entries: BitmapEntry[] = [];
  const names = new Set<string>();
  let at = 0;
  while (at < bytes.length) {
    if (entries.length === nbBitmaps)
      throw corrupt("the bitmap directory has more entries than nb_bitmaps", at);
    const { entry, lengthBytes } = decodeEntry(bytes, at, layout);
    if (names.has(entry.name)) throw corrupt("two bitmaps have the same name", at);
    names.add(entry.name);
    entries.push(entry);
    at += lengthBytes;
  }
  if (entries.length < nbBitmaps) throw corrupt("the bitmap directory has fewer entries than nb_bitmaps", at);
  return entries;
}

export function encodeBitmapDirectory(entries: readonly BitmapEntry[]): Uint8Array {
  const encoded = entries.map(encodeEntry);
  const bytes = new Uint8Array(encoded.reduce((sum, entry) => sum + entry.length, 0));
  let at = 0;
  for (const entry of encoded) {
    bytes.set(entry, at);
    at += entry.length;
  }
  return bytes;
}

/** Bytes of the data of a bitmap, without what fills its last cluster. */
export function measureBitmap(virtualSizeBytes: number, granularityBits: number): number {
  return Math.ceil(Math.ceil(virtualSizeBytes / 2 ** granularityBits) / 8);
}

/** Entries that the table of a bitmap has that covers this disk. */
export function countBitmapTableEntries(
  virtualSizeBytes: number,
  { granularityBits }: Pick<BitmapEntry, "granularityBits">,
  { clusterBits }: Pick<BitmapLayout, "clusterBits">,
): number {
  return Math.ceil(measureBitmap(virtualSizeBytes, granularityBits) / 2 ** clusterBits);
}

/** Where one cluster of a bitmap's bits is. */
export type BitmapTableEntry =
  | { readonly kind: "zeros" }
  | { readonly kind: "ones" }
  | { readonly kind: "data"; readonly hostOffset: HostOffset };

/** E_CORRUPT, without a place, for reserved bits and a place that is not aligned to a cluster. */
export function decodeBitmapTableEntry(hi: number, lo: number, clusterBits: number): BitmapTableEntry {
  const offset = joinOffset(hi, lo);
  const isOnes = (lo & 1) === 1;
  if (hi >>> 24 !== 0 || (lo & 0x1fe) !== 0 || (isOnes && offset !== 0)) {
    throw new ImgtxError("E_CORRUPT", "a bitmap table entry has reserved bits set", {
      field: "bitmap_table",
    });
  }
  if (offset === 0) return { kind: isOnes ? "ones" : "zeros" };
  if (offset % 2 ** clusterBits !== 0) {
    throw new ImgtxError("E_CORRUPT", `bitmap cluster offset 0x${offset.toString(16)} unaligned`, {
      field: "bitmap_table",
    });
  }
  return { kind: "data", hostOffset: requireOffset(offset, "bitmap_table") };
}

export function encodeBitmapTableEntryAt(view: DataView, index: number, entry: BitmapTableEntry): void {
  const word = entry.kind === "data" ? BigInt(entry.hostOffset) : entry.kind === "ones" ? 1n : 0n;
  view.setBigUint64(index * 8, word);
}

function decodeEntry(
  bytes: Uint8Array,
  at: number,
  layout: BitmapLayout,
): { entry: BitmapEntry; lengthBytes: number } {
  if (bytes.length - at < ENTRY_BYTES) throw corrupt("the bitmap directory ends inside an entry", at);
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, bytes.length - at);
  const flags = view.getUint32(12);
  const nameSize = view.getUint16(18);
  const extraSize = view.getUint32(20);
  const lengthBytes = roundUpTo8(ENTRY_BYTES + extraSize + nameSize);
  if (lengthBytes > bytes.length - at) throw corrupt("the bitmap directory ends inside an entry", at);
  if (nameSize === 0 || nameSize > BITMAP_NAME_BYTES_MAX) {
    throw corrupt(`a bitmap's name has ${nameSize} bytes; 1 to ${BITMAP_NAME_BYTES_MAX} are allowed`, at);
  }
  const nameStart = at + ENTRY_BYTES + extraSize;
  const tableOffset = safeNumber(view.getBigUint64(0));
  if (tableOffset === undefined) throw corrupt("a bitmap's table points past the end of any file", at);
  const entry: BitmapEntry = {
    bitmapTableOffset: hostOffset(tableOffset),
    bitmapTableSize: view.getUint32(8),
    isInUse: (flags & FLAG_IN_USE) !== 0,
    isAuto: (flags & FLAG_AUTO) !== 0,
    isExtraDataCompatible: (flags & FLAG_EXTRA_DATA_COMPATIBLE) !== 0,
    granularityBits: view.getUint8(17),
    extraData: bytes.slice(at + ENTRY_BYTES, nameStart),
    name: decodeName(bytes.subarray(nameStart, nameStart + nameSize), "bitmap name", nameStart),
  };
  if ((flags & ~KNOWN_FLAGS) !== 0) throw corrupt(`${describe(entry)} has unknown flags`, at);
  if (view.getUint8(16) !== TYPE_DIRTY_TRACKING) {
    throw corrupt(`${describe(entry)} is of the unknown type ${view.getUint8(16)}`, at);
  }
  checkConstraints(entry, layout, at);
  return { entry, lengthBytes };
}

function checkConstraints(entry: BitmapEntry, layout: BitmapLayout, at: number): void {
  const { granularityBits, bitmapTableOffset, bitmapTableSize } = entry;
  const clusterSizeBytes = 2 ** layout.clusterBits;
  if (granularityBits < BITMAP_GRANULARITY_BITS_MIN || granularityBits > BITMAP_GRANULARITY_BITS_MAX) {
    const allowed = `${BITMAP_GRANULARITY_BITS_MIN} to ${BITMAP_GRANULARITY_BITS_MAX}`;
    throw corrupt(
      `${describe(entry)} has a granularity of 2^${granularityBits}; the exponent must be ${allowed}`,
      at,
    );
  }
  if (bitmapTableOffset === 0 || bitmapTableOffset % clusterSizeBytes !== 0) {
    throw corrupt(`the table of ${describe(entry)} is not at a cluster of the file`, at);
  }
  const capacityBytes = bitmapTableSize * clusterSizeBytes;
  if (bitmapTableSize === 0 || capacityBytes > BITMAP_BYTES_MAX) {
    throw corrupt(`the table of ${describe(entry)} has ${bitmapTableSize} entries`, at);
  }
  // One that is in use may be of a size that the image had before.
  if (!entry.isInUse && measureBitmap(layout.size, granularityBits) > capacityBytes) {
    throw corrupt(`${describe(entry)} is shorter than the virtual disk`, at);
  }
}

function encodeEntry(entry: BitmapEntry): Uint8Array {
  const name = encodeName(entry.name);
  const bytes = new Uint8Array(roundUpTo8(ENTRY_BYTES + entry.extraData.length + name.length));
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(entry.bitmapTableOffset));
  view.setUint32(8, entry.bitmapTableSize);
  const flags =
    (entry.isInUse ? FLAG_IN_USE : 0) |
    (entry.isAuto ? FLAG_AUTO : 0) |
    (entry.isExtraDataCompatible ? FLAG_EXTRA_DATA_COMPATIBLE : 0);
  view.setUint32(12, flags);
  view.setUint8(16, TYPE_DIRTY_TRACKING);
  view.setUint8(17, entry.granularityBits);
  view.setUint16(18, name.length);
  view.setUint32(20, entry.extraData.length);
  bytes.set(entry.extraData, ENTRY_BYTES);
  bytes.set(name, ENTRY_BYTES + entry.extraData.length);
  return bytes;
}

function describe(entry: BitmapEntry): string {
  return `bitmap ${JSON.stringify(entry.name)}`;
}

function corrupt(message: string, offset: number): ImgtxError {
  return new ImgtxError("E_CORRUPT", message, { field: "bitmap_directory", offset });
}

// Reads the persistent bitmaps of a qcow2 image: which there are, and which guest bytes they mark.
//
// Invariant: memory is that of the directory and of one cluster of bits at a time.

import { ImgtxError, placed, withPlace } from "../../../errors/index.ts";
import {
  alignUp,
  earliest,
  endOf,
  guestOffset,
  type GuestRange,
  offsetBy,
  rangeTo,
} from "../../../units/index.ts";
import { damageHint, type ChainLink } from "../../chain/chain-link.ts";
import {
  type BitmapEntry,
  type BitmapTableEntry,
  decodeBitmapTableEntry,
  measureBitmap,
} from "../codec/bitmap.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { quoteName } from "../../quote-name.ts";
import { readStoredBitmaps } from "../../read-directories.ts";
import { readBytes } from "../../read-header.ts";

const TABLE_ENTRIES_AT_ONCE = 8192;

/**
 * The bitmaps of an image in the order of its directory; none for raw, and where the extension is stale
 * because a program that does not know bitmaps wrote to the image. E_CORRUPT with image, offset and field.
 */
export async function readBitmapDirectory(link: ChainLink): Promise<readonly BitmapEntry[]> {
  return readBitmapsOf(link, link.header?.size ?? 0);
}

/** The same, each held to cover a disk of this size; 0 for who judges that himself. */
export async function readBitmapsOf(link: ChainLink, sizeBytes: number): Promise<readonly BitmapEntry[]> {
  const { header, file, path } = link;
  if (header === undefined) return [];
  const place = { image: path, hint: damageHint(path) };
  return await withPlace(place, async () => await readStoredBitmaps(file, header, sizeBytes));
}

/**
 * The guest bytes that a bitmap marks, from the first on, as ranges that do not touch; the last one may be cut
 * short by the end of the disk. Errors have image and offset.
 */
export async function* findMarkedRanges(link: ChainLink, bitmap: BitmapEntry): AsyncGenerator<GuestRange> {
  const diskEnd = guestOffset(link.virtualSizeBytes);
  let last: GuestRange | undefined;
  for await (const range of findMarks(link, bitmap)) {
    const end = earliest(endOf(range), diskEnd);
    if (range.start >= end) continue;
    if (last && endOf(last) === range.start) last = rangeTo(last.start, end);
    else {
      if (last) yield last;
      last = rangeTo(range.start, end);
    }
  }
  if (last) yield last;
}

/** One by one: they may touch, and reach past the end of the disk. */
async function* findMarks(link: ChainLink, bitmap: BitmapEntry): AsyncGenerator<GuestRange> {
  const clusterSizeBytes = link.header?.clusterSizeBytes ?? 1;
  const diskSize = link.virtualSizeBytes;
  const granularity = 2 ** bitmap.granularityBits;
  const bitsBytes = measureBitmap(diskSize, bitmap.granularityBits);
  const clusterSpan = clusterSizeBytes * 8 * granularity;
  let index = 0;
  for await (const entry of readBitmapTable(link, bitmap, Math.ceil(bitsBytes / clusterSizeBytes))) {
    const start = guestOffset(index * clusterSpan);
    if (entry.kind === "ones") yield rangeTo(start, offsetBy(start, clusterSpan));
    else if (entry.kind === "data") {
      const bits = new Uint8Array(Math.min(clusterSizeBytes, bitsBytes - index * clusterSizeBytes));
      await link.file.read(bits, entry.hostOffset);
      for (const [from, to] of findOnes(bits)) {
        yield { start: offsetBy(start, from * granularity), lengthBytes: (to - from) * granularity };
      }
    }
    index += 1;
  }
}

/** The first entries of a bitmap's table. E_CORRUPT with image and offset for one that can't be true. */
export async function* readBitmapTable(
  link: ChainLink,
  bitmap: BitmapEntry,
  entries: number,
): AsyncGenerator<BitmapTableEntry> {
  const clusterBits = link.header?.clusterBits ?? 0;
  const fileEnd = alignUp(link.stat.sizeBytes, 2 ** clusterBits);
  const wanted = Math.min(entries, bitmap.bitmapTableSize);
  for (let first = 0; first < wanted; first += TABLE_ENTRIES_AT_ONCE) {
    const count = Math.min(TABLE_ENTRIES_AT_ONCE, wanted - first);
    const offset = bitmap.bitmapTableOffset + first * TABLE_ENTRY_BYTES;
    const table = await readBytes(link.file, offset, count * TABLE_ENTRY_BYTES);
    const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
    for (let index = 0; index < count; index += 1) {
      const at = index * TABLE_ENTRY_BYTES;
      const place = {
        image: link.path,
        offset: offset + at,
        field: "bitmap_table",
        hint: damageHint(link.path),
      };
      const what = `the table of bitmap ${quoteName(bitmap.name)}`;
      if (at + TABLE_ENTRY_BYTES > table.length) {
        throw new ImgtxError("E_CORRUPT", `${what} ends past the end of the file`, place);
      }
      const entry = placed(place, () =>
        decodeBitmapTableEntry(view.getUint32(at), view.getUint32(at + 4), clusterBits),
      );
      if (entry.kind === "data" && entry.hostOffset >= fileEnd) {
        throw new ImgtxError("E_CORRUPT", `${what} points past the end of the file`, place);
      }
      yield entry;
    }
  }
}

/** Stretches of set bits, least significant bit of a byte first: the first bit, and the one after the last. */
function* findOnes(bits: Uint8Array): Generator<readonly [number, number]> {
  let start = -1;
  for (let byte = 0; byte < bits.length; byte += 1) {
    const value = bits[byte] ?? 0;
    if (value === 0 && start < 0) continue;
    if (value === 0xff && start >= 0) continue;
    for (let bit = 0; bit < 8; bit += 1) {
      const isSet = ((value >>> bit) & 1) === 1;
      if (isSet && start < 0) start = byte * 8 + bit;
      if (!isSet && start >= 0) {
        yield [start, byte * 8 + bit];
        start = -1;
      }
    }
  }
  if (start >= 0) yield [start, bits.length * 8];
}

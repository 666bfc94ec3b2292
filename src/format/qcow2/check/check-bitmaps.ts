// What a check does about persistent bitmaps: their directory, their tables, and the clusters of their bits.
//
// Invariants
// - Without its autoclear bit the extension is stale: what it says counts for nothing, and what it kept leaks.
// - A directory or a table that can't be true is E_CORRUPT: QEMU does not open such an image.

import { ImgtxError, placed } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import type { CheckHeader } from "./check-header.ts";
import { type BitmapEntry, countBitmapTableEntries, decodeBitmapTableEntry } from "../codec/bitmap.ts";
import type { References } from "./check-references.ts";
import { findConsistentBitmaps } from "../codec/header-tables.ts";
import { toHalves } from "../codec/l2-table.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { quoteName } from "../../quote-name.ts";
import { readStoredBitmaps } from "../../read-directories.ts";
import { SECTOR_BYTES } from "../../../units/index.ts";

const PIECE_BYTES = 64 * 1024;

export async function checkBitmaps(
  file: StorageFile,
  header: CheckHeader,
  references: References,
): Promise<void> {
  const extension = findConsistentBitmaps(header, header.extensions);
  if (extension === undefined) return;
  references.add(extension.bitmapDirectoryOffset, extension.bitmapDirectorySize, 1);
  const bitmaps = await readStoredBitmaps(file, header, header.size);
  for (const bitmap of bitmaps) requireFit(bitmap, header);
  for (const bitmap of bitmaps) await checkTable(file, bitmap, header.clusterBits, references);
}

/** A bitmap that is in use may be of a size that the disk had before; another must fit to the cluster. */
export function requireFit(bitmap: BitmapEntry, header: CheckHeader): void {
  const { name, isInUse, bitmapTableSize } = bitmap;
  const diskBytes = header.size - (header.size % SECTOR_BYTES);
  if (isInUse || countBitmapTableEntries(diskBytes, bitmap, header) === bitmapTableSize) return;
  throw new ImgtxError(
    "E_CORRUPT",
    `Could not read bitmap ${quoteName(name)} from image: it has not the disk's size`,
    {
      field: "bitmap_table_size",
    },
  );
}

async function checkTable(
  file: StorageFile,
  bitmap: BitmapEntry,
  clusterBits: number,
  references: References,
): Promise<void> {
  const lengthBytes = bitmap.bitmapTableSize * TABLE_ENTRY_BYTES;
  references.add(bitmap.bitmapTableOffset, lengthBytes, 1);
  const bytes = new Uint8Array(Math.min(PIECE_BYTES, lengthBytes));
  const end = bitmap.bitmapTableOffset + lengthBytes;
  for (let at: number = bitmap.bitmapTableOffset; at < end; at += bytes.length) {
    const piece = bytes.subarray(0, Math.min(bytes.length, end - at));
    piece.fill(0, await file.read(piece, at));
    const halves = toHalves(piece);
    for (let index = 0; index < halves.length; index += 2) {
      const hi = halves[index] ?? 0;
      const lo = halves[index + 1] ?? 0;
      if ((hi | lo) === 0) continue;
      const entry = placed({ offset: at + index * 4 }, () => decodeBitmapTableEntry(hi, lo, clusterBits));
      if (entry.kind === "data") references.add(entry.hostOffset, references.clusterSizeBytes, 1);
    }
  }
}

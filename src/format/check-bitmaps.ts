// What a check does about persistent bitmaps: their directory, their tables, and the clusters of their bits.
//
// Invariants
// - Without its autoclear bit the extension is stale: what it says counts for nothing, and what it kept leaks.
// - A directory or a table that can't be true is E_CORRUPT: QEMU does not open such an image.

import { ImgtxError } from "../errors/index.ts";
import type { StorageFile } from "../storage/index.ts";
import type { CheckHeader } from "./check-header.ts";
import type { References } from "./qcow2/check-references.ts";
import { AUTOCLEAR_BIT } from "./qcow2/features.ts";
import { findExtension, roundUpTo8 } from "./qcow2/header-extension.ts";
import { toHalves } from "./qcow2/l2-table.ts";
import { BITMAP_DIRECTORY_BYTES_MAX, TABLE_ENTRY_BYTES } from "./qcow2/limits.ts";

const DIRECTORY_ENTRY_BYTES = 24;
/** The most that the bits of one bitmap may take: what QEMU holds in memory for one. */
const BITMAP_BYTES_MAX = 512 * 1024 * 1024;
const PIECE_BYTES = 64 * 1024;
const RESERVED_HI = 0xff000000;
const RESERVED_LO = 0x1fe;
const OFFSET_LO = 0xfffffe00;
const ALL_ONES_LO = 1;

interface BitmapTable {
  readonly offset: number;
  readonly entries: number;
}

export async function checkBitmaps(
  file: StorageFile,
  header: CheckHeader,
  references: References,
): Promise<void> {
  const extension = findExtension(header.extensions, "bitmaps");
  if (extension === undefined || !header.autoclearFeatures.includes(AUTOCLEAR_BIT.bitmaps)) return;
  const { bitmapDirectoryOffset, bitmapDirectorySize, nbBitmaps } = extension;
  references.add(bitmapDirectoryOffset, bitmapDirectorySize, 1);
  if (bitmapDirectorySize > BITMAP_DIRECTORY_BYTES_MAX)
    throw broken("it is too large", bitmapDirectoryOffset);
  const bytes = new Uint8Array(bitmapDirectorySize);
  await file.read(bytes, bitmapDirectoryOffset);
  const tables = listTables(bytes, references.clusterSizeBytes, bitmapDirectoryOffset);
  if (tables.length !== nbBitmaps) {
    throw broken(`it has ${tables.length} entries, and the header says ${nbBitmaps}`, bitmapDirectoryOffset);
  }
  for (const table of tables) await checkTable(file, table, references);
}

function listTables(directory: Uint8Array, clusterSizeBytes: number, place: number): BitmapTable[] {
  const view = new DataView(directory.buffer, directory.byteOffset, directory.byteLength);
  const tables: BitmapTable[] = [];
  let at = 0;
  while (at < directory.length) {
    if (at + DIRECTORY_ENTRY_BYTES > directory.length) throw broken("an entry is cut short", place + at);
    const offset = view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
    const entries = view.getUint32(at + 8);
    const isPossible =
      entries > 0 &&
      entries * clusterSizeBytes <= BITMAP_BYTES_MAX &&
      offset > 0 &&
      offset % clusterSizeBytes === 0 &&
      view.getUint32(at + 20) === 0;
    if (!isPossible) throw broken("an entry has no table that can be true", place + at);
    tables.push({ offset, entries });
    at += roundUpTo8(DIRECTORY_ENTRY_BYTES + view.getUint16(at + 18));
  }
  if (at > directory.length) throw broken("the last name is cut short", place + at);
  return tables;
}

async function checkTable(file: StorageFile, table: BitmapTable, references: References): Promise<void> {
  const { clusterSizeBytes } = references;
  references.add(table.offset, table.entries * TABLE_ENTRY_BYTES, 1);
  const bytes = new Uint8Array(Math.min(PIECE_BYTES, table.entries * TABLE_ENTRY_BYTES));
  const end = table.offset + table.entries * TABLE_ENTRY_BYTES;
  for (let at = table.offset; at < end; at += bytes.length) {
    const piece = bytes.subarray(0, Math.min(bytes.length, end - at));
    piece.fill(0, await file.read(piece, at));
    const halves = toHalves(piece);
    for (let index = 0; index < halves.length; index += 2) {
      const hi = halves[index] ?? 0;
      const lo = halves[index + 1] ?? 0;
      if ((hi | lo) === 0) continue;
      const offset = hi * 2 ** 32 + ((lo & OFFSET_LO) >>> 0);
      const isPossible =
        (hi & RESERVED_HI) === 0 &&
        (lo & RESERVED_LO) === 0 &&
        (offset === 0 || (lo & ALL_ONES_LO) === 0) &&
        offset % clusterSizeBytes === 0;
      if (!isPossible) {
        throw new ImgtxError("E_CORRUPT", "an entry of a bitmap table can't be true", {
          field: "bitmap_table",
          offset: at + index * 4,
        });
      }
      if (offset !== 0) references.add(offset, clusterSizeBytes, 1);
    }
  }
}

function broken(message: string, offset: number): ImgtxError {
  return new ImgtxError("E_CORRUPT", `Broken bitmap directory: ${message}`, {
    field: "bitmap_directory",
    offset,
  });
}

// Reads the snapshot table and the bitmap directory of an image file: once for those who use what they list, and for
// a check, which is lenient where these are not.
//
// Invariant: no more than a window of the snapshot table is in memory, and it ends within QEMU's limit, whatever the
// header claims.

import { ImgtxError } from "../errors/index.ts";
import type { StorageFile } from "../storage/index.ts";
import { type BitmapEntry, decodeBitmapDirectory } from "./qcow2/codec/bitmap.ts";
import type { HeaderFields } from "./qcow2/codec/header.ts";
import { type HeaderExtension, roundUpTo8 } from "./qcow2/codec/header-extension.ts";
import { findConsistentBitmaps } from "./qcow2/codec/header-tables.ts";
import {
  SNAPSHOT_ENTRY_BYTES_MIN,
  SNAPSHOT_EXTRA_BYTES_MAX,
  SNAPSHOT_TABLE_BYTES_MAX,
} from "./qcow2/codec/limits.ts";
import { readSnapshotLengths, SNAPSHOT_ENTRY_BYTES_MAX } from "./qcow2/codec/snapshot-table.ts";
import { shellQuote } from "./quote-name.ts";
import { readBytes } from "./read-header.ts";

const WINDOW_BYTES = 2 * SNAPSHOT_ENTRY_BYTES_MAX;

interface StoredSnapshot {
  /** The entry without its padding, with zeros for what the file lacks. */
  readonly bytes: Uint8Array;
  readonly isWhole: boolean;
  /** Where it lies in the file, and where the next one does. */
  readonly offset: number;
  readonly end: number;
}

/** The entries of the snapshot table, in its order. E_CORRUPT with offset and field where the next can't be found. */
export async function* walkSnapshotTable(
  file: StorageFile,
  { nbSnapshots, snapshotsOffset }: Pick<HeaderFields, "nbSnapshots" | "snapshotsOffset">,
): AsyncGenerator<StoredSnapshot> {
  const window = new Uint8Array(nbSnapshots === 0 ? 0 : WINDOW_BYTES);
  let [windowAt, windowEnd] = [0, 0];
  let offset: number = snapshotsOffset;
  for (let index = 0; index < nbSnapshots; index += 1) {
    if (offset + SNAPSHOT_ENTRY_BYTES_MAX > windowAt + window.length || index === 0) {
      const count = await file.read(window, offset);
      window.fill(0, count);
      [windowAt, windowEnd] = [offset, offset + count];
    }
    const from = offset - windowAt;
    const { idBytes, nameBytes, extraBytes } = readSnapshotLengths(window.subarray(from));
    if (extraBytes > SNAPSHOT_EXTRA_BYTES_MAX) {
      throw new ImgtxError("E_CORRUPT", `Too much extra metadata in snapshot table entry ${index}`, {
        field: "extra_data_size",
        offset,
        hint:
          `keep a copy; \`imgtx img check -r all ${shellQuote(file.path)}\` cuts it off, where the table holds ` +
          "together otherwise",
      });
    }
    const length = SNAPSHOT_ENTRY_BYTES_MIN + extraBytes + idBytes + nameBytes;
    const end = offset + roundUpTo8(length);
    const isWhole = offset + length <= windowEnd;
    yield { bytes: window.slice(from, from + length), isWhole, offset, end };
    if (end - snapshotsOffset > SNAPSHOT_TABLE_BYTES_MAX) {
      throw new ImgtxError("E_CORRUPT", "Snapshot table is too large: at most 64 MiB", {
        field: "nb_snapshots",
        offset: end,
      });
    }
    offset = end;
  }
}

/**
 * The bitmaps in the order of their directory, each held to cover a disk of this size; 0 for who judges that himself.
 * None where the extension is stale, since a program that does not know bitmaps wrote to the image. E_CORRUPT with
 * offset and field.
 */
export async function readStoredBitmaps(
  file: StorageFile,
  header: HeaderFields & { readonly extensions: readonly HeaderExtension[] },
  sizeBytes: number,
): Promise<readonly BitmapEntry[]> {
  const extension = findConsistentBitmaps(header, header.extensions);
  if (extension === undefined) return [];
  const { bitmapDirectoryOffset, bitmapDirectorySize, nbBitmaps } = extension;
  const bytes = await readBytes(file, bitmapDirectoryOffset, bitmapDirectorySize);
  try {
    return decodeBitmapDirectory(bytes, nbBitmaps, { clusterBits: header.clusterBits, size: sizeBytes });
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    throw error.reworded(error.message, { offset: bitmapDirectoryOffset + (error.offset ?? 0) });
  }
}

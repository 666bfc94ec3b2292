// Entries of the snapshot table with more extra data than QEMU reads: where one stands, nobody can use the image. The table
// is cut as QEMU cuts it, to the first 1,024 bytes of each, and moves up in its own place.
//
// Invariants
// - What can't be followed to its end is left as it is: the check says what is wrong with it.
// - Nothing but the table's own bytes is written over: where anything else claims one of its clusters, nothing is done.

import { ImgtxError } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import { clusterIndex } from "../../../units/index.ts";
import type { Qcow2Link } from "../../chain/chain-link.ts";
import { readBytes } from "../../read-header.ts";
import { withCalls } from "../../watched-file.ts";
import type { ClusterCounts } from "../check/check-counts.ts";
import { salvageHint } from "../check/require-counted.ts";
import { roundUpTo8 } from "../codec/header-extension.ts";
import {
  SNAPSHOT_ENTRY_BYTES_MIN,
  SNAPSHOT_EXTRA_BYTES_MAX,
  SNAPSHOT_TABLE_BYTES_MAX,
  SNAPSHOTS_MAX,
} from "../codec/limits.ts";
import { readSnapshotLengths } from "../codec/snapshot-table.ts";

/** Where extra_data_size is in an entry. */
const EXTRA_SIZE_AT = 36;

export interface CutTable {
  readonly offset: number;
  /** The table as it will be. */
  readonly bytes: Uint8Array;
  /** Where it ended. */
  readonly end: number;
  /** QEMU's words for each entry that is cut. */
  readonly lines: readonly string[];
}

interface Place {
  readonly offset: number;
  readonly extraBytes: number;
  readonly namesBytes: number;
}

/** Undefined where no entry has too much, or the table does not hold together. */
export async function cutExtraData({ file, header }: Qcow2Link): Promise<CutTable | undefined> {
  const found = await findEntries(file, header);
  if (!found?.places.some(({ extraBytes }) => extraBytes > SNAPSHOT_EXTRA_BYTES_MAX)) return undefined;
  const lines: string[] = [];
  const parts: Uint8Array[] = [];
  for (const [index, { offset, extraBytes, namesBytes }] of found.places.entries()) {
    const kept = Math.min(extraBytes, SNAPSHOT_EXTRA_BYTES_MAX);
    const entry = new Uint8Array(roundUpTo8(SNAPSHOT_ENTRY_BYTES_MIN + kept + namesBytes));
    entry.set(await readBytes(file, offset, SNAPSHOT_ENTRY_BYTES_MIN + kept));
    const namesAt = offset + SNAPSHOT_ENTRY_BYTES_MIN + extraBytes;
    entry.set(await readBytes(file, namesAt, namesBytes), SNAPSHOT_ENTRY_BYTES_MIN + kept);
    new DataView(entry.buffer).setUint32(EXTRA_SIZE_AT, kept);
    parts.push(entry);
    if (kept === extraBytes) continue;
    lines.push(
      `Discarding too much extra metadata in snapshot table entry ${index} (${extraBytes} > ${kept})`,
    );
  }
  return { offset: header.snapshotsOffset, bytes: Buffer.concat(parts), end: found.end, lines };
}

async function findEntries(
  file: StorageFile,
  { nbSnapshots, snapshotsOffset }: Qcow2Link["header"],
): Promise<{ places: Place[]; end: number } | undefined> {
  if (nbSnapshots > SNAPSHOTS_MAX) return undefined;
  const places: Place[] = [];
  const limit = Math.min((await file.stat()).sizeBytes, snapshotsOffset + SNAPSHOT_TABLE_BYTES_MAX);
  let end: number = snapshotsOffset;
  for (let index = 0; index < nbSnapshots; index += 1) {
    if (end + SNAPSHOT_ENTRY_BYTES_MIN > limit) return undefined;
    const head = await readBytes(file, end, SNAPSHOT_ENTRY_BYTES_MIN);
    const { idBytes, nameBytes, extraBytes } = readSnapshotLengths(head);
    const namesBytes = idBytes + nameBytes;
    places.push({ offset: end, extraBytes, namesBytes });
    const length = SNAPSHOT_ENTRY_BYTES_MIN + extraBytes + namesBytes;
    if (end + length > limit) return undefined;
    end += roundUpTo8(length);
  }
  return { places, end };
}

/** The file as it reads once its table is cut. */
export function withCutTable(file: StorageFile, { offset, bytes }: CutTable): StorageFile {
  return withCalls(file, {
    read: async (target, from) => {
      const count = await file.read(target, from);
      const start = Math.max(from, offset);
      const end = Math.min(from + count, offset + bytes.length);
      if (start < end) target.set(bytes.subarray(start - offset, end - offset), start - from);
      return count;
    },
  });
}

/** By the counts of the image as it will be. */
export function requireOwnClusters({ path, header }: Qcow2Link, cut: CutTable, counts: ClusterCounts): void {
  const { offset, bytes, end } = cut;
  const { clusterSizeBytes } = header;
  for (let at = offset; at < end; at += clusterSizeBytes) {
    const own = at < offset + bytes.length ? 1 : 0;
    if (counts.count(clusterIndex(at / clusterSizeBytes)) <= own) continue;
    throw new ImgtxError(
      "E_UNSUPPORTED",
      "too much extra data of its snapshots shares clusters with other data",
      {
        image: path,
        offset: at,
        hint: salvageHint(path),
      },
    );
  }
}

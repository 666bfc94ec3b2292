// Reads the snapshot table of a qcow2 image.
//
// Invariant: no more than a window of the table is in memory besides its entries, and the table ends within
// QEMU's limit, whatever the header claims.

import { ImgtxError } from "../../../errors/index.ts";
import { DAMAGE_HINT, type ChainLink, type L1Table } from "../../chain/chain-link.ts";
import { SNAPSHOT_TABLE_BYTES_MAX } from "../codec/limits.ts";
import {
  decodeSnapshotEntry,
  judgeSnapshotTable,
  SNAPSHOT_ENTRY_BYTES_MAX,
  type SnapshotEntry,
} from "../codec/snapshot-table.ts";
import { quoteName, shellQuote } from "../../quote-name.ts";
import { readBytes } from "../../read-header.ts";

const WINDOW_BYTES = 2 * SNAPSHOT_ENTRY_BYTES_MAX;

export interface SnapshotTable {
  readonly entries: readonly SnapshotEntry[];
  /** All of it, from snapshots_offset on. */
  readonly lengthBytes: number;
}

/**
 * The internal snapshots of an image, in the order of the table; none for raw. Their L1 tables are not judged.
 * E_CORRUPT with image, offset and field.
 */
export async function readSnapshotTable(link: ChainLink): Promise<SnapshotTable> {
  const { header, file, path } = link;
  const entries: SnapshotEntry[] = [];
  if (header === undefined) return { entries, lengthBytes: 0 };
  let window = new Uint8Array(0);
  let windowAt = 0;
  let at = 0;
  for (let index = 0; index < header.nbSnapshots; index += 1) {
    if (at - windowAt + SNAPSHOT_ENTRY_BYTES_MAX > window.length) {
      window = new Uint8Array(await readBytes(file, header.snapshotsOffset + at, WINDOW_BYTES));
      windowAt = at;
    }
    try {
      const { entry, lengthBytes } = decodeSnapshotEntry(window.subarray(at - windowAt));
      entries.push(entry);
      at += lengthBytes;
      if (at > SNAPSHOT_TABLE_BYTES_MAX) {
        throw new ImgtxError("E_CORRUPT", "Snapshot table is too large: at most 64 MiB", {
          field: "nb_snapshots",
        });
      }
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      const place = { image: path, offset: header.snapshotsOffset + at };
      if (error.field !== "extra_data_size") throw error.with({ ...place, hint: DAMAGE_HINT });
      throw error.reworded(`Too much extra metadata in snapshot table entry ${index}`, {
        ...place,
        hint: `\`qemu-img check -r all ${shellQuote(path)}\` takes it away`,
      });
    }
  }
  return { entries, lengthBytes: at };
}

/** The snapshots, each with an L1 table that can be true; else E_CORRUPT. For those who use or change them. */
export async function readSoundSnapshots(link: ChainLink): Promise<readonly SnapshotEntry[]> {
  const { entries } = await readSnapshotTable(link);
  for (const entry of entries) requireSoundTable(link, entry);
  return entries;
}

/** Which internal snapshot: by its id or else its name, or by what is said of both. */
export type SnapshotChoice = string | { readonly id?: string; readonly name?: string };

/** The L1 table of the snapshot that has this id, else of the one that has this name: QEMU's order. */
export async function findSnapshotTable(link: ChainLink, choice: SnapshotChoice): Promise<L1Table> {
  if (link.header === undefined) {
    throw new ImgtxError("E_UNSUPPORTED", "an image of format raw has no internal snapshots", {
      image: link.path,
      field: "snapshot",
    });
  }
  const { entries } = await readSnapshotTable(link);
  const entry = findEntry(entries, choice);
  if (entry === undefined) {
    const { id, name } = typeof choice === "string" ? { id: choice, name: choice } : choice;
    const names = entries.map((each) => `${each.id} (${quoteName(each.name)})`);
    throw new ImgtxError("E_NOT_FOUND", `there is no internal snapshot ${quoteName(name ?? id ?? "")}`, {
      image: link.path,
      field: "snapshot",
      hint: names.length === 0 ? "the image has no internal snapshots" : `it has ${names.join(", ")}`,
    });
  }
  requireSoundTable(link, entry);
  return { fileOffset: entry.l1TableOffset, entries: entry.l1Size };
}

function findEntry(entries: readonly SnapshotEntry[], choice: SnapshotChoice): SnapshotEntry | undefined {
  if (typeof choice === "string") {
    return entries.find(({ id }) => id === choice) ?? entries.find(({ name }) => name === choice);
  }
  return entries.find(({ id, name }) => (choice.id ?? id) === id && (choice.name ?? name) === name);
}

function requireSoundTable(link: ChainLink, entry: SnapshotEntry): void {
  try {
    judgeSnapshotTable(entry, link.header?.clusterSizeBytes ?? 1, link.stat.sizeBytes);
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    throw error.reworded(`${error.message} (snapshot ${quoteName(entry.name)})`, {
      image: link.path,
      offset: link.header?.snapshotsOffset ?? 0,
      hint: DAMAGE_HINT,
    });
  }
}

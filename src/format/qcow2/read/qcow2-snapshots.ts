// The internal snapshots of a qcow2 image, for those who use them. Their guest data is read at the size of the disk as it
// is now, as qemu-img convert -l does: what a snapshot of a smaller disk does not have is unallocated.

import { type ErrorDetails, ImgtxError, placed, withPlace } from "../../../errors/index.ts";
import { damageHint, type ChainLink, type L1Table } from "../../chain/chain-link.ts";
import { decodeSnapshotEntry, judgeSnapshotTable, type SnapshotEntry } from "../codec/snapshot-table.ts";
import { quoteName } from "../../quote-name.ts";
import { walkSnapshotTable } from "../../read-directories.ts";

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
  let end: number = header.snapshotsOffset;
  await withPlace({ image: path, hint: damageHint(path) }, async () => {
    for await (const { offset, isWhole, bytes, end: next } of walkSnapshotTable(file, header)) {
      entries.push(placed({ offset }, () => decodeSnapshotEntry(isWhole ? bytes : NOTHING).entry));
      end = next;
    }
  });
  return { entries, lengthBytes: end - header.snapshotsOffset };
}

/** In place of an entry that the file does not have to its end. */
const NOTHING = new Uint8Array(0);

/** The snapshots, each with an L1 table that can be true; else E_CORRUPT. For those who use or change them. */
export async function readSoundSnapshots(link: ChainLink): Promise<readonly SnapshotEntry[]> {
  const { entries } = await readSnapshotTable(link);
  for (const entry of entries) requireSoundTable(link, entry);
  return entries;
}

export function hasNoSnapshots(image: string, details: Pick<ErrorDetails, "field" | "hint">): ImgtxError {
  const text = "an image of format raw has no internal snapshots";
  return new ImgtxError("E_UNSUPPORTED", text, { image, ...details });
}

/** Which internal snapshot: by its id or else its name, or by what is said of both. */
export type SnapshotChoice = string | { readonly id?: string; readonly name?: string };

/** The L1 table of the snapshot that has this id, else of the one that has this name: QEMU's order. */
export async function findSnapshotTable(link: ChainLink, choice: SnapshotChoice): Promise<L1Table> {
  if (link.header === undefined) {
    throw hasNoSnapshots(link.path, { field: "snapshot" });
  }
  const { entries } = await readSnapshotTable(link);
  const entry = findEntry(entries, choice);
  if (entry === undefined) throw notFound(link, entries, choice);
  requireSoundTable(link, entry);
  return { fileOffset: entry.l1TableOffset, entries: entry.l1Size };
}

/** The one snapshot that this may mean, by its id or by its name: E_USAGE where several do, since one is to be changed. */
export async function pickSnapshot(link: ChainLink, text: string): Promise<SnapshotEntry> {
  const { entries } = await readSnapshotTable(link);
  const [found, other] = entries.filter(({ id, name }) => id === text || name === text);
  if (found === undefined) throw notFound(link, entries, text);
  if (other === undefined) return found;
  const both = [found, other].map(({ id, name }) => `${id} (${quoteName(name)})`).join(" and ");
  throw new ImgtxError("E_USAGE", `${quoteName(text)} may be one internal snapshot or another: ${both}`, {
    image: link.path,
    field: "snapshot",
    hint: "say the id, or the name, that only one of them has",
  });
}

function notFound(link: ChainLink, entries: readonly SnapshotEntry[], choice: SnapshotChoice): ImgtxError {
  const { id, name } = typeof choice === "string" ? { id: choice, name: choice } : choice;
  const names = entries.map((each) => `${each.id} (${quoteName(each.name)})`);
  return new ImgtxError("E_NOT_FOUND", `there is no internal snapshot ${quoteName(name ?? id ?? "")}`, {
    image: link.path,
    field: "snapshot",
    hint: names.length === 0 ? "the image has no internal snapshots" : `it has ${names.join(", ")}`,
  });
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
      hint: damageHint(link.path),
    });
  }
}

// Tables that a header points to, and that the file does not have: what is left of an image whose end is cut
// off, or one whose maker (a library in Go) never wrote them, since QEMU reads zeros there, and so loses all data of an
// image that was cut off, without a word.
//
// Invariant: zeros in the place of an L1 table are believed only where that can lose nothing: no cluster is
// counted as used but by the header and the refcounts themselves. What counts more has lost its tables.

import { alignUp } from "../../units/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import type { Qcow2Header } from "../qcow2/codec/header-cluster.ts";
import { tableMissing } from "../qcow2/codec/header-tables.ts";
import { TABLE_ENTRY_BYTES } from "../qcow2/codec/limits.ts";
import { findUsedEntry } from "../qcow2/codec/refcount-block.ts";
import { countBlockEntries } from "../qcow2/codec/refcount-table.ts";
import { readBytes } from "../read-header.ts";
import type { CutOff, ImageWarning } from "./chain-link.ts";

/** Of an image without data there are few; more would take long to read. */
const BLOCKS_MAX = 64;
const CUT_OFF_HINT =
  "get the rest of the file, or a whole copy of it: what is there can't be made out without its tables";

/**
 * Lets an image pass whose L1 table is not in the file, where zeros are right in its place; returns a warning
 * then. E_CORRUPT for tables that are really gone.
 */
export async function judgeMissingTables(
  header: Qcow2Header,
  file: StorageFile,
  path: string,
): Promise<ImageWarning | undefined> {
  const [missing] = header.missingTables;
  if (missing === undefined) return undefined;
  const cutOff = await findCutOffTables(header, file);
  if (cutOff === undefined) return { code: "L1 table past end", image: path };
  const error = tableMissing(missing);
  throw error.reworded(`${error.message}: ${describeCutOff(cutOff)}`, { image: path, hint: CUT_OFF_HINT });
}

/** What the file of a header with missing tables does not have; undefined where that can lose nothing. */
export async function findCutOffTables(header: Qcow2Header, file: StorageFile): Promise<CutOff | undefined> {
  const { clusterSizeBytes, missingTables, lacksRefcounts } = header;
  const isL1Alone = !lacksRefcounts && missingTables.every(({ field }) => field === "l1_table_offset");
  if (isL1Alone && (await isWithoutData(header, file))) return undefined;
  const { sizeBytes } = await file.stat();
  const ends = missingTables.map(({ end }) => end);
  return { start: alignUp(sizeBytes, clusterSizeBytes), end: Math.max(...ends), sizeBytes };
}

async function isWithoutData(header: Qcow2Header, file: StorageFile): Promise<boolean> {
  const { clusterSizeBytes, refcountTableOffset, refcountTableClusters } = header;
  if (header.nbSnapshots > 0 || header.hasExternalDataFile) return false;
  const { sizeBytes } = await file.stat();
  const tableBytes = refcountTableClusters * clusterSizeBytes;
  const table = await readBytes(file, refcountTableOffset, tableBytes);
  const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
  const blocks = new Map<number, number>();
  for (let at = 0; at + TABLE_ENTRY_BYTES <= table.length; at += TABLE_ENTRY_BYTES) {
    const offset = view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
    if (offset === 0) continue;
    if (offset % clusterSizeBytes !== 0 || offset + clusterSizeBytes > sizeBytes) return false;
    blocks.set(at / TABLE_ENTRY_BYTES, offset / clusterSizeBytes);
    if (blocks.size > BLOCKS_MAX) return false;
  }
  const known = new Set([0, ...blocks.values()]);
  const first = refcountTableOffset / clusterSizeBytes;
  for (let at = 0; at < refcountTableClusters; at += 1) known.add(first + at);
  const entries = countBlockEntries(header);
  for (const [index, cluster] of blocks) {
    const block = await readBytes(file, cluster * clusterSizeBytes, clusterSizeBytes);
    for (let entry = 0; ; entry += 1) {
      entry = findUsedEntry(block, entry, entries, header.refcountOrder);
      if (entry >= entries) break;
      if (!known.has(index * entries + entry)) return false;
    }
  }
  return true;
}

export function describeCutOff({ start, end, sizeBytes }: CutOff): string {
  const from = `0x${start.toString(16)}`;
  return `bytes ${from} onward are missing: the file has ${sizeBytes} bytes; its tables need ${end}`;
}

// Where the last cluster ends that the refcounts of an image count as used. A file that ends before it was cut off, or a
// crash has left clusters counted that were never written.
//
// Invariant: of an image that is whole, as almost every one is, two short pieces are read: what counts the first clusters
// after the end of its file.

import type { StorageFile } from "../../../storage/index.ts";
import { readBytes } from "../../read-header.ts";
import type { Qcow2Header } from "../codec/header-cluster.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { findUsedEntry } from "../codec/refcount-block.ts";
import { countBlockEntries } from "../codec/refcount-table.ts";

/** How much of the refcount table is read at a time, from its end. */
const PART_BYTES = 65_536;

/** How much is read of the refcount table, and of a block, to see whether the end of the file is counted past. */
const GLANCE_BYTES = 512;

/** In bytes, where that is after the end of the file; undefined where nothing there is counted. */
export async function readCountedEnd(
  file: StorageFile,
  header: Qcow2Header,
  sizeBytes: number,
): Promise<number | undefined> {
  if (!(await countsPast(file, header, Math.ceil(sizeBytes / header.clusterSizeBytes)))) return undefined;
  const last = await findLastBlock(file, header);
  if (last === undefined || last.offset % header.clusterSizeBytes !== 0) return undefined;
  const block = await readBytes(file, last.offset, header.clusterSizeBytes);
  const entries = countBlockEntries(header);
  let used = 0;
  for (let entry = findUsedEntry(block, 0, entries, header.refcountOrder); entry < entries; ) {
    used = entry + 1;
    entry = findUsedEntry(block, used, entries, header.refcountOrder);
  }
  const end = (last.index * entries + used) * header.clusterSizeBytes;
  return end > sizeBytes ? end : undefined;
}

/** Whether any of the clusters from this one on is counted, as far as the first of them tell. */
async function countsPast(file: StorageFile, header: Qcow2Header, cluster: number): Promise<boolean> {
  const { refcountTableOffset, refcountTableClusters, clusterSizeBytes, refcountBits, refcountOrder } =
    header;
  const entries = countBlockEntries(header);
  const index = Math.floor(cluster / entries);
  if ((index + 1) * TABLE_ENTRY_BYTES > refcountTableClusters * clusterSizeBytes) return false;
  const table = await readBytes(file, refcountTableOffset + index * TABLE_ENTRY_BYTES, GLANCE_BYTES);
  if (table.length < TABLE_ENTRY_BYTES) return false;
  const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
  const offset = view.getUint32(0) * 2 ** 32 + view.getUint32(4);
  if (offset === 0 || offset % clusterSizeBytes !== 0) return false;
  // From a whole byte on: the counts before it are of clusters that the file has.
  const firstByte = Math.ceil(((cluster % entries) * refcountBits) / 8);
  const lengthBytes = Math.min(GLANCE_BYTES, clusterSizeBytes - firstByte);
  const counts = await readBytes(file, offset + firstByte, Math.max(0, lengthBytes));
  const seen = Math.floor((counts.length * 8) / refcountBits);
  return findUsedEntry(counts, 0, seen, refcountOrder) < seen;
}

async function findLastBlock(
  file: StorageFile,
  { refcountTableOffset, refcountTableClusters, clusterSizeBytes }: Qcow2Header,
): Promise<{ readonly index: number; readonly offset: number } | undefined> {
  let left = refcountTableClusters * clusterSizeBytes;
  while (left > 0) {
    const start = Math.max(0, left - PART_BYTES);
    const part = await readBytes(file, refcountTableOffset + start, left - start);
    const view = new DataView(part.buffer, part.byteOffset, part.byteLength);
    for (
      let at = part.length - (part.length % TABLE_ENTRY_BYTES) - TABLE_ENTRY_BYTES;
      at >= 0;
      at -= TABLE_ENTRY_BYTES
    ) {
      const [high, low] = [view.getUint32(at), view.getUint32(at + 4)];
      if (high + low > 0) return { index: (start + at) / TABLE_ENTRY_BYTES, offset: high * 2 ** 32 + low };
    }
    left = start;
  }
  return undefined;
}

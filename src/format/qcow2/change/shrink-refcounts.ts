// Refcount blocks that count nothing any more, given back as QEMU does when a disk shrinks: where they lie at the end of
// the file, it gets shorter by them.
//
// Invariants
// - The file is one that is staged.
// - A block goes that counts nothing, or nothing but itself. The refcount table keeps its size.

import type { StorageFile } from "../../../storage/index.ts";
import type { Qcow2Header } from "../codec/header-cluster.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { findUsedEntry, readRefcount, writeRefcount } from "../codec/refcount-block.ts";
import { countBlockEntries } from "../codec/refcount-table.ts";

/** Of an image whose refcounts are exact. */
export async function dropEmptyBlocks(file: StorageFile, header: Qcow2Header): Promise<void> {
  const { refcountTableOffset, refcountTableClusters, clusterSizeBytes, refcountOrder } = header;
  const entries = countBlockEntries(header);
  const table = new DataView(new ArrayBuffer(refcountTableClusters * clusterSizeBytes));
  await file.read(new Uint8Array(table.buffer), refcountTableOffset);
  const block = new Uint8Array(clusterSizeBytes);
  const read = async (index: number): Promise<number> => {
    const place = Number(table.getBigUint64(index * TABLE_ENTRY_BYTES));
    if (place !== 0) block.fill(0, await file.read(block, place));
    return place;
  };
  // From the end on, and from there again where the block of a block may count nothing now.
  for (let index = table.byteLength / TABLE_ENTRY_BYTES - 1; index >= 0; ) {
    const place = await read(index);
    const own = place / clusterSizeBytes;
    const countedBy = Math.floor(own / entries);
    const isSelf = countedBy === index;
    if (place === 0 || !countsNothing(block, isSelf ? own % entries : undefined, entries, refcountOrder)) {
      index -= 1;
      continue;
    }
    table.setBigUint64(index * TABLE_ENTRY_BYTES, 0n);
    await file.write(new Uint8Array(TABLE_ENTRY_BYTES), refcountTableOffset + index * TABLE_ENTRY_BYTES);
    if (!isSelf) {
      const other = await read(countedBy);
      writeRefcount(
        block,
        own % entries,
        refcountOrder,
        readRefcount(block, own % entries, refcountOrder) - 1,
      );
      await file.write(block, other);
    }
    index = Math.max(index - 1, isSelf ? -1 : countedBy);
  }
}

/** Whether there is nothing in use, but for this entry. */
function countsNothing(
  block: Uint8Array,
  but: number | undefined,
  entries: number,
  refcountOrder: number,
): boolean {
  const first = findUsedEntry(block, 0, entries, refcountOrder);
  if (first !== but) return first >= entries;
  return findUsedEntry(block, first + 1, entries, refcountOrder) >= entries;
}

// The persistent bitmaps of an image whose disk gets another size: their tables are as long as the disk asks for.
//
// Invariants
// - What a bitmap marks of the part that both disks have stays marked, and nothing else is: neither the new part of a
//   larger disk, nor, when it grows again, what was cut off.
// - As for all changes of bitmaps, the file is one that is staged.

import { alignUp } from "../../../units/index.ts";
import type { Qcow2Link } from "../../chain/chain-link.ts";
import { readBytes } from "../../read-header.ts";
import { requireFit } from "../check/check-bitmaps.ts";
import { type BitmapEntry, encodeBitmapTableEntryAt } from "../codec/bitmap.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { readBitmapDirectory, readBitmapTable } from "../read/qcow2-bitmaps.ts";
import { BitmapSpace } from "./bitmap-space.ts";
import { countTableEntries, requireKnown } from "./bitmaps.ts";

/** The disk still has its old size; the caller has judged the bitmaps, and writes the new one next. */
export async function resizeBitmaps(link: Qcow2Link, sizeBytes: number): Promise<void> {
  const bitmaps = await readBitmapDirectory(link);
  if (bitmaps.length === 0) return;
  for (const bitmap of bitmaps) {
    requireKnown(bitmap);
    requireFit(bitmap, link.header);
  }
  const space = await BitmapSpace.open(link, bitmaps);
  const resized: BitmapEntry[] = [];
  for (const bitmap of bitmaps) resized.push(await resizeOne(space, bitmap, sizeBytes));
  await space.finish(resized);
}

async function resizeOne(space: BitmapSpace, bitmap: BitmapEntry, sizeBytes: number): Promise<BitmapEntry> {
  const { clusterBytes, link } = space;
  const { bitmapTableOffset, bitmapTableSize, granularityBits } = bitmap;
  const entries = countTableEntries({ ...link, virtualSizeBytes: sizeBytes }, granularityBits);
  const table = new Uint8Array(Math.max(entries, bitmapTableSize) * TABLE_ENTRY_BYTES);
  const keptBits = Math.ceil(Math.min(link.virtualSizeBytes, sizeBytes) / 2 ** granularityBits);
  await cutBits(space, bitmap, table, keptBits);
  const kept = table.subarray(0, entries * TABLE_ENTRY_BYTES);
  const tableBytes = bitmapTableSize * TABLE_ENTRY_BYTES;
  const [oldBytes, newBytes] = [tableBytes, kept.length].map((bytes) => alignUp(bytes, clusterBytes));
  if (oldBytes === newBytes) {
    await space.write(table, bitmapTableOffset);
    return { ...bitmap, bitmapTableSize: entries };
  }
  const place = await space.store(kept);
  await space.freeMetadata(bitmapTableOffset, tableBytes);
  return { ...bitmap, bitmapTableOffset: place, bitmapTableSize: entries };
}

/** Fills the table with the bitmap's, without marks from this bit on: whole clusters of bits are given back. */
async function cutBits(
  space: BitmapSpace,
  bitmap: BitmapEntry,
  table: Uint8Array,
  kept: number,
): Promise<void> {
  const { clusterBytes, link } = space;
  const view = new DataView(table.buffer);
  const bitsInCluster = clusterBytes * 8;
  const edge = Math.floor(kept / bitsInCluster);
  const inEdge = kept % bitsInCluster;
  let next = 0;
  for await (const entry of readBitmapTable(link, bitmap, bitmap.bitmapTableSize)) {
    const index = next;
    next += 1;
    if (index < edge || entry.kind === "zeros") encodeBitmapTableEntryAt(view, index, entry);
    else if (index === edge && inEdge > 0) {
      const bits = new Uint8Array(clusterBytes).fill(0xff);
      if (entry.kind === "data") bits.set(await readBytes(link.file, entry.hostOffset, clusterBytes));
      clearFrom(bits, inEdge);
      if (entry.kind === "data") await space.write(bits, entry.hostOffset);
      const hostOffset = entry.kind === "data" ? entry.hostOffset : await space.store(bits);
      encodeBitmapTableEntryAt(view, index, { kind: "data", hostOffset });
    } else if (entry.kind === "data") await space.freeBits(entry.hostOffset, clusterBytes);
  }
}

function clearFrom(bits: Uint8Array, first: number): void {
  const byte = Math.floor(first / 8);
  bits[byte] = (bits[byte] ?? 0) & (2 ** (first % 8) - 1);
  bits.fill(0, byte + 1);
}

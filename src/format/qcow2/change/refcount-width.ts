// Refcount blocks and a table that are made anew, after everything that is in use; and refcounts of another width by that.
//
// Invariants
// - The file is one that is staged. The old structures are counted no more in the new ones.
// - Memory is that of the new table, and of a block of each.

import { ImgtxError } from "../../../errors/index.ts";
import { clusterIndex, hostOffset } from "../../../units/index.ts";
import type { Qcow2Link } from "../../chain/chain-link.ts";
import { openWriterState } from "../../open/open-for-writing.ts";
import { readBytes, readOwnHeader } from "../../read-header.ts";
import { REFCOUNT_TABLE_BYTES_MAX, TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import {
  fillRefcounts,
  findUsedEntry,
  maxRefcount,
  readRefcount,
  writeRefcount,
} from "../codec/refcount-block.ts";
import { countBlockEntries } from "../codec/refcount-table.ts";
import type { WriterState } from "../write/writer-state.ts";
import { encodeChangedHeader, writeHeader } from "./rewrite-header.ts";
import { tooLarge } from "../layout/cluster-allocator.ts";

/** E_UNSUPPORTED where a count has no room in the new width, or the table would get too large. */
export async function changeRefcountWidth(link: Qcow2Link, refcountOrder: number): Promise<void> {
  const { file, header } = link;
  const files = { file, dataFile: file, isOrdered: true, keepsBitmaps: true };
  const state = await openWriterState(link, files, { isCounted: true });
  await state.begin();
  const { clusterBytes } = state;
  const start = (await state.findUsedEnd()) / clusterBytes;
  const entries = countBlockEntries({ clusterBits: header.clusterBits, refcountOrder });
  const old = await listOldClusters(link);
  await writeRefcounts(link, {
    start,
    refcountOrder,
    blocks: Array.from({ length: Math.ceil(start / entries) }, (_, index) => index),
    fillBlock: async (block, index) => {
      await convertBlock(state, block, index * entries, { refcountOrder, entries, old });
    },
  });
}

interface NewRefcounts {
  /** A cluster from which on nothing is used: they go there, and count themselves. */
  readonly start: number;
  readonly refcountOrder: number;
  /** Indices of the blocks that count something, ascending. */
  readonly blocks: readonly number[];
  /** Fills what is all zeros with what such a block counts. */
  fillBlock(block: Uint8Array, index: number): Promise<void>;
}

/** Gives the image another refcount table, with blocks of its own. E_UNSUPPORTED where that would get too large. */
export async function writeRefcounts(link: Qcow2Link, made: NewRefcounts): Promise<void> {
  const { file, header, path: image } = link;
  const { clusterSizeBytes: clusterBytes } = header;
  const { start, refcountOrder } = made;
  const entries = countBlockEntries({ clusterBits: header.clusterBits, refcountOrder });
  const counting = new Set(made.blocks);
  const { blocks, tableClusters, end } = placeRefcounts(made, entries, clusterBytes);
  if (tableClusters * clusterBytes > REFCOUNT_TABLE_BYTES_MAX) {
    throw tooLarge().with({ image });
  }
  const table = new DataView(new ArrayBuffer(tableClusters * clusterBytes));
  let next = start;
  // One for all: there may be a GiB of them.
  const block = new Uint8Array(clusterBytes);
  for (const index of blocks) {
    block.fill(0);
    if (counting.has(index)) await made.fillBlock(block, index);
    const from = Math.max(start, index * entries);
    const to = Math.min(end, (index + 1) * entries);
    if (from < to) fillRefcounts(block, from - index * entries, to - from, refcountOrder, 1);
    await file.write(block, next * clusterBytes);
    table.setBigUint64(index * TABLE_ENTRY_BYTES, BigInt(next * clusterBytes));
    next += 1;
  }
  const place = next * clusterBytes;
  await file.write(new Uint8Array(table.buffer), place);
  if ((await file.stat()).sizeBytes < end * clusterBytes) await file.truncate(end * clusterBytes);
  const now = await readOwnHeader(file, image, { mayLackRefcounts: true });
  const refcountTableOffset = hostOffset(place);
  const fields = { ...now, refcountOrder, refcountTableOffset, refcountTableClusters: tableClusters };
  const bytes = encodeChangedHeader(now, { fields });
  if (bytes === undefined) throw new ImgtxError("E_INTERNAL", "the header got longer", { image });
  await writeHeader(file, now, bytes);
}

/** With the blocks that count these themselves. */
function placeRefcounts(
  { start, blocks }: NewRefcounts,
  entries: number,
  clusterBytes: number,
): { readonly blocks: readonly number[]; readonly tableClusters: number; readonly end: number } {
  const all = new Set(blocks);
  let last = blocks.at(-1) ?? 0;
  let [tableClusters, end] = [1, start];
  for (let before = -1; before !== end; ) {
    before = end;
    end = start + all.size + tableClusters;
    for (let index = Math.floor(start / entries); index * entries < end; index += 1) {
      all.add(index);
      last = Math.max(last, index);
    }
    tableClusters = Math.ceil((last + 1) / (clusterBytes / TABLE_ENTRY_BYTES));
  }
  return { blocks: [...all].toSorted((one, other) => one - other), tableClusters, end };
}

/** The old table and its blocks, by their clusters. */
async function listOldClusters({ file, header }: Qcow2Link): Promise<ReadonlySet<number>> {
  const { refcountTableOffset, refcountTableClusters, clusterSizeBytes } = header;
  const bytes = await readBytes(file, refcountTableOffset, refcountTableClusters * clusterSizeBytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const old = new Set<number>();
  for (let index = 0; index < refcountTableClusters; index += 1) {
    old.add(refcountTableOffset / clusterSizeBytes + index);
  }
  for (let at = 0; at + TABLE_ENTRY_BYTES <= bytes.length; at += TABLE_ENTRY_BYTES) {
    const offset = Number(view.getBigUint64(at));
    if (offset > 0) old.add(offset / clusterSizeBytes);
  }
  return old;
}

interface NewBlock {
  readonly refcountOrder: number;
  readonly entries: number;
  readonly old: ReadonlySet<number>;
}

/** The counts from a cluster on, in the new width. */
async function convertBlock(
  state: WriterState,
  block: Uint8Array,
  first: number,
  { refcountOrder, entries, old }: NewBlock,
): Promise<void> {
  const { header } = state.files;
  for (let cluster = first; cluster < first + entries; ) {
    const window = await state.readCounts(clusterIndex(cluster));
    const stop = Math.min(window.end, first + entries) - window.first;
    for (let entry = cluster - window.first; entry < stop; entry += 1) {
      entry = findUsedEntry(window.bytes, entry, stop, header.refcountOrder);
      if (entry >= stop) break;
      const at = window.first + entry;
      const count = readRefcount(window.bytes, entry, header.refcountOrder);
      if (old.has(at)) continue;
      if (count > maxRefcount(refcountOrder)) throw noRoom(state, at, count, 2 ** refcountOrder);
      writeRefcount(block, at - first, refcountOrder, count);
    }
    cluster = window.first + stop;
  }
}

function noRoom(state: WriterState, cluster: number, count: number, bits: number): ImgtxError {
  const offset = cluster * state.clusterBytes;
  return new ImgtxError(
    "E_UNSUPPORTED",
    `Cannot decrease refcount entry width to ${bits} bits: Cluster at offset ${offset} has a refcount of ${count}`,
    {
      image: state.files.path,
      offset,
      field: "refcount",
      hint: "internal snapshots share clusters: delete those that nobody needs, or choose a wider one",
    },
  );
}

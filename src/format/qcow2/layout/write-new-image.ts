// The tables of a new qcow2 image, as bytes at their places.
//
// Invariant: pure, and one table at a time: an image with all its metadata has tables of many MiB.

import { encodeL1EntryAt } from "../codec/l1-table.ts";
import { L2_COPIED_HI } from "../codec/l2-table.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import type { MappedRun, NewImageLayout } from "./new-image.ts";
import { fillRefcounts } from "../codec/refcount-block.ts";
import { countBlockEntries } from "../codec/refcount-table.ts";
import { clusterIndex, type HostOffset, offsetBy, startOf } from "../../../units/index.ts";

export interface Segment {
  readonly offset: HostOffset;
  readonly bytes: Uint8Array;
}

/** Of layouts without L2 tables, which take a few bytes: that of a group of overlays is one. */
const encoded = new WeakMap<NewImageLayout, readonly Segment[]>();

/** Everything but the header, in the order of its kind; what reads as zeros may be left out. */
export function encodeTables(layout: NewImageLayout): Iterable<Segment> {
  if (layout.l2Tables.length > 0) return encodeAll(layout);
  let segments = encoded.get(layout);
  if (!segments) encoded.set(layout, (segments = [encodeTable(layout), ...encodeBlocks(layout)]));
  return segments;
}

function* encodeAll(layout: NewImageLayout): Generator<Segment> {
  yield encodeTable(layout);
  yield* encodeBlocks(layout);
  yield encodeL1(layout);
  yield* encodeL2Tables(layout);
}

function encodeTable(layout: NewImageLayout): Segment {
  const clusterBytes = 2 ** layout.clusterBits;
  const bytes = new Uint8Array(layout.blocks.length * TABLE_ENTRY_BYTES);
  const view = new DataView(bytes.buffer);
  layout.blocks.forEach((block, index) => {
    if (block !== undefined)
      view.setBigUint64(index * TABLE_ENTRY_BYTES, BigInt(startOf(block, clusterBytes)));
  });
  return { offset: startOf(layout.refcountTable.first, clusterBytes), bytes };
}

function* encodeBlocks(layout: NewImageLayout): Generator<Segment> {
  const clusterBytes = 2 ** layout.clusterBits;
  const entries = countBlockEntries(layout);
  let range = 0;
  for (const [index, block] of layout.blocks.entries()) {
    if (block === undefined) continue;
    const first = index * entries;
    const end = first + entries;
    const used: { readonly entry: number; readonly count: number }[] = [];
    for (;;) {
      const next = layout.used[range];
      if (next === undefined || next.first >= end) break;
      const from = Math.max(next.first, first);
      const to = Math.min(next.first + next.count, end);
      if (from < to) used.push({ entry: from - first, count: to - from });
      if (next.first + next.count > end) break;
      range += 1;
    }
    // Up to the last cluster in use: of an empty image that is a few bytes, and what follows is a hole.
    const last = used.at(-1);
    const usedBits = last === undefined ? 0 : (last.entry + last.count) * 2 ** layout.refcountOrder;
    const bytes = new Uint8Array(Math.ceil(usedBits / 8));
    for (const { entry, count } of used) fillRefcounts(bytes, entry, count, layout.refcountOrder, 1);
    yield { offset: startOf(block, clusterBytes), bytes };
  }
}

function encodeL1(layout: NewImageLayout): Segment {
  const clusterBytes = 2 ** layout.clusterBits;
  const bytes = new Uint8Array(layout.l1Size * TABLE_ENTRY_BYTES);
  const view = new DataView(bytes.buffer);
  layout.l2Tables.forEach((table, index) => {
    const hostOffset = startOf(table, clusterBytes);
    encodeL1EntryAt(view, index, { kind: "table", hostOffset, isCopied: true });
  });
  return { offset: startOf(layout.l1Start ?? clusterIndex(0), clusterBytes), bytes };
}

function* encodeL2Tables(layout: NewImageLayout): Generator<Segment> {
  const clusterBytes = 2 ** layout.clusterBits;
  let next = 0;
  for (const [l1Index, table] of layout.l2Tables.entries()) {
    const bytes = new Uint8Array(clusterBytes);
    const view = new DataView(bytes.buffer);
    for (;;) {
      const run = layout.runs[next];
      if (run?.l1Index !== l1Index) break;
      encodeRun(view, run, layout);
      next += 1;
    }
    yield { offset: startOf(table, clusterBytes), bytes };
  }
}

// Entries of whole clusters side by side, by their halves: a terabyte has 17 million of them. Subclusters of a
// preallocated cluster stay unallocated (their bitmap is 0): they show what is below until they are written.
function encodeRun(view: DataView, run: MappedRun, layout: NewImageLayout): void {
  const clusterBytes = 2 ** layout.clusterBits;
  const entryBytes = layout.extendedL2 ? 2 * TABLE_ENTRY_BYTES : TABLE_ENTRY_BYTES;
  let offset = run.hostOffset;
  let at = run.firstEntry * entryBytes;
  for (let entry = 0; entry < run.count; entry += 1) {
    view.setUint32(at, L2_COPIED_HI | Math.floor(offset / 2 ** 32));
    view.setUint32(at + 4, offset % 2 ** 32);
    offset = offsetBy(offset, clusterBytes);
    at += entryBytes;
  }
}

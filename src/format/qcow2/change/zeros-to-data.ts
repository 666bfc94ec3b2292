// Clusters that are marked as zeros become what version 2 can say: unallocated ones, or clusters of zeros.
//
// Invariant: over a staged file, so that all of it counts at once. A cluster that another table may have as well is not
// written to. A table that internal snapshots have is changed where it is, for all that have it.

import { clusterIndex, hostOffset } from "../../../units/index.ts";
import type { Qcow2Link } from "../../chain/chain-link.ts";
import { openWriterState } from "../../open/open-for-writing.ts";
import { readBytes } from "../../read-header.ts";
import { decodeL1EntryAt } from "../codec/l1-table.ts";
import { countL2Entries, L2_COMPRESSED_HI, L2_ZERO_LO, type L2Entry, toHalves } from "../codec/l2-table.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { readRefcount } from "../codec/refcount-block.ts";
import { readSnapshotTable } from "../read/qcow2-snapshots.ts";
import type { L2Table } from "../write/l2-tables.ts";
import { type EntryLayout, makeEntryLayout, readEntry, writeEntry } from "../write/plan-write.ts";
import type { WriterState } from "../write/writer-state.ts";
import { TABLES_AT_ONCE } from "./table-references.ts";

export async function turnZerosIntoData(link: Qcow2Link): Promise<void> {
  const { file, header } = link;
  const files = { file, dataFile: file, isOrdered: true };
  const state = await openWriterState(link, files, { isCounted: true });
  const layout = makeEntryLayout(header, header.backingFileName !== undefined);
  await state.begin();
  for (let l1Index = 0; l1Index < header.l1Size; l1Index += 1) {
    const found = await state.findTable(l1Index);
    if (found === undefined || !hasZeros(found.halves)) continue;
    await changeTable(state, await state.requireTable(l1Index), layout);
    if (l1Index % TABLES_AT_ONCE === 0) await state.persist();
  }
  // A table with zeros that the disk had in common with a snapshot is a snapshot's alone when all is in place.
  await state.persist();
  await changeSnapshotTables(state, link, layout);
  await state.finish();
}

function hasZeros(halves: Uint32Array): boolean {
  for (let at = 0; at < halves.length; at += 2) {
    const isCompressed = ((halves[at] ?? 0) & L2_COMPRESSED_HI) !== 0;
    if (!isCompressed && ((halves[at + 1] ?? 0) & L2_ZERO_LO) !== 0) return true;
  }
  return false;
}

async function changeTable(state: WriterState, table: L2Table, layout: EntryLayout): Promise<void> {
  const count = countL2Entries(layout);
  for (let index = 0; index < count; index += 1) {
    const entry = readEntry(table, index, layout);
    if (entry.kind !== "zero") continue;
    writeEntry(table, index, await replaceZero(state, entry, layout), layout);
  }
  state.tables.mark(table, 0, count * TABLE_ENTRY_BYTES);
}

async function replaceZero(
  state: WriterState,
  entry: Extract<L2Entry, { kind: "zero" }>,
  { hasBacking, clusterBytes }: EntryLayout,
): Promise<L2Entry> {
  const own = entry.isCopied ? entry.hostOffset : undefined;
  if (own === undefined) state.free(entry, false);
  if (own === undefined && !hasBacking) return { kind: "unallocated", zeroBits: 0 };
  const place = own ?? hostOffset((await state.allocate(1)) * clusterBytes);
  await state.files.file.punchHole({ start: place, lengthBytes: clusterBytes });
  return { kind: "data", hostOffset: place, isCopied: true, allocBits: 0xffffffff, zeroBits: 0 };
}

/** In the tables that internal snapshots alone have by now, each changed once, where it is. */
async function changeSnapshotTables(state: WriterState, link: Qcow2Link, layout: EntryLayout): Promise<void> {
  const { file, header } = link;
  const { entries } = await readSnapshotTable(link);
  const seen = new Set<number>();
  for (const { l1TableOffset, l1Size } of entries) {
    const l1 = await readBytes(file, l1TableOffset, l1Size * TABLE_ENTRY_BYTES);
    const view = new DataView(l1.buffer, l1.byteOffset, l1.byteLength);
    for (let index = 0; index * TABLE_ENTRY_BYTES < l1.length; index += 1) {
      const entry = decodeL1EntryAt(view, index, header.clusterBits);
      if (entry.kind === "unallocated" || seen.has(entry.hostOffset)) continue;
      seen.add(entry.hostOffset);
      const bytes = new Uint8Array(layout.clusterBytes);
      bytes.set(await readBytes(file, entry.hostOffset, bytes.length));
      const halves = toHalves(bytes);
      if (hasZeros(halves)) await changeSharedTable(state, { hostOffset: entry.hostOffset, halves }, layout);
    }
  }
}

/** All that it leads to counts once for each L1 table that has it. What others may have as data too is not written to. */
async function changeSharedTable(
  state: WriterState,
  { hostOffset: place, halves }: Pick<L2Table, "hostOffset" | "halves">,
  layout: EntryLayout,
): Promise<void> {
  const { hasBacking, clusterBytes } = layout;
  const { file, header } = state.files;
  const cluster = clusterIndex(place / clusterBytes);
  const window = await state.readCounts(cluster);
  const users = readRefcount(window.bytes, cluster - window.first, header.refcountOrder);
  const table = { l1Index: -1, hostOffset: place, halves, dirtyFrom: 0, dirtyTo: 0, isNew: false };
  for (let index = 0; index < countL2Entries(layout); index += 1) {
    const entry = readEntry(table, index, layout);
    if (entry.kind !== "zero") continue;
    for (let user = 0; user < users; user += 1) state.free(entry, false);
    let after: L2Entry = { kind: "unallocated", zeroBits: 0 };
    if (hasBacking) {
      const first = await state.allocate(1);
      for (let user = 1; user < users; user += 1) await state.raise(first, 1);
      const data = hostOffset(first * clusterBytes);
      await file.punchHole({ start: data, lengthBytes: clusterBytes });
      after = { kind: "data", hostOffset: data, isCopied: false, allocBits: 0xffffffff, zeroBits: 0 };
    }
    writeEntry(table, index, after, layout);
  }
  await file.write(Buffer.from(halves.slice().buffer).swap32(), place);
  await state.persist();
}

// The part of the active tables past an end: given back, with all that it maps; of a data file, when all of it goes.
//
// Invariants
// - A table that an internal snapshot has as well is copied before a part of it goes; of one that goes as a whole only
//   the counts fall, and the snapshot keeps it.
// - What is let go of is bounded in memory: counts fall after some tables, not after all.

import { alignUp } from "../../../units/index.ts";
import type { L2Entry } from "../codec/l2-table.ts";
import { countL2Entries, measureL2Entry } from "../codec/l2-table.ts";
import type { L2Table } from "../write/l2-tables.ts";
import { punchesFreed, TABLES_AT_ONCE } from "./table-references.ts";
import { type EntryLayout, makeEntryLayout, readEntry, writeEntry } from "../write/plan-write.ts";
import type { WriterState } from "../write/writer-state.ts";

const UNALLOCATED: L2Entry = { kind: "unallocated", zeroBits: 0 };

/** Clusters that begin at sizeBytes or later are unallocated afterwards, up to the end of the L1 table. */
export async function cutTables(state: WriterState, sizeBytes: number): Promise<void> {
  const { header } = state.files;
  const layout = makeEntryLayout(header, header.backingFileName !== undefined);
  const punches = punchesFreed(state);
  const { spanBytes } = state.tables;
  const end = alignUp(sizeBytes, layout.clusterBytes);
  const first = Math.floor(end / spanBytes);
  const kept = (end - first * spanBytes) / layout.clusterBytes;
  for (let l1Index = first; l1Index < header.l1Size; l1Index += 1) {
    const isWhole = l1Index > first || kept === 0;
    if (state.tables.place(l1Index) === undefined) continue;
    const table = isWhole ? await state.findTable(l1Index) : await state.requireTable(l1Index);
    if (table === undefined) continue;
    freeEntries(state, table, isWhole ? 0 : kept, { layout, punches, isWhole });
    if (isWhole) state.dropTable(l1Index, punches);
    if (l1Index % TABLES_AT_ONCE === 0) await state.persist();
  }
  await state.persist();
}

/**
 * Has the file system take back what the active tables map of an external data file: all else there is left as it is. Safe
 * over redo logs alone, since the tables go after it. No block device: a hole is no gain there.
 */
export async function punchDataFile(state: WriterState): Promise<void> {
  const { header, dataFile } = state.files;
  if ((await dataFile.stat()).kind === "device") return;
  const layout = makeEntryLayout(header, header.backingFileName !== undefined);
  let [start, end] = [0, 0];
  const punch = async (): Promise<void> => {
    if (end > start) await dataFile.punchHole({ start, lengthBytes: end - start });
  };
  for (let l1Index = 0; l1Index < header.l1Size; l1Index += 1) {
    const table = await state.findTable(l1Index);
    if (table === undefined) continue;
    for (let index = 0; index < countL2Entries(layout); index += 1) {
      const entry = readEntry(table, index, layout);
      if (entry.kind === "unallocated" || entry.hostOffset === undefined) continue;
      if (entry.hostOffset !== end) {
        await punch();
        start = entry.hostOffset;
      }
      end = entry.hostOffset + layout.clusterBytes;
    }
  }
  await punch();
}

function freeEntries(
  state: WriterState,
  table: L2Table,
  first: number,
  how: { readonly layout: EntryLayout; readonly punches: boolean; readonly isWhole: boolean },
): void {
  const { layout, punches, isWhole } = how;
  const count = countL2Entries(layout);
  for (let index = first; index < count; index += 1) {
    const entry = readEntry(table, index, layout);
    if (entry === UNALLOCATED) continue;
    state.free(entry, punches);
    if (!isWhole) writeEntry(table, index, UNALLOCATED, layout);
  }
  const entryBytes = measureL2Entry(layout);
  if (!isWhole) state.tables.mark(table, first * entryBytes, count * entryBytes);
}

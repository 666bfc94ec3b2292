// Clusters for a part of the disk that nothing was written to yet: its entries say data, and lead past all that the file
// has, where everything reads as zeros; in an external data file to their own places.
//
// Invariant: no cluster that was given back is taken, since it still has what was in it.

import { clusterIndex, type HostOffset, hostOffset, offsetBy, startOf } from "../../../units/index.ts";
import { countL2Entries, measureL2Entry } from "../codec/l2-table.ts";
import { makeEntryLayout, writeDataEntry } from "./plan-write.ts";
import type { WriterState } from "./writer-state.ts";

/** After so many tables they are written out. */
const TABLES_AT_ONCE = 64;

/**
 * From the first cluster that begins at start or later up to end. Returns from where on, and up to where, the image's own file
 * has them. What an external data file has there has to read as zeros already.
 */
export async function preallocate(
  state: WriterState,
  start: number,
  end: number,
): Promise<{ readonly start: HostOffset; readonly end: HostOffset }> {
  const { clusterBytes } = state;
  const { header } = state.files;
  const layout = makeEntryLayout(header, false);
  const [perTable, entryBytes] = [countL2Entries(layout), measureL2Entry(layout)];
  const from = hostOffset(state.highWater);
  const stop = Math.ceil(end / clusterBytes);
  for (let cluster = Math.ceil(start / clusterBytes), tables = 1; cluster < stop; tables += 1) {
    const l1Index = Math.floor(cluster / perTable);
    const table = await state.requireTable(l1Index);
    const first = cluster % perTable;
    const last = Math.min(perTable, first + stop - cluster);
    for (let index = first; index < last; ) {
      const run = header.hasExternalDataFile
        ? { first: clusterIndex(cluster + index - first), clusters: last - index }
        : await state.allocateAtEnd(last - index);
      for (let at = 0; at < run.clusters; at += 1, index += 1) {
        writeDataEntry(table, index, startOf(offsetBy(run.first, at), clusterBytes), layout);
      }
    }
    state.tables.mark(table, first * entryBytes, last * entryBytes);
    cluster += last - first;
    if (tables % TABLES_AT_ONCE === 0) await state.persist();
  }
  await state.persist();
  return { start: from, end: hostOffset(state.highWater) };
}

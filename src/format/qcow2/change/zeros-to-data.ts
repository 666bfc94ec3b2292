// Clusters that are marked as zeros become what version 2 can say: unallocated ones, or clusters of zeros.
//
// Invariant: over a staged file. A cluster that an internal snapshot has as well is not written to, and neither is a
// table that it has.

import { ImgtxError } from "../../../errors/index.ts";
import { hostOffset } from "../../../units/index.ts";
import type { Qcow2Link } from "../../chain/chain-link.ts";
import { openWriterState } from "../../open/open-for-writing.ts";
import { quoteName } from "../../quote-name.ts";
import { readBytes } from "../../read-header.ts";
import { decodeL1EntryAt } from "../codec/l1-table.ts";
import { countL2Entries, L2_COMPRESSED_HI, L2_ZERO_LO, type L2Entry, toHalves } from "../codec/l2-table.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { readSnapshotTable } from "../read/qcow2-snapshots.ts";
import type { L2Table } from "../write/l2-tables.ts";
import { type EntryLayout, makeEntryLayout, readEntry, writeEntry } from "../write/plan-write.ts";
import type { WriterState } from "../write/writer-state.ts";
import { TABLES_AT_ONCE } from "./table-references.ts";

/** E_UNSUPPORTED where an internal snapshot has such clusters: what it has is not changed. */
export async function turnZerosIntoData(link: Qcow2Link): Promise<void> {
  const { file, header } = link;
  await assertSnapshotsWithoutZeros(link);
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

async function assertSnapshotsWithoutZeros(link: Qcow2Link): Promise<void> {
  const { file, header, path: image } = link;
  const { entries } = await readSnapshotTable(link);
  for (const { name, l1TableOffset, l1Size } of entries) {
    const l1 = await readBytes(file, l1TableOffset, l1Size * TABLE_ENTRY_BYTES);
    const view = new DataView(l1.buffer, l1.byteOffset, l1.byteLength);
    for (let index = 0; index * TABLE_ENTRY_BYTES < l1.length; index += 1) {
      const entry = decodeL1EntryAt(view, index, header.clusterBits);
      if (entry.kind === "unallocated") continue;
      const table = new Uint8Array(header.clusterSizeBytes);
      table.set(await readBytes(file, entry.hostOffset, table.length));
      if (!hasZeros(toHalves(table))) continue;
      throw new ImgtxError(
        "E_UNSUPPORTED",
        `Internal snapshots prevent downgrade of image: ${quoteName(name)} has clusters of zeros`,
        { image, field: "nb_snapshots", hint: "`imgtx internal-snapshot delete` takes it away" },
      );
    }
  }
}

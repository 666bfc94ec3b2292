// Carries out what plan-repairs.ts has found.
//
// Invariants
// - The file that is written to is one that is staged. Guest data and L2 entries but for their COPIED flags stay.
// - In this order, since each step believes the ones before: extra data of snapshots, refcounts, flags, snapshot table, marks.

import { ImgtxError } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import type { Qcow2Link } from "../../chain/chain-link.ts";
import { openWriterState } from "../../open/open-for-writing.ts";
import { readBytes } from "../../read-header.ts";
import { stateDiskSizes } from "../change/internal-snapshots.ts";
import { rereadHeader } from "../change/reread-header.ts";
import { refreshCopied } from "../change/table-references.ts";
import { checkQcow2 } from "../check/check.ts";
import { encodeFeatureBits, INCOMPATIBLE_BIT } from "../codec/features.ts";
import { HEADER_AT } from "../codec/header.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { writeRefcount } from "../codec/refcount-block.ts";
import { countBlockEntries } from "../codec/refcount-table.ts";
import { blockPlace, readRefcountTable, type Repairs } from "./plan-repairs.ts";
import { rebuildRefcounts } from "./rebuild-refcounts.ts";

/** In the link's file; has the result checked. */
export async function makeRepairs(link: Qcow2Link, repairs: Repairs): Promise<void> {
  const { file, path } = link;
  const { cut } = repairs;
  if (cut !== undefined) await file.write(cut.bytes, cut.offset);
  if (repairs.rebuilds) await rebuildRefcounts(link);
  else await writeCounts(link, repairs.counts);
  if (repairs.setsFlags) await writeFlags(link);
  if (repairs.snapshots > 0) await stateDiskSizes(await rereadHeader(link, file));
  if (repairs.marks.length > 0) await writeMarks(link);
  if (repairs.damage > 0) return;
  const found = await checkQcow2(file, () => undefined);
  const isMended = found.leaks === 0 && (!repairs.setsFlags || found.corruptions === 0);
  if (!isMended) throw new ImgtxError("E_INTERNAL", "the repaired image is not sound", { image: path });
}

async function writeCounts(link: Qcow2Link, counts: Repairs["counts"]): Promise<void> {
  const { file, header } = link;
  const table = await readRefcountTable(link);
  const entries = countBlockEntries(header);
  const block = { index: -1, bytes: new Uint8Array(header.clusterSizeBytes) };
  const write = async (): Promise<void> => {
    if (block.index >= 0) await file.write(block.bytes, blockPlace(table, block.index));
  };
  for (const { cluster, after } of counts) {
    const index = Math.floor(cluster / entries);
    if (index !== block.index) {
      await write();
      block.index = index;
      block.bytes.fill(0, await file.read(block.bytes, blockPlace(table, index)));
    }
    writeRefcount(block.bytes, cluster % entries, header.refcountOrder, after);
  }
  await write();
}

async function writeFlags(link: Qcow2Link): Promise<void> {
  const now = await rereadHeader(link, link.file);
  const { file, header } = now;
  const files = { file, dataFile: file, isOrdered: true, keepsBitmaps: true };
  const state = await openWriterState(now, files, { isCounted: true });
  const l1 = new Uint8Array(header.l1Size * TABLE_ENTRY_BYTES);
  l1.set(await readBytes(file, header.l1TableOffset, l1.length));
  await refreshCopied(state, l1, header.l1TableOffset);
}

async function writeMarks({ file, header }: { readonly file: StorageFile } & Qcow2Link): Promise<void> {
  const { dirty, corrupt } = INCOMPATIBLE_BIT;
  const kept = header.incompatibleFeatures.filter((bit) => bit !== dirty && bit !== corrupt);
  const mask = new Uint8Array(8);
  new DataView(mask.buffer).setBigUint64(0, encodeFeatureBits(kept));
  await file.write(mask, HEADER_AT.incompatibleFeatures);
}

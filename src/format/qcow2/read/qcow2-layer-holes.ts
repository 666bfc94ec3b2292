// Data that was never written: an image with preallocated metadata has a cluster for all guest data, and holes
// of the file in most of them. QEMU's map and convert look for holes in such images, and so does imgtx.
//
// Invariant: what this finds only saves work. Where the file system tells no holes, all is data.

import type { StorageFile } from "../../../storage/index.ts";
import { type GuestOffset, offsetBy } from "../../../units/index.ts";
import { HoleFinder } from "../../read/hole-finder.ts";
import { readRefcounts } from "../codec/refcount-block.ts";
import { countBlockEntries } from "../codec/refcount-table.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import type { Qcow2Link } from "../../chain/chain-link.ts";
import { readBytes } from "../../read-header.ts";
import type { Run, RunList } from "../../read/run-list.ts";

/**
 * Whether an image has clearly more clusters in use than blocks on the disk: QEMU's rule, a tenth or at least
 * two. False where its refcounts can't be followed: that is for check to say.
 */
export async function hasPreallocatedMetadata(link: Qcow2Link): Promise<boolean> {
  const { header, file } = link;
  const { sizeBytes, allocatedBytes } = await file.stat();
  const stored = Math.floor(allocatedBytes / header.clusterSizeBytes);
  const threshold = Math.max(Math.floor((stored * 10) / 9), stored + 2);
  const clusters = Math.ceil(sizeBytes / header.clusterSizeBytes);
  // Saves a look at every refcount of an image without holes.
  if (clusters < threshold) return false;
  const perBlock = countBlockEntries(header);
  const counts = new Uint32Array(perBlock);
  const block = new Uint8Array(header.clusterSizeBytes);
  const blocks = Math.ceil(clusters / perBlock);
  const table = await readBytes(file, header.refcountTableOffset, blocks * TABLE_ENTRY_BYTES);
  const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
  let used = 0;
  for (let index = 0; index < blocks && (index + 1) * TABLE_ENTRY_BYTES <= table.length; index += 1) {
    const offset = Number(view.getBigUint64(index * TABLE_ENTRY_BYTES));
    if (offset === 0) continue;
    if (offset % header.clusterSizeBytes !== 0 || offset >= sizeBytes) return false;
    block.fill(0, await file.read(block, offset));
    const inBlock = Math.min(perBlock, clusters - index * perBlock);
    readRefcounts(block, header.refcountOrder, counts, inBlock);
    for (let entry = 0; entry < inBlock; entry += 1) if (counts[entry] !== 0) used += 1;
    if (used >= threshold) return true;
  }
  return false;
}

/**
 * Appends found to runs, data that lies in holes of the file as `zero`, until runs is full. Returns how far it
 * came; reached, where it came to the end.
 */
export async function splitAtHoles(
  found: readonly Run[],
  file: StorageFile,
  runs: RunList,
  reached: GuestOffset,
): Promise<GuestOffset> {
  const holes = new HoleFinder(file);
  for (const run of found) {
    if (runs.isFull) return run.start;
    if (run.kind !== "data" || run.hostOffset === undefined) {
      runs.push(run.start, run.lengthBytes, run.kind, run.hostOffset);
      continue;
    }
    for (let done = 0; done < run.lengthBytes; ) {
      if (runs.isFull) return offsetBy(run.start, done);
      const host = offsetBy(run.hostOffset, done);
      const { isHole, end } = await holes.at(host);
      const length = Math.min(run.lengthBytes - done, end - host);
      runs.push(offsetBy(run.start, done), length, isHole ? "zero" : "data", host, isHole);
      done += length;
    }
  }
  return reached;
}

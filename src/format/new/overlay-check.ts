// Whether an existing qcow2 image is an empty overlay over a given image: what `--reuse` takes.
//
// Invariant: reads only, and reads no more of the L1 table than has data.

import type { StorageFile } from "../../storage/index.ts";
import type { Chain, ChainLink } from "../chain/backing-chain.ts";
import { TABLE_ENTRY_BYTES } from "../qcow2/codec/limits.ts";
import { readBytes } from "../read-header.ts";
import { identityOf } from "../fingerprint.ts";

const CHUNK_BYTES = 65_536;

/**
 * Why overlay (an opened chain) is not an empty overlay over backing, a few words each; empty when it is one.
 * The backing file name must lead to backing's very file, in backing's format.
 */
export async function checkOverlayIsEmpty(overlay: Chain, backing: ChainLink): Promise<string[]> {
  const [active, below] = overlay.links;
  if (active?.header === undefined) return ["it is not a qcow2 image"];
  const { header } = active;
  const objections: string[] = [];
  if (header.isDirty) objections.push("its dirty bit is set");
  if (header.isCorrupt) objections.push("its corrupt bit is set");
  if (header.hasExternalDataFile) objections.push("it has an external data file");
  if (header.nbSnapshots > 0) objections.push(`it has ${header.nbSnapshots} internal snapshots`);
  if (active.virtualSizeBytes !== backing.virtualSizeBytes) {
    objections.push(`its virtual size is ${active.virtualSizeBytes}, not ${backing.virtualSizeBytes}`);
  }
  objections.push(...compareBacking(below, backing));
  if (await hasData(active.file, header.l1TableOffset, header.l1Size * TABLE_ENTRY_BYTES)) {
    objections.push("it holds data (its L1 table is not empty)");
  }
  return objections;
}

function compareBacking(below: ChainLink | undefined, backing: ChainLink): string[] {
  if (below === undefined) return ["it has no backing file"];
  if (identityOf(below.stat) !== identityOf(backing.stat)) {
    return [`its backing file is ${below.path}, not ${backing.path}`];
  }
  return below.format === backing.format ? [] : [`it takes its backing file for ${below.format}`];
}

async function hasData(file: StorageFile, start: number, lengthBytes: number): Promise<boolean> {
  const end = start + lengthBytes;
  let offset = start;
  while (offset < end) {
    const data = await file.seekData(offset);
    if (data === undefined || data >= end) return false;
    const bytes = await readBytes(file, data, Math.min(CHUNK_BYTES, end - data));
    if (bytes.some((byte) => byte !== 0)) return true;
    if (bytes.length === 0) return false;
    offset = data + bytes.length;
  }
  return false;
}

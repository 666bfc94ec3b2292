// The refcount table and its blocks (qcow2 specification, "Host cluster management").
//
// Invariant: pure. Entries are big-endian; below 8 bits an entry sits in its byte from the least
// significant bit upwards.

import type { HostOffset } from "../../../units/index.ts";
import { TABLE_ENTRY_BYTES } from "./limits.ts";

/** Clusters that one refcount block counts. */
export function countBlockEntries(clusterSizeBytes: number, refcountBits: number): number {
  return (clusterSizeBytes * 8) / refcountBits;
}

/** The beginning of a refcount table that points to these blocks; the rest of its clusters is zeros. */
export function encodeRefcountTable(blockOffsets: readonly HostOffset[]): Uint8Array {
  const bytes = new Uint8Array(blockOffsets.length * TABLE_ENTRY_BYTES);
  const view = new DataView(bytes.buffer);
  blockOffsets.forEach((offset, index) => view.setBigUint64(index * TABLE_ENTRY_BYTES, BigInt(offset)));
  return bytes;
}

/** The beginning of a refcount block whose first clusters are used once, and the others free. */
export function encodeUsedClusters(usedClusters: number, refcountBits: number): Uint8Array {
  const bytes = new Uint8Array(Math.ceil((usedClusters * refcountBits) / 8));
  for (let index = 0; index < usedClusters; index += 1) {
    if (refcountBits >= 8) {
      bytes[((index + 1) * refcountBits) / 8 - 1] = 1;
    } else {
      const bit = index * refcountBits;
      const at = Math.floor(bit / 8);
      bytes[at] = (bytes[at] ?? 0) | (1 << (bit % 8));
    }
  }
  return bytes;
}

// The refcount table and its blocks (qcow2 specification, "Host cluster management"): how many of them an image
// needs.
//
// Invariant: pure.

import { TABLE_ENTRY_BYTES } from "./limits.ts";

export interface RefcountLayout {
  readonly clusterBits: number;
  readonly refcountOrder: number;
}

/** Clusters that one refcount block counts. */
export function countBlockEntries({ clusterBits, refcountOrder }: RefcountLayout): number {
  return 2 ** (clusterBits + 3 - refcountOrder);
}

/**
 * How many blocks, and clusters of the table, count so many clusters, and themselves. hasRoomToGrow adds what QEMU
 * leaves for later: the table half as large again.
 */
export function countRefcountClusters(
  clusters: number,
  layout: RefcountLayout,
  hasRoomToGrow = false,
): { blocks: number; tableClusters: number } {
  const blockEntries = countBlockEntries(layout);
  const tableClusterEntries = 2 ** layout.clusterBits / TABLE_ENTRY_BYTES;
  let counted = clusters;
  let isGrown = !hasRoomToGrow;
  let [blocks, tableClusters] = [0, 0];
  for (let total = -1; ; ) {
    const before = total;
    blocks = Math.ceil((counted + tableClusters + blocks) / blockEntries);
    tableClusters = Math.ceil(blocks / tableClusterEntries);
    total = counted + blocks + tableClusters;
    if (total !== before) continue;
    if (isGrown) return { blocks, tableClusters };
    counted += Math.ceil(tableClusters / 2);
    isGrown = true;
  }
}

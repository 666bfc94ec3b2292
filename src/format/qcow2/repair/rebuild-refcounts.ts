// A refcount table and blocks that are made anew, from what the image refers to: of those that there are nothing is
// believed.
//
// Invariant: they go after all that the file has. Nothing that was ever there is written over.

import { ImgtxError } from "../../../errors/index.ts";
import { clusterIndex } from "../../../units/index.ts";
import type { Qcow2Link } from "../../chain/chain-link.ts";
import { writeRefcounts } from "../change/refcount-width.ts";
import { checkQcow2 } from "../check/check.ts";
import { CHUNK_CLUSTERS, type ClusterCounts } from "../check/check-counts.ts";
import { writeRefcount } from "../codec/refcount-block.ts";
import { countBlockEntries } from "../codec/refcount-table.ts";

/** E_UNSUPPORTED where the table would be too large. */
export async function rebuildRefcounts(link: Qcow2Link): Promise<void> {
  const { file, header, path } = link;
  let counts: ClusterCounts | undefined;
  await checkQcow2(file, () => undefined, undefined, {
    leavesOutRefcounts: true,
    onCounted: (counted) => {
      counts = counted;
    },
  });
  if (counts === undefined) throw new ImgtxError("E_INTERNAL", "nothing was counted", { image: path });
  const references = counts;
  const { refcountOrder, clusterSizeBytes } = header;
  const entries = countBlockEntries(header);
  await writeRefcounts(link, {
    start: Math.max(references.clusters, Math.ceil((await file.stat()).sizeBytes / clusterSizeBytes)),
    refcountOrder,
    blocks: findBlocks(references, entries),
    fillBlock: async (block, index) => {
      fill(block, references, index * entries, (index + 1) * entries, refcountOrder);
      await Promise.resolve();
    },
  });
  references.release();
}

/** The blocks that have something to count, ascending. */
function findBlocks(counts: ClusterCounts, entries: number): number[] {
  const blocks = new Set<number>();
  const chunk = new Uint8Array(CHUNK_CLUSTERS);
  for (let chunkIndex = 0; chunkIndex < counts.chunksEnd; chunkIndex += 1) {
    if (!counts.readChunk(chunkIndex, chunk)) continue;
    const first = chunkIndex * CHUNK_CLUSTERS;
    for (let at = 0; at < chunk.length; ) {
      const index = Math.floor((first + at) / entries);
      const end = Math.min(chunk.length, (index + 1) * entries - first);
      if (chunk.subarray(at, end).some((count) => count !== 0)) blocks.add(index);
      at = end;
    }
  }
  return [...blocks];
}

/** The counts from first to end. */
function fill(
  block: Uint8Array,
  counts: ClusterCounts,
  first: number,
  end: number,
  refcountOrder: number,
): void {
  for (let cluster = first; cluster < end; cluster += 1) {
    const count = counts.count(clusterIndex(cluster));
    if (count !== 0) writeRefcount(block, cluster - first, refcountOrder, count);
  }
}

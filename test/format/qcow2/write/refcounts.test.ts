// The cache of refcount blocks, on an image with more of them than it holds.

import { expect, test } from "vitest";
import type { Qcow2Header } from "../../../../src/format/qcow2/codec/header-cluster.ts";
import { MetadataMap } from "../../../../src/format/qcow2/write/metadata-map.ts";
import { Refcounts } from "../../../../src/format/qcow2/write/refcounts.ts";
import { clusterIndex, hostOffset } from "../../../../src/units/index.ts";

const CLUSTER_BYTES = 2 * 1024 ** 2;
const BLOCK_ENTRIES = CLUSTER_BYTES / 2;
/** Of 16 MiB, which the cache has. */
const CACHED = 8;
const BLOCKS = 20;
const TABLE_AT = CLUSTER_BYTES;
/** After the counts that the test makes. */
const ZEROS = new Uint8Array(CLUSTER_BYTES - 4);

/** The table in cluster 1, its blocks after it, with a count of 5 for the first cluster of each. */
async function open() {
  const table = Buffer.alloc(CLUSTER_BYTES);
  const heads = new Map<number, Buffer>();
  for (let index = 0; index < BLOCKS; index += 1) {
    const offset = (2 + index) * CLUSTER_BYTES;
    table.writeBigUInt64BE(BigInt(offset), index * 8);
    heads.set(offset, Buffer.from([0, 5]));
  }
  const memory = new Set<ArrayBufferLike>();
  const file = {
    // Blocks end where their zeros begin, as in a file that is cut short.
    read: async (target: Uint8Array, offset: number): Promise<number> => {
      const bytes = offset === TABLE_AT ? table : heads.get(offset);
      if (offset !== TABLE_AT) memory.add(target.buffer);
      target.set(bytes ?? []);
      return bytes?.length ?? 0;
    },
    write: async (source: Uint8Array, offset: number): Promise<void> => {
      // Else an entry of the table.
      if (source.length !== CLUSTER_BYTES) return;
      heads.set(offset, Buffer.from(source.subarray(0, 4)));
      expect(Buffer.compare(source.subarray(4), ZEROS)).toBe(0);
    },
    flush: async (): Promise<void> => undefined,
  };
  const header = {
    clusterSizeBytes: CLUSTER_BYTES,
    refcountOrder: 4,
    refcountBits: 16,
    refcountTableOffset: hostOffset(TABLE_AT),
    refcountTableClusters: 1,
  } as Qcow2Header;
  const metadata = new MetadataMap("a.qcow2", CLUSTER_BYTES);
  const options = { path: "a.qcow2", file, header, metadata, isOrdered: false };
  const counts = await Refcounts.open(options, (BLOCKS + 2) * CLUSTER_BYTES);
  return { counts, memory, heads };
}

test("blocks that leave the cache give their memory to those that come, and keep their counts", async () => {
  const { counts, memory, heads } = await open();
  const firstOf = (index: number) => clusterIndex(index * BLOCK_ENTRIES);
  for (let index = 0; index < BLOCKS; index += 1) await counts.change(firstOf(index), 1, 1);
  await counts.change(clusterIndex(firstOf(BLOCKS - 1) + 1), 1, 1);
  await counts.addBlock(BLOCKS, clusterIndex(2 + BLOCKS));
  await counts.change(firstOf(BLOCKS), 1, 1);
  await counts.persist();
  for (let index = 0; index < BLOCKS; index += 1) {
    expect(await counts.readCount(firstOf(index))).toBe(6);
    expect(await counts.readCount(clusterIndex(firstOf(index) + 1))).toBe(index === BLOCKS - 1 ? 1 : 0);
  }
  expect(await counts.readCount(firstOf(BLOCKS))).toBe(1);
  expect(heads.get((2 + BLOCKS) * CLUSTER_BYTES)).toEqual(Buffer.from([0, 1, 0, 0]));
  expect(memory.size).toBeLessThanOrEqual(CACHED);
});

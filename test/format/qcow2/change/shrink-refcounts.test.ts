// Refcount blocks that count nothing are given back, wherever they lie.

import { readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { dropEmptyBlocks } from "../../../../src/format/qcow2/change/shrink-refcounts.ts";
import type { Qcow2Header } from "../../../../src/format/qcow2/codec/header-cluster.ts";
import { makeNodeStorage } from "../../../../src/storage/index.ts";
import { makeFolder } from "../../../helpers/temporary-folder.ts";

const CLUSTER = 512;
/** Entries of 64 bits: a block counts 64 clusters. */
const HEADER = {
  refcountTableOffset: CLUSTER,
  refcountTableClusters: 1,
  clusterSizeBytes: CLUSTER,
  clusterBits: 9,
};

test("one that another block counts is no longer counted there, and blocks that count something stay", async () => {
  const bytes = Buffer.alloc(5 * CLUSTER);
  const setEntry = (cluster: number, entry: number, value: number): void => {
    bytes.writeBigUInt64BE(BigInt(value), cluster * CLUSTER + entry * 8);
  };
  // The table in cluster 1 names three blocks in clusters 2 to 4; the first one counts all of these.
  for (const [index, cluster] of [2, 3, 4].entries()) setEntry(1, index, cluster * CLUSTER);
  for (const cluster of [0, 1, 2, 3, 4]) setEntry(2, cluster, 1);
  setEntry(3, 5, 1);
  const path = `${makeFolder()}/refcounts`;
  writeFileSync(path, bytes);
  const file = await makeNodeStorage().openFile(path, "write");
  await dropEmptyBlocks(file, { ...HEADER, refcountOrder: 6 } as unknown as Qcow2Header);
  await file.close();
  setEntry(1, 2, 0);
  setEntry(2, 4, 0);
  expect(readFileSync(path)).toEqual(bytes);
});

// Refcount blocks that are made anew may be many: more than a call takes arguments.

import { writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import type { Qcow2Link } from "../../../../src/format/chain/chain-link.ts";
import { writeRefcounts } from "../../../../src/format/qcow2/change/refcount-width.ts";
import { readOwnHeader } from "../../../../src/format/read-header.ts";
import { makeNodeStorage, type StorageFile } from "../../../../src/storage/index.ts";
import { sampleQcow2 } from "../../../helpers/sample-image.ts";
import { makeFolder } from "../../../helpers/temporary-folder.ts";

const BLOCKS = 400_000;
/** Of 512 bytes, with counts of 64 bits. */
const BLOCK_ENTRIES = 64;

test("400,000 blocks are written, each at its place, and the table after them", async () => {
  const path = `${makeFolder()}/image.qcow2`;
  writeFileSync(path, sampleQcow2({ virtualSizeBytes: 65_536, dataClusters: [0], seed: 1, clusterBits: 9 }));
  const real = await makeNodeStorage().openFile(path, "read");
  const written: number[] = [];
  const file = {
    path,
    read: (target: Uint8Array, offset: number) => real.read(target, offset),
    stat: () => real.stat(),
    write: (_: Uint8Array, offset: number) => Promise.resolve(void written.push(offset)),
    truncate: () => Promise.resolve(),
  } as unknown as StorageFile;
  const header = await readOwnHeader(file, path);
  const blocks = Array.from({ length: BLOCKS }, (_, index) => index);
  const start = BLOCKS * BLOCK_ENTRIES;
  await writeRefcounts({ path, file, header } as Qcow2Link, {
    start,
    refcountOrder: 6,
    blocks,
    fillBlock: () => Promise.resolve(),
  });
  await real.close();
  // Those that count themselves, and the table, come on top.
  const ascending = written.slice(0, BLOCKS).every((offset, index) => offset === (start + index) * 512);
  expect(ascending).toBe(true);
  expect(written.length).toBeGreaterThan(BLOCKS + 1);
});

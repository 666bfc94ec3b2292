// Runs of data in a chunk are those that looking at each block by itself gives.

import { expect, test } from "vitest";
import { type BlockSizes, findDataRuns } from "../../../src/format/read/data-runs.ts";

/** Each block by itself, as qemu-img convert says of -S. */
function runsByBlock(chunk: Uint8Array, chunkStart: number, { blockBytes, clusterBytes }: BlockSizes) {
  const runs: { start: number; end: number }[] = [];
  for (let start = 0; start < chunk.length; ) {
    const end = Math.min(chunk.length, start + blockBytes - ((chunkStart + start) % blockBytes));
    if (chunk.subarray(start, end).some((byte) => byte !== 0)) {
      const last = runs.at(-1);
      const from = chunkStart + (last?.end ?? 0);
      const to = chunkStart + start;
      const isGap = to - from >= blockBytes && Math.ceil(from / clusterBytes) < Math.floor(to / clusterBytes);
      if (last !== undefined && !isGap) last.end = end;
      else runs.push({ start, end });
    }
    start = end;
  }
  return runs;
}

/** The same numbers each time. */
function makeRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

test.each([
  { blockBytes: 4096, clusterBytes: 1 },
  { blockBytes: 4096, clusterBytes: 65_536 },
  { blockBytes: 65_536, clusterBytes: 4096 },
  { blockBytes: 512, clusterBytes: 512 },
])("of blocks of $blockBytes in clusters of $clusterBytes", (sizes) => {
  const random = makeRandom(sizes.blockBytes + sizes.clusterBytes);
  for (let round = 0; round < 40; round += 1) {
    const chunk = new Uint8Array(Math.floor(random() * 128) * 1024 + (round % 3) * 100);
    const density = random() ** 4;
    for (let at = 0; at < chunk.length; at += 256) {
      if (random() < density) chunk[at + Math.floor(random() * 256)] = 1;
    }
    const start = Math.floor(random() * 64) * (round % 2 === 0 ? 65_536 : 512);
    expect(findDataRuns(chunk, start, sizes)).toEqual(runsByBlock(chunk, start, sizes));
  }
});

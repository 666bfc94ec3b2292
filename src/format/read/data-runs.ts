// Where in a chunk there is data, and where zeros that need not be stored.

import { nextUnit } from "../../units/index.ts";
import { isZero } from "./zero-blocks.ts";

export interface DataRun {
  /** In the chunk. */
  readonly start: number;
  readonly end: number;
}

export interface BlockSizes {
  /** Zeros are left out from this many bytes on. */
  readonly blockBytes: number;
  /** Zeros are left out only where they are a whole cluster of the target; 1 where it has none. */
  readonly clusterBytes: number;
}

const BLOCK_BYTES_MIN = 512;

/** Runs from first to last block with data in them, without gaps that are too small to be left out. */
export function findDataRuns(chunk: Uint8Array, chunkStart: number, options: BlockSizes): DataRun[] {
  const step = largestPowerOfTwo(options.blockBytes);
  const runs: { start: number; end: number }[] = [];
  // Blocks lie at multiples of their size in the target.
  let start = 0;
  while (start < chunk.length) {
    const end = Math.min(chunk.length, nextUnit(chunkStart + start, step) - chunkStart);
    if (!isZeroBlock(chunk, start, end)) {
      const last = runs.at(-1);
      if (last !== undefined && !isWorthAGap(chunkStart + last.end, chunkStart + start, options))
        last.end = end;
      else runs.push({ start, end });
    }
    start = end;
  }
  return runs;
}

/** Whether the zeros between are enough of them. */
function isWorthAGap(start: number, end: number, { blockBytes, clusterBytes }: BlockSizes): boolean {
  if (end - start < blockBytes) return false;
  return Math.floor(end / clusterBytes) >= Math.ceil(start / clusterBytes) + 1;
}

function isZeroBlock(chunk: Uint8Array, start: number, end: number): boolean {
  // Most blocks of data tell at their first byte, or their last.
  if (chunk[start] !== 0 || chunk[end - 1] !== 0) return false;
  return isZero(chunk.subarray(start, end));
}

function largestPowerOfTwo(bytes: number): number {
  return Math.max(BLOCK_BYTES_MIN, 2 ** Math.floor(Math.log2(bytes)));
}

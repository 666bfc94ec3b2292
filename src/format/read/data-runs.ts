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
  const blockBytes = largestPowerOfTwo(options.blockBytes);
  const runs: { start: number; end: number }[] = [];
  for (let end = 0; end < chunk.length; ) {
    const start = findBlock(chunk, chunkStart, end, blockBytes, false);
    if (start === chunk.length) break;
    end = findBlock(chunk, chunkStart, start, blockBytes, true);
    const last = runs.at(-1);
    if (last !== undefined && !isWorthAGap(chunkStart + last.end, chunkStart + start, options))
      last.end = end;
    else runs.push({ start, end });
  }
  return runs;
}

/**
 * Where the first block of zeros, or of data, begins from `from` on, where one does; the end of the chunk where there is none.
 * Blocks lie at multiples of their size in the target. Data is gone through without a call for each block.
 */
function findBlock(
  chunk: Uint8Array,
  chunkStart: number,
  from: number,
  blockBytes: number,
  isWanted: boolean,
): number {
  const { length } = chunk;
  let start = from;
  let end = nextUnit(chunkStart + from, blockBytes) - chunkStart;
  while (start < length) {
    if (end > length) end = length;
    // Most blocks of data tell at their first byte, or their last.
    const mayBeZero = chunk[start] === 0 && chunk[end - 1] === 0;
    if ((mayBeZero && isZero(chunk.subarray(start, end))) === isWanted) return start;
    start = end;
    end += blockBytes;
  }
  return length;
}

/** Whether the zeros between are enough of them. */
function isWorthAGap(start: number, end: number, { blockBytes, clusterBytes }: BlockSizes): boolean {
  if (end - start < blockBytes) return false;
  return Math.floor(end / clusterBytes) >= Math.ceil(start / clusterBytes) + 1;
}

function largestPowerOfTwo(bytes: number): number {
  return Math.max(BLOCK_BYTES_MIN, 2 ** Math.floor(Math.log2(bytes)));
}

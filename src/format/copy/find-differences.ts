// Where two images of one size hold different guest data.
//
// Invariants
// - Nothing is read whose bytes are known: zeros on both sides, or one place of one file on both.
// - Several reads are under way at once; memory is bounded by their number, and by what differs.

import type { ByteRange } from "../../storage/index.ts";
import { BufferPool } from "../read/buffer-pool.ts";
import { RangeCollector } from "../read/byte-ranges.ts";
import { findIdentities, isSamePlace } from "./compare.ts";
import { ExtentCursor, readsAsZeros } from "../read/extent-cursor.ts";
import type { Extent, Image } from "../image.ts";
import { Pipeline } from "../read/pipeline.ts";

export interface DifferenceOptions {
  /** Differences are told in whole units, from the start of the disk. Divides 2 MiB. */
  readonly unitBytes: number;
  /** In guest bytes. What is known and not read counts as done with what is read behind it. */
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

const CHUNK_BYTES = 2 * 1024 * 1024;
const READS_AT_ONCE = 2;

/** Ranges in order and apart. The images have the same virtual size. Errors are those of reading. */
export async function findDifferences(
  first: Image,
  second: Image,
  options: DifferenceOptions,
): Promise<ByteRange[]> {
  const { unitBytes, onProgress, signal } = options;
  const end = first.virtualSizeBytes;
  const found = new RangeCollector();
  const buffers = new BufferPool(CHUNK_BYTES);
  const isKnown = await knowsEqual(first, second);
  const cursors = [new ExtentCursor(first, end), new ExtentCursor(second, end)] as const;
  const pipeline = new Pipeline<never>(READS_AT_ONCE);
  try {
    for (let offset = 0; offset < end && !pipeline.isSettled; ) {
      signal?.throwIfAborted();
      const [one, other] = [await cursors[0].find(offset), await cursors[1].find(offset)];
      const extentEnd = Math.min(endOf(one), endOf(other));
      if (isKnown(one, other, offset)) {
        // What is left of a unit is read with the rest of it.
        const stop = extentEnd === end ? end : Math.floor(extentEnd / unitBytes) * unitBytes;
        if (stop > offset) {
          offset = stop;
          continue;
        }
      }
      const start = offset;
      const stop = Math.min(end, (Math.floor(offset / CHUNK_BYTES) + 1) * CHUNK_BYTES);
      const units: number[] = [];
      await pipeline.add(
        async () => {
          await buffers.lend((left) =>
            buffers.lend(async (right) => {
              const pieces = [left.subarray(0, stop - start), right.subarray(0, stop - start)] as const;
              await Promise.all([first.read(pieces[0], start), second.read(pieces[1], start)]);
              for (let at = 0; at < stop - start; at += unitBytes) {
                const [a, b] = pieces.map((piece) => piece.subarray(at, at + unitBytes));
                if (a && b && Buffer.compare(a, b) !== 0) units.push(start + at);
              }
            }),
          );
          return undefined;
        },
        () => {
          for (const unit of units) found.add(unit, Math.min(unit + unitBytes, stop));
          onProgress?.(stop, end);
        },
      );
      offset = stop;
    }
  } finally {
    await pipeline.finish();
  }
  onProgress?.(end, end);
  return found.ranges;
}

async function knowsEqual(
  first: Image,
  second: Image,
): Promise<(one: Extent, other: Extent, offset: number) => boolean> {
  const identities = await findIdentities([first, second]);
  return (one, other, offset) =>
    (readsAsZeros(one) && readsAsZeros(other)) || isSamePlace(identities, [one, other], offset);
}

function endOf({ start, lengthBytes }: Extent): number {
  return start + lengthBytes;
}

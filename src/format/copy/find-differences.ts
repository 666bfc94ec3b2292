// Where two images of one size hold different guest data.
//
// Invariants
// - Nothing is read whose bytes are known: zeros on both sides, or one place of one file on both.
// - Several reads are under way at once; memory is bounded by their number, and by what differs.

import {
  alignDown,
  earliest,
  endOf,
  type GuestOffset,
  guestOffset,
  type GuestRange,
  nextUnit,
  offsetBy,
} from "../../units/index.ts";
import { RangeCollector } from "../read/byte-ranges.ts";
import type { Image } from "../image.ts";
import { CHUNK_BYTES, ImagePair, READS_AT_ONCE } from "./image-pair.ts";
import { Pipeline } from "../read/pipeline.ts";

export interface DifferenceOptions {
  /** Differences are told in whole units, from the start of the disk. Divides 2 MiB. */
  readonly unitBytes: number;
  /** In guest bytes. What is known and not read counts as done with what is read after it. */
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Ranges in order and apart. The images have the same virtual size. Errors are those of reading. */
export async function findDifferences(
  first: Image,
  second: Image,
  options: DifferenceOptions,
): Promise<GuestRange[]> {
  const { unitBytes, onProgress, signal } = options;
  const end = guestOffset(first.virtualSizeBytes);
  const found = new RangeCollector();
  const pair = await ImagePair.of(first, second);
  const pipeline = new Pipeline<never>(READS_AT_ONCE);
  try {
    for (let offset = guestOffset(0); offset < end && !pipeline.isSettled; ) {
      signal?.throwIfAborted();
      const extents = [await pair.find(0, offset), await pair.find(1, offset)] as const;
      const extentEnd = earliest(...extents.map(endOf));
      if (pair.knowsEqual(extents, offset)) {
        // What is left of a unit is read with the rest of it.
        const stop = extentEnd === end ? end : alignDown(extentEnd, unitBytes);
        if (stop > offset) {
          offset = stop;
          continue;
        }
      }
      const start = offset;
      const stop = earliest(end, nextUnit(offset, CHUNK_BYTES));
      const units: GuestOffset[] = [];
      await pipeline.add(
        async () => {
          await pair.compareBytes(
            stop - start,
            (which, piece) => pair.images[which].read(piece, start),
            (pieces) => {
              for (let at = 0; at < stop - start; at += unitBytes) {
                const [a, b] = pieces.map((piece) => piece.subarray(at, at + unitBytes));
                if (a && b && Buffer.compare(a, b) !== 0) units.push(offsetBy(start, at));
              }
            },
          );
          return undefined;
        },
        () => {
          for (const unit of units) found.add(unit, earliest(offsetBy(unit, unitBytes), stop));
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

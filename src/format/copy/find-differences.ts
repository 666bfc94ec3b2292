// Where two images of one size hold different guest data.
//
// Invariants
// - Nothing is read whose bytes are known: zeros on both sides, or one place of one file on both.
// - Several reads are under way at once; memory is bounded by their number, and by what differs.

import { guestOffset } from "../../units/index.ts";
import type { ByteRange } from "../../storage/index.ts";
import { RangeCollector } from "../read/byte-ranges.ts";
import type { Image } from "../image.ts";
import { CHUNK_BYTES, endOf, ImagePair, READS_AT_ONCE } from "./image-pair.ts";
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
): Promise<ByteRange[]> {
  const { unitBytes, onProgress, signal } = options;
  const end = first.virtualSizeBytes;
  const found = new RangeCollector();
  const pair = await ImagePair.of(first, second);
  const pipeline = new Pipeline<never>(READS_AT_ONCE);
  try {
    for (let offset = 0; offset < end && !pipeline.isSettled; ) {
      signal?.throwIfAborted();
      const extents = [
        await pair.find(0, guestOffset(offset)),
        await pair.find(1, guestOffset(offset)),
      ] as const;
      const extentEnd = Math.min(...extents.map(endOf));
      if (pair.knowsEqual(extents, offset)) {
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
          await pair.compareBytes(
            stop - start,
            (which, piece) => pair.images[which].read(piece, guestOffset(start)),
            (pieces) => {
              for (let at = 0; at < stop - start; at += unitBytes) {
                const [a, b] = pieces.map((piece) => piece.subarray(at, at + unitBytes));
                if (a && b && Buffer.compare(a, b) !== 0) units.push(start + at);
              }
            },
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

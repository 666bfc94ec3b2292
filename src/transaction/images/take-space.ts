// Gives what a file is to have its blocks, before the log that counts on them is applied.

import type { Preallocated } from "../../format/index.ts";
import type { StorageFile } from "../../storage/index.ts";

const ZEROS_BYTES = 4 * 1024 * 1024;

/** Blocks for a range of the file, up to the size that it gets. What it has there stays, so it may be done again. */
export async function takeSpace(
  file: StorageFile,
  { start, lengthBytes, isFull }: Preallocated,
  sizeAfter: number,
): Promise<void> {
  const end = Math.min(start + lengthBytes, sizeAfter);
  if (end <= start) return;
  if (!isFull) {
    await file.allocate({ start, lengthBytes: end - start });
    return;
  }
  const zeros = new Uint8Array(Math.min(ZEROS_BYTES, end - start));
  for (let at = start; at < end; ) {
    const { sizeBytes } = await file.stat();
    const hole = at < sizeBytes ? await file.seekHole(at) : at;
    const data = hole < sizeBytes ? await file.seekData(hole) : undefined;
    const stop = Math.min(end, data ?? end, hole + zeros.length);
    if (hole < stop) await file.write(zeros.subarray(0, stop - hole), hole);
    at = Math.max(stop, hole);
  }
}

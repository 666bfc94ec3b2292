// Zeros for a range of a file, where the file system has no call of its own for it.

import type { ByteRange, StorageFile } from "../storage.ts";

const ZEROS_BYTES = 64 * 1024;

/** Up to the end of the file, which does not move. */
export async function writeZeros(file: StorageFile, range: ByteRange): Promise<void> {
  const end = Math.min(range.start + range.lengthBytes, (await file.stat()).sizeBytes);
  await writeZerosBetween(file, range.start, end);
}

/** Gives the holes of a range blocks; the file reaches to its end already. */
export async function fillHoles(file: StorageFile, range: ByteRange): Promise<void> {
  const end = range.start + range.lengthBytes;
  for (let offset = await file.seekHole(range.start); offset < end; offset = await file.seekHole(offset)) {
    const holeEnd = Math.min((await file.seekData(offset)) ?? end, end);
    await writeZerosBetween(file, offset, holeEnd);
    offset = holeEnd;
  }
}

async function writeZerosBetween(file: StorageFile, start: number, end: number): Promise<void> {
  const zeros = new Uint8Array(Math.max(0, Math.min(ZEROS_BYTES, end - start)));
  for (let offset = start; offset < end; offset += ZEROS_BYTES) {
    await file.write(zeros.subarray(0, Math.min(ZEROS_BYTES, end - offset)), offset);
  }
}

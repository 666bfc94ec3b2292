// Finding zeros, and differences, in bytes that were read. Whole blocks are compared by memcmp: it ends at
// the first byte that differs, so that data costs next to nothing and zeros run at the speed of memory.

import { alignUp, SECTOR_BYTES } from "../../units/index.ts";

/** Compared at once. */
const PIECE_BYTES = 1024 * 1024;
/** As many as most commands compare; all of a piece from the first long one on. Each MiB of memory has the collector run earlier. */
let zeros = new Uint8Array(16 * 1024);

function zerosOf(lengthBytes: number): Uint8Array {
  if (lengthBytes > zeros.length) zeros = new Uint8Array(PIECE_BYTES);
  return zeros.subarray(0, lengthBytes);
}

export function isZero(bytes: Uint8Array): boolean {
  for (let start = 0; start < bytes.length; start += PIECE_BYTES) {
    const piece = bytes.subarray(start, start + PIECE_BYTES);
    if (Buffer.compare(piece, zerosOf(piece.length)) !== 0) return false;
  }
  return true;
}

/** Offset of the first sector in which they differ, as qemu-img tells of differences; undefined where they are equal. Equally long. */
export function findDifference(first: Uint8Array, second: Uint8Array): number | undefined {
  if (Buffer.compare(first, second) === 0) return undefined;
  let start = 0;
  let length = first.length;
  while (length > SECTOR_BYTES) {
    const half = alignUp(length / 2, SECTOR_BYTES);
    const end = start + half;
    if (Buffer.compare(first.subarray(start, end), second.subarray(start, end)) === 0) {
      start = end;
      length -= half;
    } else {
      length = half;
    }
  }
  return start;
}

/** The same against zeros. */
export function findNonZero(bytes: Uint8Array): number | undefined {
  for (let start = 0; start < bytes.length; start += PIECE_BYTES) {
    const piece = bytes.subarray(start, start + PIECE_BYTES);
    const found = findDifference(piece, zerosOf(piece.length));
    if (found !== undefined) return start + found;
  }
  return undefined;
}

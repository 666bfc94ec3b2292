// Writes many small pieces of a file as few large ones.
//
// Invariants
// - Pieces come in any order, and never overlap. Those that lie close together, one behind the other, go out
//   in one write; the gap between them is written as zeros, which is what a new file has there. A gap is taken
//   along only behind everything that came before, so that nothing can lie in it.
// - Zeros at the end of a piece are not written, nor a piece of nothing else: what reads as zeros in a new file
//   is a hole. The caller settles the size of the file.

import type { StorageFile } from "../../../storage/index.ts";

/** A gap shorter than a block of the file system saves nothing as a hole, and costs a write. */
const SMALLEST_HOLE_BYTES = 4096;
const BUFFER_BYTES = 1024 * 1024;

export class SegmentWriter {
  readonly #file: StorageFile;
  #buffer = new Uint8Array(0);
  #start = 0;
  #lengthBytes = 0;
  /** Where the last of all pieces so far ends. */
  #furthest = 0;

  constructor(file: StorageFile) {
    this.#file = file;
  }

  async add(offset: number, piece: Uint8Array): Promise<void> {
    const bytes = trimZeros(piece);
    if (bytes.length === 0) return;
    const end = this.#start + this.#lengthBytes;
    const gap = offset - end;
    const isNear = gap === 0 || (gap > 0 && gap < SMALLEST_HOLE_BYTES && end === this.#furthest);
    const fits = this.#lengthBytes + gap + bytes.length <= this.#buffer.length;
    this.#furthest = Math.max(this.#furthest, offset + bytes.length);
    if (this.#lengthBytes === 0 || !isNear || !fits) {
      await this.finish();
      if (this.#buffer.length < bytes.length) {
        this.#buffer = new Uint8Array(Math.max(bytes.length, BUFFER_BYTES));
      }
      this.#start = offset;
      this.#buffer.set(bytes, 0);
      this.#lengthBytes = bytes.length;
      return;
    }
    this.#buffer.fill(0, this.#lengthBytes, this.#lengthBytes + gap);
    this.#buffer.set(bytes, this.#lengthBytes + gap);
    this.#lengthBytes += gap + bytes.length;
  }

  /** Writes what is still held back. */
  async finish(): Promise<void> {
    if (this.#lengthBytes === 0) return;
    const bytes = this.#buffer.subarray(0, this.#lengthBytes);
    this.#lengthBytes = 0;
    await this.#file.write(bytes, this.#start);
  }
}

function trimZeros(bytes: Uint8Array): Uint8Array {
  let end = bytes.length;
  while (end > 0 && bytes[end - 1] === 0) end -= 1;
  return bytes.subarray(0, end);
}

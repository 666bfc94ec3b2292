// Writes many small pieces of a file as few large ones.
//
// Invariants
// - Pieces come in any order, never overlap, and belong to the writer. Those that lie close together, one after
//   the other, go out in one write; the gap between them is written as zeros, which is what a new file has there.
//   A gap is taken along only after everything that came before, so that nothing can lie in it.
// - Zeros at the end of a piece are not written, nor a piece of nothing else: what reads as zeros in a new file
//   is a hole. The caller settles the size of the file.

import type { StorageFile } from "../../../storage/index.ts";
import type { Segment } from "./write-new-image.ts";

/** A gap shorter than a block of the file system saves nothing as a hole, and costs a write. */
const SMALLEST_HOLE_BYTES = 4096;
const JOINED_BYTES_MAX = 1024 * 1024;

export class SegmentWriter {
  readonly #file: StorageFile;
  /** Held back, one after the other. */
  #pieces: Segment[] = [];
  #end = 0;
  /** Where the last of all pieces so far ends. */
  #furthest = 0;

  constructor(file: StorageFile) {
    this.#file = file;
  }

  async add({ offset, bytes: piece }: Segment): Promise<void> {
    const bytes = trimZeros(piece);
    if (bytes.length === 0) return;
    const end = offset + bytes.length;
    const gap = offset - this.#end;
    const isNear = gap === 0 || (gap > 0 && gap < SMALLEST_HOLE_BYTES && this.#end === this.#furthest);
    if (!isNear || end - (this.#pieces[0]?.offset ?? offset) > JOINED_BYTES_MAX) await this.finish();
    this.#pieces.push({ offset, bytes });
    this.#end = end;
    this.#furthest = Math.max(this.#furthest, end);
  }

  /** Writes what is still held back. */
  async finish(): Promise<void> {
    const [first, ...further] = this.#pieces;
    if (first === undefined) return;
    this.#pieces = [];
    let { bytes } = first;
    if (further.length > 0) {
      bytes = new Uint8Array(this.#end - first.offset);
      for (const piece of [first, ...further]) bytes.set(piece.bytes, piece.offset - first.offset);
    }
    await this.#file.write(bytes, first.offset);
  }
}

function trimZeros(bytes: Uint8Array): Uint8Array {
  let end = bytes.length;
  while (end > 0 && bytes[end - 1] === 0) end -= 1;
  return bytes.subarray(0, end);
}

// Slices of the L1 and L2 tables of one image, as 32-bit halves, the least recently used forgotten first.
//
// Invariants
// - Memory is bounded by what the constructor was given, but never below one slice.
// - What lies past the end of the file reads as zeros: a last cluster may be cut short. That a table begins
//   inside the file is checked before it is asked for here.
// - For images that nobody writes to: a slice is read once, and kept as it was.

import type { StorageFile } from "../../../storage/index.ts";
import { toHalves } from "../codec/l2-table.ts";

/** Tables are read in slices of this, or whole where they are smaller: small enough for one quick read. */
export const SLICE_BYTES = 64 * 1024;

export class TableCache {
  readonly #file: StorageFile;
  readonly #capacityBytes: number;
  readonly #slices = new Map<number, Uint32Array>();
  #usedBytes = 0;

  constructor(file: StorageFile, capacityBytes: number) {
    this.#file = file;
    this.#capacityBytes = capacityBytes;
  }

  /** The slice at the offset, if it is here; without a promise, for scans. */
  find(offset: number): Uint32Array | undefined {
    const slice = this.#slices.get(offset);
    if (slice === undefined) return undefined;
    this.#slices.delete(offset);
    this.#slices.set(offset, slice);
    return slice;
  }

  async load(offset: number, lengthBytes: number): Promise<Uint32Array> {
    const known = this.find(offset);
    if (known !== undefined) return known;
    const halves = await this.loadInto(allocateSlice(lengthBytes), offset);
    this.#forget(offset);
    this.#slices.set(offset, halves);
    this.#usedBytes += lengthBytes;
    this.#shrink(offset);
    return halves;
  }

  /** Into memory of the caller's, and not kept: for scans of a whole table, which look at each slice once. */
  async loadInto(bytes: Uint8Array, offset: number): Promise<Uint32Array> {
    const count = await this.#file.read(bytes, offset);
    if (count < bytes.length) bytes.fill(0, count);
    return toHalves(bytes);
  }

  #forget(offset: number): void {
    const slice = this.#slices.get(offset);
    if (slice === undefined) return;
    this.#usedBytes -= slice.byteLength;
    this.#slices.delete(offset);
  }

  #shrink(keep: number): void {
    for (const offset of this.#slices.keys()) {
      if (this.#usedBytes <= this.#capacityBytes) return;
      if (offset !== keep) this.#forget(offset);
    }
  }
}

/** Not zeroed: loadInto reads or fills all of it. */
export function allocateSlice(lengthBytes: number): Uint8Array {
  return Buffer.allocUnsafeSlow(lengthBytes);
}

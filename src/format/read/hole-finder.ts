// Holes of a file, asked for from front to back.

import type { StorageFile } from "../../storage/index.ts";

export interface HoleOrData {
  readonly isHole: boolean;
  /** Where it ends; infinite for the hole that all past the end of the file is. */
  readonly end: number;
}

/** Asks the file system only where its last answer does not reach. */
export class HoleFinder {
  readonly #file: StorageFile;
  #start = 0;
  #last: HoleOrData = { isHole: false, end: 0 };

  constructor(file: StorageFile) {
    this.#file = file;
  }

  /** What the byte at the offset lies in. Where the file system tells no holes, all of the file is data. */
  async at(offset: number): Promise<HoleOrData> {
    if (offset >= this.#start && offset < this.#last.end) return this.#last;
    const data = (await this.#file.seekData(offset)) ?? Number.POSITIVE_INFINITY;
    this.#start = offset;
    this.#last =
      data > offset ? { isHole: true, end: data } : { isHole: false, end: await this.#file.seekHole(offset) };
    return this.#last;
  }
}

// A file as it would be with a change that is only tried out: a plan has to refuse what its statement could not do.
//
// Invariant: the file itself is only read. What is written stays in memory, page by page, and goes with this object.

import type { FileStat, StorageFile } from "../../../storage/index.ts";
import type { StagedBytes } from "./bitmap-space.ts";

const PAGE_BYTES = 4096;

export class ScratchFile implements StagedBytes {
  readonly #file: Pick<StorageFile, "read">;
  readonly #stat: FileStat;
  readonly #pages = new Map<number, Uint8Array>();
  #end: number;

  /** stat: of the file as it is now. */
  constructor(file: Pick<StorageFile, "read">, stat: FileStat) {
    this.#file = file;
    this.#stat = stat;
    this.#end = stat.sizeBytes;
  }

  /** As far as the file goes with what was written; StorageFile.read. */
  async read(target: Uint8Array, offset: number): Promise<number> {
    const count = Math.max(0, Math.min(target.length, this.#end - offset));
    const wanted = target.subarray(0, count);
    wanted.fill(0, Math.min(count, await this.#file.read(wanted, offset)));
    for (let at = offset; at < offset + count; ) {
      const index = Math.floor(at / PAGE_BYTES);
      const end = Math.min(offset + count, (index + 1) * PAGE_BYTES);
      const page = this.#pages.get(index);
      if (page !== undefined) {
        wanted.set(page.subarray(at - index * PAGE_BYTES, end - index * PAGE_BYTES), at - offset);
      }
      at = end;
    }
    return count;
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    const writeEnd = offset + source.length;
    for (let at = offset; at < writeEnd; ) {
      const index = Math.floor(at / PAGE_BYTES);
      const end = Math.min(writeEnd, (index + 1) * PAGE_BYTES);
      const page = this.#pages.get(index) ?? (await this.#readPage(index));
      page.set(source.subarray(at - offset, end - offset), at - index * PAGE_BYTES);
      this.#pages.set(index, page);
      at = end;
    }
    this.#end = Math.max(this.#end, writeEnd);
  }

  /** Nothing is written, so there is nothing to flush. */
  async flush(): Promise<void> {}

  async stat(): Promise<FileStat> {
    return { ...this.#stat, sizeBytes: this.#end };
  }

  /** To more than before. */
  async truncate(sizeBytes: number): Promise<void> {
    this.#end = Math.max(this.#end, sizeBytes);
  }

  /** As the file has it; zeros behind its end. */
  async #readPage(index: number): Promise<Uint8Array> {
    const page = new Uint8Array(PAGE_BYTES);
    page.fill(0, await this.#file.read(page, index * PAGE_BYTES));
    return page;
  }
}

// A change of an image file as plain data, and the file as it would be with that change.
//
// Invariants
// - The file is only read. What is written to a PatchedFile stays in memory, page by page.
// - A patch has only what differs. Its writes do not overlap, so that they may be made in any order, and again.
// - What the file grows by reads as zeros, so that zeros behind its end are not in a patch.

import type { StorageFile } from "../../../storage/index.ts";

export interface PatchWrite {
  readonly offset: number;
  /** What stands there now: shorter than after where the file ends inside, empty where it ends before. */
  readonly before: Uint8Array;
  readonly after: Uint8Array;
}

/** Together the writes lead from one sound state of a file to the next; some of them alone do not. */
export interface ImagePatch {
  /** By ascending offset, without overlaps. */
  readonly writes: readonly PatchWrite[];
  /** Of the file afterwards: as now, or more. */
  readonly sizeBytes: number;
}

const PAGE_BYTES = 4096;
/** Differences that are as near as this go into one write: its offset takes as much. */
const GAP_BYTES = 16;

export class PatchedFile {
  readonly #file: Pick<StorageFile, "read">;
  readonly #sizeBytes: number;
  readonly #pages = new Map<number, Uint8Array>();
  #end: number;

  /** sizeBytes: of the file as it is now. */
  constructor(file: Pick<StorageFile, "read">, sizeBytes: number) {
    this.#file = file;
    this.#sizeBytes = sizeBytes;
    this.#end = sizeBytes;
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

  /** Where the file ends with what was written. */
  get endBytes(): number {
    return this.#end;
  }

  /** What was written and differs. sizeBytes: the file's size afterwards, endBytes at least. */
  async makePatch(sizeBytes: number): Promise<ImagePatch> {
    const ranges = await this.#findDifferences();
    const writes: PatchWrite[] = [];
    for (const { start, end } of ranges) {
      const before = new Uint8Array(Math.max(0, Math.min(end, this.#sizeBytes) - start));
      const after = new Uint8Array(end - start);
      await this.#file.read(before, start);
      await this.read(after, start);
      writes.push({ offset: start, before, after });
    }
    return { writes, sizeBytes };
  }

  async #findDifferences(): Promise<readonly { start: number; end: number }[]> {
    const ranges: { start: number; end: number }[] = [];
    for (const index of [...this.#pages.keys()].sort((one, other) => one - other)) {
      const after = this.#pages.get(index) ?? new Uint8Array(0);
      const before = await this.#readPage(index);
      if (Buffer.compare(before, after) === 0) continue;
      for (let position = 0; position < PAGE_BYTES; position += 1) {
        if (before[position] === after[position]) continue;
        const at = index * PAGE_BYTES + position;
        const last = ranges.at(-1);
        if (last !== undefined && at - last.end <= GAP_BYTES) last.end = at + 1;
        else ranges.push({ start: at, end: at + 1 });
      }
    }
    return ranges;
  }

  /** As the file has it; zeros behind its end. */
  async #readPage(index: number): Promise<Uint8Array> {
    const page = new Uint8Array(PAGE_BYTES);
    page.fill(0, await this.#file.read(page, index * PAGE_BYTES));
    return page;
  }
}

// What a redo log knows of an image, in memory: for each page that was written where the log has it, and which
// ranges were punched out; and where it has what a page replaces. 16 bytes for a page, 24 for a range; the pages
// themselves stay in the log.
//
// Invariants
// - A page that was written is found before a range that was punched out around it: the later one wins, since punching
//   takes the pages of its range out of the table.
// - Pages are counted from the start of the image. Ranges do not overlap.

import { PAGE_DIGEST_BYTES } from "./sectors.ts";
import { SortedTable } from "./sorted-table.ts";

/** Where a page of the image is to be read. */
export type Place =
  | { readonly kind: "page"; readonly position: number }
  | { readonly kind: "hole"; readonly end: number; readonly digestsAt: number }
  | { readonly kind: "base" };

export interface LoggedPage {
  readonly page: number;
  /** Of its record in the log. */
  readonly position: number;
  /** A bit for each sector that is to be written. */
  readonly changed: number;
}

export interface LoggedHole {
  readonly first: number;
  /** After its last page. */
  readonly end: number;
  /** Where the log has the digests of its pages; 0 where it has none. */
  readonly digestsAt: number;
}

/** A position and the bits of changed sectors in one double: 53 bits, of which these take the lowest 8. */
const MASKS = 256;
export const POSITION_MAX = 2 ** 45;

const FROM_BASE: Place = { kind: "base" };

export class PageMap {
  readonly #pages = new SortedTable(1);
  readonly #holes = new SortedTable(2);
  readonly #replaced = new SortedTable(1);

  get pageCount(): number {
    return this.#pages.size;
  }

  get memoryBytes(): number {
    return this.#pages.memoryBytes + this.#holes.memoryBytes + this.#replaced.memoryBytes;
  }

  find(page: number): Place {
    const value = this.#pages.get(page);
    if (value !== undefined) return { kind: "page", position: Math.floor(value / MASKS) };
    const hole = this.#holes.atOrBefore(page);
    if (hole === undefined || hole.value <= page) return FROM_BASE;
    const digestsAt = hole.second === 0 ? 0 : hole.second + (page - hole.key) * PAGE_DIGEST_BYTES;
    return { kind: "hole", end: this.#nextPage(page, hole.value), digestsAt };
  }

  /** The first page from this one on that the base is not to be asked for; `end` where there is none before. */
  nextLogged(page: number, end: number): number {
    const hole = this.#holes.atOrBefore(page);
    if (hole !== undefined && hole.value > page) return page;
    return Math.min(this.#nextPage(page, end), this.#holes.atOrAfter(page)?.key ?? end);
  }

  setPage({ page, position, changed }: LoggedPage): void {
    this.#pages.set(page, position * MASKS + changed);
  }

  /** digestsAt: see LoggedHole. */
  setHole(first: number, end: number, digestsAt: number): void {
    this.#pages.removeRange(first, end);
    const before = this.#holes.atOrBefore(first);
    this.#keepRest(before, first, end);
    this.#keepRest(this.#holes.atOrBefore(end - 1), first, end);
    this.#holes.removeRange(first, end);
    if (digestsAt === 0 && before?.second === 0 && before.key < first && before.value >= first) {
      this.#holes.set(before.key, end);
    } else this.#holes.set(first, end, digestsAt);
  }

  /** Where the log has the page as it is in the image. */
  findReplaced(page: number): number | undefined {
    return this.#replaced.get(page);
  }

  setReplaced(page: number, position: number): void {
    this.#replaced.set(page, position);
  }

  /** What is to be written into an image that ends before the page `end`, by ascending pages. */
  *pages(end: number): Generator<LoggedPage> {
    for (const { key, value } of this.#pages.from(0)) {
      if (key >= end) return;
      yield { page: key, position: Math.floor(value / MASKS), changed: value % MASKS };
    }
  }

  /** What is to be punched out of one: the ranges without the pages that were written after. */
  *holes(end: number): Generator<LoggedHole> {
    for (const { key, value, second } of this.#holes.from(0)) {
      const stop = Math.min(value, end);
      for (let first = key; first < stop; ) {
        const next = this.#nextPage(first, stop);
        const digestsAt = second === 0 ? 0 : second + (first - key) * PAGE_DIGEST_BYTES;
        if (next > first) yield { first, end: next, digestsAt };
        first = next + 1;
      }
    }
  }

  #nextPage(page: number, end: number): number {
    return Math.min(this.#pages.atOrAfter(page)?.key ?? end, end);
  }

  /** A range that a new one overlaps keeps what lies before and after it. */
  #keepRest(
    hole: { key: number; value: number; second: number } | undefined,
    first: number,
    end: number,
  ): void {
    if (hole === undefined || hole.value <= first) return;
    const { key, value, second } = hole;
    if (key < first) this.#holes.set(key, first, second);
    if (value <= end) return;
    this.#holes.set(end, value, second === 0 ? 0 : second + (end - key) * PAGE_DIGEST_BYTES);
  }
}

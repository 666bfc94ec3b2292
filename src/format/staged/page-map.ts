// What a redo log knows of an image, in memory: for each page that was written where the log has it, and which
// ranges were punched out; and where it has what a page replaces. 16 bytes for a page, 24 for a range; the pages
// themselves stay in the log.
//
// Invariants
// - A page that was written is found before a range that was punched out around it: the later one wins, since punching
//   takes the pages of its range out of the table.
// - Pages are counted from the start of the image. Ranges do not overlap.

import { earliest, offsetBy } from "../../units/index.ts";
import { type LogPosition, PAGE_DIGEST_BYTES, type PageIndex } from "./sectors.ts";
import { SortedTable, type TableEntry } from "./sorted-table.ts";

/** Where a page of the image is to be read. */
export type Place =
  | { readonly kind: "page"; readonly position: LogPosition }
  | { readonly kind: "hole"; readonly end: PageIndex; readonly digestsAt: LogPosition }
  | { readonly kind: "base" };

export interface LoggedPage {
  readonly page: PageIndex;
  /** Of its record in the log. */
  readonly position: LogPosition;
  /** A bit for each sector that is to be written. */
  readonly changed: number;
}

export interface LoggedHole {
  readonly first: PageIndex;
  /** After its last page. */
  readonly end: PageIndex;
  /** Where the log has the digests of its pages; 0 where it has none. */
  readonly digestsAt: LogPosition;
}

/** A position and the bits of changed sectors in one double: 53 bits, of which these take the lowest 8. */
const MASKS = 256;
export const POSITION_MAX = 2 ** 45;

const FROM_BASE: Place = { kind: "base" };

export class PageMap {
  readonly #pages = new SortedTable<PageIndex>(1);
  readonly #holes = new SortedTable<PageIndex>(2);
  readonly #replaced = new SortedTable<PageIndex>(1);

  get pageCount(): number {
    return this.#pages.size;
  }

  get memoryBytes(): number {
    return this.#pages.memoryBytes + this.#holes.memoryBytes + this.#replaced.memoryBytes;
  }

  find(page: PageIndex): Place {
    const value = this.#pages.get(page);
    if (value !== undefined) return { kind: "page", position: positionIn(value) };
    const hole = this.#holes.atOrBefore(page);
    if (hole === undefined || hole.value <= page) return FROM_BASE;
    const [end, digestsAt] = [endOfHole(hole), digestsFrom(hole, page)];
    return { kind: "hole", end: this.#nextPage(page, end), digestsAt };
  }

  /** The first page from this one on that the base is not to be asked for; `end` where there is none before. */
  nextLogged(page: PageIndex, end: PageIndex): PageIndex {
    const hole = this.#holes.atOrBefore(page);
    if (hole !== undefined && hole.value > page) return page;
    return earliest(this.#nextPage(page, end), this.#holes.atOrAfter(page)?.key ?? end);
  }

  setPage({ page, position, changed }: LoggedPage): void {
    this.#pages.set(page, position * MASKS + changed);
  }

  /** digestsAt: see LoggedHole. */
  setHole(first: PageIndex, end: PageIndex, digestsAt: LogPosition | 0): void {
    this.#pages.removeRange(first, end);
    const before = this.#holes.atOrBefore(first);
    this.#keepRest(before, first, end);
    this.#keepRest(this.#holes.atOrBefore(offsetBy(end, -1)), first, end);
    this.#holes.removeRange(first, end);
    if (digestsAt === 0 && before?.second === 0 && before.key < first && before.value >= first) {
      this.#holes.set(before.key, end);
    } else this.#holes.set(first, end, digestsAt);
  }

  /** Where the log has the page as it is in the image. */
  findReplaced(page: PageIndex): LogPosition | undefined {
    return this.#replaced.get(page) as LogPosition | undefined;
  }

  setReplaced(page: PageIndex, position: LogPosition): void {
    this.#replaced.set(page, position);
  }

  /** What is to be written into an image that ends before the page `end`, by ascending pages. */
  *pages(end: PageIndex): Generator<LoggedPage> {
    for (const { key, value } of this.#pages) {
      if (key >= end) return;
      yield { page: key, position: positionIn(value), changed: value % MASKS };
    }
  }

  /** What is to be punched out of one: the ranges without the pages that were written after. */
  *holes(end: PageIndex): Generator<LoggedHole> {
    for (const hole of this.#holes) {
      const stop = earliest(endOfHole(hole), end);
      for (let first = hole.key; first < stop; ) {
        const next = this.#nextPage(first, stop);
        if (next > first) yield { first, end: next, digestsAt: digestsFrom(hole, first) };
        first = offsetBy(next, 1);
      }
    }
  }

  #nextPage(page: PageIndex, end: PageIndex): PageIndex {
    return earliest(this.#pages.atOrAfter(page)?.key ?? end, end);
  }

  /** A range that a new one overlaps keeps what lies before and after it. */
  #keepRest(hole: TableEntry<PageIndex> | undefined, first: PageIndex, end: PageIndex): void {
    if (hole === undefined || hole.value <= first) return;
    const { key, value, second } = hole;
    if (key < first) this.#holes.set(key, first, second);
    if (value > end) this.#holes.set(end, value, digestsFrom(hole, end));
  }
}

/** Of a page's entry. */
function positionIn(value: number): LogPosition {
  return Math.floor(value / MASKS) as LogPosition;
}

/** The page after a range that was punched out, of which the table has the number as a value. */
function endOfHole({ key, value }: TableEntry<PageIndex>): PageIndex {
  return offsetBy(key, value - key);
}

/** Where the digests of such a range are, from one of its pages on. */
function digestsFrom({ key, second }: TableEntry<PageIndex>, page: PageIndex): LogPosition {
  return (second === 0 ? 0 : second + (page - key) * PAGE_DIGEST_BYTES) as LogPosition;
}

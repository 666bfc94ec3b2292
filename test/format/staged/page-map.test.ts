// The index of a log against a plain model of it, and what it takes in memory.

import { describe, expect, test } from "vitest";
import { PageMap } from "../../../src/format/staged/page-map.ts";
import type { LogPosition, PageIndex } from "../../../src/format/staged/sectors.ts";
import { SortedTable } from "../../../src/format/staged/sorted-table.ts";
import { seededRandom } from "../../helpers/random.ts";

const [page, position] = [(number: number) => number as PageIndex, (bytes: number) => bytes as LogPosition];
const PAGES = page(300);
const PAGE_DIGEST_BYTES = 128;

/** For each page: where its record is, or where the digests of its hole are. */
type Model = ({ page: number; changed: number } | { hole: number } | undefined)[];

function placesOf(map: PageMap): Model {
  const model: Model = Array.from({ length: PAGES });
  for (let index = 0; index < PAGES; index += 1) {
    const place = map.find(page(index));
    if (place.kind === "hole") model[index] = { hole: place.digestsAt };
  }
  for (const one of map.pages(PAGES)) model[one.page] = { page: one.position, changed: one.changed };
  return model;
}

function holesIn(model: Model): Model {
  return model.map((place) => (place && "hole" in place ? place : undefined));
}

describe("the index of a log", () => {
  test.each(Array.from({ length: 20 }, (_, seed) => seed))("says what came last: seed %i", (seed) => {
    const random = seededRandom(seed);
    const map = new PageMap();
    const model: Model = Array.from({ length: PAGES });
    for (let step = 1; step <= 60; step += 1) {
      const first = random.below(PAGES);
      const end = Math.min(PAGES, first + 1 + random.below(40));
      if (random.below(2) === 0) {
        const changed = random.below(256);
        for (let at = first; at < Math.min(end, first + 6); at += 1) {
          map.setPage({ page: page(at), position: position(step * 1000 + at), changed });
          model[at] = { page: step * 1000 + at, changed };
        }
      } else {
        const digestsAt = random.below(3) === 0 ? 0 : step * 1_000_000;
        map.setHole(page(first), page(end), position(digestsAt));
        for (let at = first; at < end; at += 1) {
          model[at] = { hole: digestsAt === 0 ? 0 : digestsAt + (at - first) * PAGE_DIGEST_BYTES };
        }
      }
      expect(placesOf(map)).toEqual(model);
      const holes: Model = Array.from({ length: PAGES });
      for (const hole of map.holes(PAGES)) {
        for (let index: number = hole.first; index < hole.end; index += 1) {
          if (holes[index] !== undefined) throw new Error(`page ${index} comes twice`);
          const at = hole.digestsAt + (index - hole.first) * PAGE_DIGEST_BYTES;
          holes[index] = { hole: hole.digestsAt === 0 ? 0 : at };
        }
      }
      expect(holes).toEqual(holesIn(model));
      const from = random.below(PAGES);
      const next = model.findIndex((place, index) => index >= from && place !== undefined);
      expect(map.nextLogged(page(from), PAGES)).toBe(next === -1 ? PAGES : next);
    }
    expect(map.pageCount).toBe(model.filter((place) => place && "page" in place).length);
  });

  const MILLION = 1_000_000;

  test("takes 16 bytes for each page that is written in order, wherever in the image", () => {
    const map = new PageMap();
    for (let index = 0; index < MILLION; index += 1) {
      map.setPage({ page: page(index * 1_000_003), position: position(4240 * index), changed: 255 });
    }
    expect(map.memoryBytes / MILLION).toBeLessThan(16.1);
    expect(map.find(page(999_999 * 1_000_003))).toEqual({ kind: "page", position: 4240 * 999_999 });
  });

  test("takes half as much again for pages in any order", () => {
    const map = new PageMap();
    const random = seededRandom(5);
    for (let index = 0; index < MILLION / 5; index += 1) {
      map.setPage({ page: page(random.below(2 ** 31)), position: position(4240 * index), changed: 1 });
    }
    expect(map.memoryBytes / map.pageCount).toBeLessThan(25);
  });

  test("takes one entry for a hole of any size, and one for holes side by side", () => {
    const map = new PageMap();
    for (let first = 0; first < 1000; first += 1) map.setHole(page(first * 1e6), page((first + 1) * 1e6), 0);
    expect([...map.holes(page(Number.MAX_SAFE_INTEGER))]).toEqual([{ first: 0, end: 1e9, digestsAt: 0 }]);
  });
});

test("a sorted table finds what a map of the same entries has", () => {
  const random = seededRandom(1);
  const table = new SortedTable(1);
  const model = new Map<number, number>();
  for (let step = 0; step < 20_000; step += 1) {
    const key = random.below(5000);
    if (random.below(4) > 0) {
      table.set(key, step);
      model.set(key, step);
    } else {
      const end = key + random.below(30);
      table.removeRange(key, end);
      for (let gone = key; gone < end; gone += 1) model.delete(gone);
    }
  }
  const keys = [...model.keys()].sort((one, other) => one - other);
  expect([...table].map(({ key, value }) => [key, value])).toEqual(keys.map((key) => [key, model.get(key)]));
  expect(table.size).toBe(model.size);
  for (let key = 0; key < 5000; key += 7) {
    expect(table.get(key)).toBe(model.get(key));
    expect(table.atOrBefore(key)?.key).toBe(keys.filter((each) => each <= key).at(-1));
    expect(table.atOrAfter(key)?.key).toBe(keys.find((each) => each >= key));
  }
});

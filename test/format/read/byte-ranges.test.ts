// Sets of guest bytes: what is collected, and what is united in whole units.

import { guestOffset, guestRange } from "../../../src/units/index.ts";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { RangeCollector, uniteRanges } from "../../../src/format/read/byte-ranges.ts";

const END = 200;
const lists = fc.array(
  fc
    .array(fc.record({ start: fc.nat(END - 1), lengthBytes: fc.nat(30) }))
    .map((ranges) =>
      ranges.map(({ start, lengthBytes }) => guestRange(start, Math.min(lengthBytes, END - start))),
    ),
  { maxLength: 4 },
);

function bytesOf(ranges: readonly { start: number; lengthBytes: number }[]): Set<number> {
  return new Set(
    ranges.flatMap(({ start, lengthBytes }) => Array.from({ length: lengthBytes }, (_, at) => start + at)),
  );
}

function areApart(ranges: readonly { start: number; lengthBytes: number }[]): boolean {
  return ranges.every(({ start }, index) => {
    const before = ranges[index - 1];
    return before === undefined || before.start + before.lengthBytes < start;
  });
}

describe("a collector", () => {
  test("joins what touches or overlaps, and leaves out what is empty", () => {
    const found = new RangeCollector();
    for (const [start, end] of [
      [3, 3],
      [4, 8],
      [8, 10],
      [9, 9],
      [9, 12],
      [5, 7],
      [13, 14],
    ] as const) {
      found.add(guestOffset(start), guestOffset(end));
    }
    expect(found.ranges).toEqual([
      { start: 4, lengthBytes: 8 },
      { start: 13, lengthBytes: 1 },
    ]);
  });
});

describe("united ranges", () => {
  test("are in order, apart, whole units, and hold every byte and no unit more", () => {
    fc.assert(
      fc.property(lists, fc.constantFrom(1, 3, 16, 64, 512), (some, unit) => {
        const united = uniteRanges(some, unit, END);
        expect(areApart(united)).toBe(true);
        for (const { start, lengthBytes } of united) {
          expect(start % unit).toBe(0);
          const end = start + lengthBytes;
          expect(end === END || end % unit === 0).toBe(true);
        }
        const wanted = bytesOf(some.flat());
        const units = new Set([...wanted].map((byte) => Math.floor(byte / unit)));
        expect(new Set([...bytesOf(united)].map((byte) => Math.floor(byte / unit)))).toEqual(units);
        expect([...bytesOf(united)].every((byte) => byte < END)).toBe(true);
      }),
    );
  });
});

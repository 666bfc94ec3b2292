import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  fillRefcounts,
  findFreeEntry,
  findUsedEntry,
  maxRefcount,
  readRefcount,
  readRefcounts,
  writeRefcount,
} from "../../../../src/format/qcow2/codec/refcount-block.ts";

const ORDERS = [0, 1, 2, 3, 4, 5, 6];
const BLOCK_BYTES = 512;

function entriesOf(order: number): number {
  return (BLOCK_BYTES * 8) / 2 ** order;
}

describe("refcount block", () => {
  test.each([
    [0, 9, 1, [0, 0b10]],
    [1, 3, 2, [0b10000000]],
    [2, 1, 15, [0xf0]],
    [3, 2, 200, [0, 0, 200]],
    [4, 1, 0x1234, [0, 0, 0x12, 0x34]],
    [5, 0, 0x12345678, [0x12, 0x34, 0x56, 0x78]],
    [6, 0, 0x1234_5678_9abc, [0, 0, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]],
  ])("of order %i holds entry %i as the specification lays it", (order, index, count, bytes) => {
    const block = new Uint8Array(BLOCK_BYTES);
    writeRefcount(block, index, order, count);
    expect([...block.subarray(0, bytes.length)]).toEqual(bytes);
    expect(block.subarray(bytes.length).every((byte) => byte === 0)).toBe(true);
    expect(readRefcount(block, index, order)).toBe(count);
  });

  test.each(ORDERS)("of order %i gives back what was written, and keeps the neighbours", (order) => {
    const entry = fc.record({
      index: fc.nat(entriesOf(order) - 1),
      count: fc.nat().map((count) => count % (Math.min(maxRefcount(order), 2 ** 31) + 1)),
    });
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 40 }), (entries) => {
        const block = new Uint8Array(BLOCK_BYTES);
        const model: number[] = Array.from({ length: entriesOf(order) }, () => 0);
        for (const { index, count } of entries) {
          writeRefcount(block, index, order, count);
          model[index] = count;
        }
        const scanned = new Uint32Array(model.length);
        readRefcounts(block, order, scanned, model.length);
        expect([...scanned]).toEqual(model);
        expect(model.map((_, index) => readRefcount(block, index, order))).toEqual(model);
      }),
      { numRuns: 50 },
    );
  });

  test.each(ORDERS)("of order %i is searched and filled as entry by entry", (order) => {
    const entries = entriesOf(order);
    fc.assert(
      fc.property(fc.nat(entries), fc.nat(entries), fc.nat(entries), (one, other, from) => {
        const [first, end] = [Math.min(one, other), Math.max(one, other)];
        const block = new Uint8Array(BLOCK_BYTES);
        fillRefcounts(block, first, end - first, order, 1);
        const used = Array.from({ length: entries }, (_, index) => readRefcount(block, index, order));
        expect(used).toEqual(used.map((_, index) => (index >= first && index < end ? 1 : 0)));
        const expected = (wanted: number) => {
          const found = used.indexOf(wanted, from);
          return found === -1 ? entries : found;
        };
        expect(findFreeEntry(block, from, entries, order)).toBe(expected(0));
        expect(findUsedEntry(block, from, entries, order)).toBe(expected(1));
      }),
      { numRuns: 50 },
    );
  });

  test.each(ORDERS.filter((order) => order >= 3))(
    "of order %i one is found in a block of 64 KiB",
    (order) => {
      const entries = (65_536 * 8) >> order;
      const block = new Uint8Array(65_536);
      for (const used of [0, 1, entries / 16 - 1, entries / 16, entries / 2 + 3, entries - 1]) {
        writeRefcount(block, used, order, 1);
        for (const from of [0, 1, used, used + 1]) {
          expect(findUsedEntry(block, from, entries, order)).toBe(from <= used ? used : entries);
        }
        expect(findUsedEntry(block, 0, used, order)).toBe(used);
        writeRefcount(block, used, order, 0);
      }
    },
  );

  test("counts beyond what a double or 32 bits hold stay large, and never become 0", () => {
    const block = new Uint8Array(8).fill(0xff);
    expect(readRefcount(block, 0, 6)).toBeGreaterThan(2 ** 53);
    block.set([0, 0, 0, 1, 0, 0, 0, 0]);
    const target = new Uint32Array(1);
    readRefcounts(block, 6, target, 1);
    expect(target[0]).toBe(2 ** 32 - 1);
    expect(findFreeEntry(block, 0, 1, 6)).toBe(1);
  });

  test("refuses a count that the width can't hold", () => {
    expect(() => writeRefcount(new Uint8Array(8), 0, 2, 16)).toThrow(RangeError);
    expect(() => writeRefcount(new Uint8Array(8), 0, 4, -1)).toThrow(RangeError);
  });
});

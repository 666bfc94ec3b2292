import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type BitmapEntry,
  decodeBitmapDirectory,
  decodeBitmapTableEntry,
  encodeBitmapDirectory,
  encodeBitmapTableEntryAt,
  measureBitmap,
} from "../../../../src/format/qcow2/codec/bitmap.ts";
import { hostOffset } from "../../../../src/units/index.ts";
import { errorOf } from "../../../helpers/expect-error.ts";

const LAYOUT = { clusterBits: 16, size: 1024 * 1024 };

const ENTRY: BitmapEntry = {
  bitmapTableOffset: hostOffset(0x70000),
  bitmapTableSize: 1,
  isInUse: false,
  isAuto: true,
  isExtraDataCompatible: false,
  granularityBits: 16,
  extraData: new Uint8Array(0),
  name: "backup",
};

describe("a bitmap directory", () => {
  test("has its fields where the specification has them", () => {
    const bytes = encodeBitmapDirectory([{ ...ENTRY, isInUse: true }]);
    const view = new DataView(bytes.buffer);
    expect(bytes.length).toBe(32);
    expect([view.getBigUint64(0), view.getUint32(8), view.getUint32(12)]).toEqual([0x70000n, 1, 3]);
    expect([view.getUint8(16), view.getUint8(17), view.getUint16(18), view.getUint32(20)]).toEqual([
      1, 16, 6, 0,
    ]);
    expect(Buffer.from(bytes.subarray(24)).toString()).toBe("backup\0\0");
  });

  test("decodes what it encodes, names and extra data of any length", () => {
    const entries = fc.uniqueArray(
      fc.record({
        bitmapTableOffset: fc.integer({ min: 1, max: 2 ** 30 }).map((index) => hostOffset(index * 65_536)),
        bitmapTableSize: fc.integer({ min: 1, max: 8192 }),
        isInUse: fc.boolean(),
        isAuto: fc.boolean(),
        isExtraDataCompatible: fc.boolean(),
        granularityBits: fc.integer({ min: 9, max: 31 }),
        extraData: fc.uint8Array({ maxLength: 20 }),
        name: fc
          .string({ minLength: 1, maxLength: 40, unit: "grapheme" })
          .filter((name) => !name.includes("\0")),
      }),
      { selector: (entry) => entry.name, maxLength: 6 },
    );
    fc.assert(
      fc.property(entries, (list) => {
        const bytes = encodeBitmapDirectory(list);
        expect(decodeBitmapDirectory(bytes, list.length, LAYOUT)).toEqual(list);
      }),
      { numRuns: 200, seed: 11 },
    );
  });

  const edits: readonly (readonly [string, (view: DataView) => void])[] = [
    ["a granularity that is too small", (view) => view.setUint8(17, 8)],
    ["a granularity that is too large", (view) => view.setUint8(17, 32)],
    ["a type that is not known", (view) => view.setUint8(16, 2)],
    ["a flag that is not known", (view) => view.setUint32(12, 8)],
    ["no name", (view) => view.setUint16(18, 0)],
    ["a name that does not end in it", (view) => view.setUint16(18, 1023)],
    ["extra data that does not end in it", (view) => view.setUint32(20, 0xfffffff0)],
    ["no table", (view) => view.setUint32(8, 0)],
    ["a table that is too large", (view) => view.setUint32(8, 8193)],
    ["a table at the header", (view) => view.setBigUint64(0, 0n)],
    ["a table that is not aligned", (view) => view.setBigUint64(0, 0x70200n)],
    ["a table past the end of any file", (view) => view.setBigUint64(0, 1n << 60n)],
    ["a NUL in the name", (view) => view.setUint8(25, 0)],
  ];
  test.each(edits)("with %s is refused", (_, edit) => {
    const bytes = encodeBitmapDirectory([ENTRY]);
    edit(new DataView(bytes.buffer));
    expect(errorOf(() => decodeBitmapDirectory(bytes, 1, LAYOUT)).code).toBe("E_CORRUPT");
  });

  test("with another number of entries, a name twice, or one cut short is refused", () => {
    const two = encodeBitmapDirectory([ENTRY, { ...ENTRY, name: "other" }]);
    const same = encodeBitmapDirectory([ENTRY, ENTRY]);
    expect(decodeBitmapDirectory(two, 2, LAYOUT)).toHaveLength(2);
    for (const [bytes, count] of [
      [two, 1],
      [two, 3],
      [same, 2],
      [two.subarray(0, 40), 2],
    ] as const) {
      expect(errorOf(() => decodeBitmapDirectory(bytes, count, LAYOUT)).code).toBe("E_CORRUPT");
    }
  });

  test("may hold a bitmap that is too short only while it is in use", () => {
    const layout = { clusterBits: 9, size: 512 * 512 * 8 + 1 };
    const short = { ...ENTRY, granularityBits: 9, bitmapTableOffset: hostOffset(512) };
    expect(measureBitmap(layout.size, 9)).toBe(513);
    expect(errorOf(() => decodeBitmapDirectory(encodeBitmapDirectory([short]), 1, layout)).code).toBe(
      "E_CORRUPT",
    );
    const inUse = encodeBitmapDirectory([{ ...short, isInUse: true }]);
    expect(decodeBitmapDirectory(inUse, 1, layout)).toHaveLength(1);
  });
});

describe("a bitmap table entry", () => {
  test.each([
    [0n, { kind: "zeros" }],
    [1n, { kind: "ones" }],
    [0x0000_0001_0007_0000n, { kind: "data", hostOffset: 0x1_0007_0000 }],
  ] as const)("0x%s decodes, and encodes to the same word", (word, meaning) => {
    const entry = decodeBitmapTableEntry(Number(word >> 32n), Number(word & 0xffffffffn), 16);
    expect(entry).toEqual(meaning);
    const view = new DataView(new ArrayBuffer(16));
    encodeBitmapTableEntryAt(view, 1, entry);
    expect(view.getBigUint64(8)).toBe(word);
  });

  test.each([0x0100_0000_0007_0000n, 0x8000_0000_0007_0000n, 0x7_0001n, 0x7_0002n, 2n, 0x7_0200n, 1n << 55n])(
    "0x%s is refused",
    (word) => {
      const error = errorOf(() =>
        decodeBitmapTableEntry(Number(word >> 32n), Number(word & 0xffffffffn), 16),
      );
      expect([error.code, error.field]).toEqual(["E_CORRUPT", "bitmap_table"]);
    },
  );
});

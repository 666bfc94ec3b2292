import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../../src/errors/index.ts";
import {
  countL2Entries,
  decodeL2Entry,
  encodeL2EntryAt,
  type L2Entry,
  type L2Layout,
  toHalves,
} from "../../../../src/format/qcow2/codec/l2-table.ts";
import { errorOf } from "../../../helpers/expect-error.ts";

const PLAIN: L2Layout = { version: 3, clusterBits: 16, hasExtendedL2: false, hasExternalDataFile: false };
const VERSION_2: L2Layout = { ...PLAIN, version: 2 };
const EXTENDED: L2Layout = { ...PLAIN, hasExtendedL2: true };
const DATA_FILE: L2Layout = { ...PLAIN, hasExternalDataFile: true };

/** A table of two entries, of which the second is the one. */
function tableOf(layout: L2Layout, word: bigint, bitmap = 0n): DataView {
  const view = new DataView(new ArrayBuffer(32));
  const at = layout.hasExtendedL2 ? 16 : 8;
  view.setBigUint64(at, word);
  if (layout.hasExtendedL2) view.setBigUint64(at + 8, bitmap);
  return view;
}

const GOLDEN: readonly (readonly [string, L2Layout, bigint, bigint, unknown])[] = [
  ["nothing", PLAIN, 0n, 0n, { kind: "unallocated", zeroBits: 0 }],
  [
    "data",
    PLAIN,
    0x8000_0000_0005_0000n,
    0n,
    { kind: "data", hostOffset: 0x5_0000, isCopied: true, allocBits: 0xffffffff, zeroBits: 0 },
  ],
  [
    "shared data past 4 GiB",
    PLAIN,
    0x0000_0002_0005_0000n,
    0n,
    { kind: "data", hostOffset: 0x2_0005_0000, isCopied: false, allocBits: 0xffffffff, zeroBits: 0 },
  ],
  [
    "the first cluster of a data file",
    DATA_FILE,
    0x8000_0000_0000_0000n,
    0n,
    { kind: "data", hostOffset: 0, isCopied: true, allocBits: 0xffffffff, zeroBits: 0 },
  ],
  ["zero", PLAIN, 1n, 0n, { kind: "zero", hostOffset: undefined, isCopied: false }],
  [
    "zero that keeps its cluster",
    PLAIN,
    0x8000_0000_0005_0001n,
    0n,
    { kind: "zero", hostOffset: 0x5_0000, isCopied: true },
  ],
  [
    "compressed, one sector",
    PLAIN,
    0x4000_0000_0005_0123n,
    0n,
    { kind: "compressed", hostOffset: 0x5_0123, lengthBytes: 512 - 0x123, isCopied: false },
  ],
  [
    "compressed, four sectors",
    PLAIN,
    0x40c0_0000_0005_0200n,
    0n,
    { kind: "compressed", hostOffset: 0x5_0200, lengthBytes: 2048, isCopied: false },
  ],
  [
    "compressed in the largest clusters",
    { ...PLAIN, clusterBits: 21 },
    0x7ffe_0000_0020_0010n,
    0n,
    { kind: "compressed", hostOffset: 0x20_0010, lengthBytes: 8192 * 512 - 16, isCopied: false },
  ],
  [
    "subclusters",
    EXTENDED,
    0x8000_0000_0005_0000n,
    0x8000_0000_0000_00ffn,
    { kind: "data", hostOffset: 0x5_0000, isCopied: true, allocBits: 0xff, zeroBits: 0x80000000 },
  ],
  ["zero subclusters", EXTENDED, 0n, 0x0f00_0000_0000_0000n, { kind: "unallocated", zeroBits: 0x0f00_0000 }],
];

function decodeL2EntryAt(table: DataView, index: number, layout: L2Layout): L2Entry {
  const at = index * (layout.hasExtendedL2 ? 16 : 8);
  const words = layout.hasExtendedL2 ? [table.getUint32(at + 8), table.getUint32(at + 12)] : [];
  return decodeL2Entry(table.getUint32(at), table.getUint32(at + 4), layout, ...words);
}

describe("L2 entry", () => {
  test.each(GOLDEN)("%s decodes, and encodes to the same bits", (_, layout, word, bitmap, meaning) => {
    const table = tableOf(layout, word, bitmap);
    const entry = decodeL2EntryAt(table, 1, layout);
    expect(entry).toEqual(meaning);
    const target = new DataView(new Uint8Array(32).fill(0xff).buffer);
    encodeL2EntryAt(target, 1, entry, layout);
    const at = layout.hasExtendedL2 ? 16 : 8;
    expect(target.getBigUint64(at)).toBe(word);
    if (layout.hasExtendedL2) expect(target.getBigUint64(at + 8)).toBe(bitmap);
    expect(target.getBigUint64(0)).toBe(0xffff_ffff_ffff_ffffn);
  });

  const refused: readonly (readonly [string, L2Layout, bigint, bigint])[] = [
    ["a reserved low bit", PLAIN, 0x8000_0000_0005_0002n, 0n],
    ["a reserved high bit", PLAIN, 0x8100_0000_0005_0000n, 0n],
    ["the zero flag in version 2", VERSION_2, 0x8000_0000_0005_0001n, 0n],
    ["the zero flag beside subclusters", EXTENDED, 0x8000_0000_0005_0001n, 0n],
    ["a cluster that is not aligned", PLAIN, 0x8000_0000_0005_0200n, 0n],
    ["a cluster in use at the header", PLAIN, 1n << 63n, 0n],
    ["a subcluster both stored and zero", EXTENDED, 0x8000_0000_0005_0000n, 0x1_0000_0001n],
    ["a subcluster stored in no cluster", EXTENDED, 0n, 1n],
    ["a compressed cluster with subclusters", EXTENDED, 0x4000_0000_0005_0000n, 1n],
    ["a place past 2^53", PLAIN, 1n << 55n, 0n],
    ["compressed data past 2^56", { ...PLAIN, clusterBits: 9 }, 0x4100_0000_0000_0000n, 0n],
  ];
  test.each(refused)("%s is refused", (_, layout, word, bitmap) => {
    const error = errorOf(() => decodeL2EntryAt(tableOf(layout, word, bitmap), 1, layout));
    expect([error.code, error.field]).toEqual(["E_CORRUPT", "l2_entry"]);
  });

  test("any word is refused, or encodes to the same bits", () => {
    const layouts = fc.record({
      version: fc.constantFrom<2 | 3>(2, 3),
      clusterBits: fc.integer({ min: 9, max: 21 }),
      hasExtendedL2: fc.boolean(),
      hasExternalDataFile: fc.boolean(),
    });
    const words = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
    const place = fc
      .record({ cluster: fc.nat(2 ** 20), flags: fc.constantFrom(0n, 1n, 1n << 63n, 3n << 62n, 1n << 62n) })
      .map(({ cluster, flags }) => ({ cluster: BigInt(cluster), flags }));
    fc.assert(
      fc.property(layouts, fc.oneof(words, place), words, (layout, made, bitmap) => {
        const word =
          typeof made === "bigint" ? made : (made.cluster << BigInt(layout.clusterBits)) | made.flags;
        const table = tableOf(layout, word, bitmap & word);
        let entry;
        try {
          entry = decodeL2EntryAt(table, 1, layout);
        } catch (error) {
          expect(error).toBeInstanceOf(ImgtxError);
          return;
        }
        const target = tableOf(layout, 0n, 0n);
        encodeL2EntryAt(target, 1, entry, layout);
        expect(target.getBigUint64(layout.hasExtendedL2 ? 16 : 8)).toBe(word);
      }),
      { numRuns: 2000, seed: 20_261_123 },
    );
  });
});

describe("L2 table", () => {
  test("has half as many entries when they are extended", () => {
    expect([countL2Entries(PLAIN), countL2Entries(EXTENDED)]).toEqual([8192, 4096]);
  });

  test("is swapped to halves in place", () => {
    const bytes = new Uint8Array(32);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(16, 0x8000_0001_0002_0003n);
    const halves = toHalves(bytes.subarray(8));
    expect([...halves]).toEqual([0, 0, 0x80000001, 0x00020003, 0, 0]);
    expect(halves.buffer).toBe(bytes.buffer);
  });
});

import { describe, expect, test } from "vitest";
import { decodeL1EntryAt, encodeL1EntryAt } from "../../../../src/format/qcow2/codec/l1-table.ts";
import { errorOf } from "../../../helpers/expect-error.ts";

function entryOf(word: bigint): DataView {
  const view = new DataView(new ArrayBuffer(16));
  view.setBigUint64(8, word);
  return view;
}

describe("L1 entry", () => {
  test("zero is no table", () => {
    expect(decodeL1EntryAt(entryOf(0n), 1, 16)).toEqual({ kind: "unallocated" });
  });

  test("golden words decode, and encode to the same bits", () => {
    const words: readonly (readonly [bigint, unknown])[] = [
      [0x8000_0000_0004_0000n, { kind: "table", hostOffset: 0x4_0000, isCopied: true }],
      [0x0000_0001_0001_0000n, { kind: "table", hostOffset: 0x1_0001_0000, isCopied: false }],
      [0x801f_ffff_ffff_0000n, { kind: "table", hostOffset: 2 ** 53 - 2 ** 16, isCopied: true }],
    ];
    for (const [word, meaning] of words) {
      const entry = decodeL1EntryAt(entryOf(word), 1, 16);
      expect(entry).toEqual(meaning);
      const target = entryOf(0xffff_ffff_ffff_ffffn);
      encodeL1EntryAt(target, 1, entry);
      expect(target.getBigUint64(8)).toBe(word);
    }
  });

  test("each reserved bit is refused", () => {
    for (const bit of [0, 1, 2, 3, 4, 5, 6, 7, 8, 56, 57, 58, 59, 60, 61, 62]) {
      const word = 0x8000_0000_0004_0000n | (1n << BigInt(bit));
      const error = errorOf(() => decodeL1EntryAt(entryOf(word), 1, 16));
      expect([error.code, error.field]).toEqual(["E_CORRUPT", "l1_entry"]);
    }
  });

  test("a table that is not aligned to a cluster is refused", () => {
    expect(errorOf(() => decodeL1EntryAt(entryOf(0x8200n), 1, 16)).message).toBe(
      "L2 table offset 0x8200 unaligned",
    );
    expect(decodeL1EntryAt(entryOf(0x8200n), 1, 9)).toMatchObject({ hostOffset: 0x8200 });
  });

  test("a table past 2^53 is refused", () => {
    expect(errorOf(() => decodeL1EntryAt(entryOf(1n << 55n), 1, 16)).code).toBe("E_CORRUPT");
  });
});

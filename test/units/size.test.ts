import { expect, test } from "vitest";
import { formatBytes, hostOffset, parseSizeBytes, safeNumber } from "../../src/units/index.ts";

test.each([
  ["512", 512],
  ["64k", 65_536],
  ["64K", 65_536],
  ["1.5G", 1_610_612_736],
  ["0x400", 1024],
  ["2T", 2 ** 41],
  ["7b", 7],
  ["0", 0],
])("reads %s as qemu-img does", (text, bytes) => {
  expect(parseSizeBytes(text)).toBe(bytes);
});

test.each(["10GiB", "1e3", "-1", "", "k", "1.5", "0x", " 1", "1 k", "16E", "9007199254740993"])(
  "refuses '%s' as a size",
  (text) => {
    expect(parseSizeBytes(text)).toBeUndefined();
  },
);

test.each([
  [0, "0 B"],
  [999, "999 B"],
  [196_616, "192 KiB"],
  [1_610_612_736, "1.5 GiB"],
  [1000 * 1024, "0.977 MiB"],
  [197_120, "192 KiB"],
  [198_144, "194 KiB"],
  [1_671_168, "1.59 MiB"],
])("prints %d bytes with three digits, as qemu-img does", (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

test("a 64-bit word becomes a number only where it is exact", () => {
  expect(safeNumber(2n ** 53n - 1n)).toBe(2 ** 53 - 1);
  expect(safeNumber(2n ** 53n)).toBeUndefined();
  expect(safeNumber(-1n)).toBeUndefined();
});

test.each([-1, 1.5, 2 ** 53, Number.NaN])("%d is not an offset", (bytes) => {
  expect(() => hostOffset(bytes)).toThrow(RangeError);
});

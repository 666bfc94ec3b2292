// What is known of a kind of file system without trying.

import { expect, test } from "vitest";
import { kindOfType } from "../../../src/storage/kernel/file-system.ts";

test("a file on FAT ends before 4 GiB, which is known without a file that tells", () => {
  expect(kindOfType(0x4d44)).toMatchObject({ name: "fat", largestFileBytes: 4 * 2 ** 30 - 1 });
  expect(kindOfType(0xef53).largestFileBytes).toBeUndefined();
});

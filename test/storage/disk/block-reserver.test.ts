// Blocks reserved for a large write leave nothing behind but the write.

import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { makeNodeStorage, type StorageFile } from "../../../src/storage/index.ts";
import { loadSystemCalls } from "../../../src/storage/native/system-calls.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const MIB = 1024 * 1024;

async function writeTwice(file: StorageFile, data: Uint8Array): Promise<void> {
  await file.write(data, MIB);
  await file.write(data, 4 * MIB);
}

test("a large write takes the blocks of its own range, and grows the file to its own end", async () => {
  const path = `${makeFolder()}/file`;
  const file = await makeNodeStorage().createFile(path, 0o600);
  const data = randomBytes(MIB);
  await writeTwice(file, data);
  const { sizeBytes, allocatedBytes } = await file.stat();
  expect(sizeBytes).toBe(5 * MIB);
  expect(allocatedBytes).toBeLessThan(3 * MIB);
  await file.close();
  const bytes = readFileSync(path);
  expect(bytes.subarray(MIB, 2 * MIB).equals(data)).toBe(true);
  expect(bytes.subarray(4 * MIB).equals(data)).toBe(true);
  expect(bytes.subarray(2 * MIB, 4 * MIB).every((byte) => byte === 0)).toBe(true);
});

test("where blocks can't be reserved, the write is made all the same, and it is not tried again", async () => {
  const ranges: unknown[] = [];
  const storage = makeNodeStorage({
    loadSystemCalls: () => ({
      ...loadSystemCalls(),
      reserve: (_descriptor, range) => {
        ranges.push(range);
        return false;
      },
    }),
  });
  const path = `${makeFolder()}/file`;
  const file = await storage.createFile(path, 0o600);
  const data = randomBytes(MIB);
  await writeTwice(file, data);
  await file.close();
  expect(
    readFileSync(path)
      .subarray(4 * MIB)
      .equals(data),
  ).toBe(true);
  expect(ranges.length).toBeLessThan(2);
});

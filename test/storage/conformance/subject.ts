// What the conformance suite tests, and the tools that it tests with.

import { expect } from "vitest";
import type { Storage, StorageFile } from "../../../src/storage/index.ts";

export interface StorageUnderTest {
  readonly storage: Storage;
  /** Absolute path of an empty folder that tests may fill. */
  readonly root: string;
}

/** Makes a storage with an empty folder; called once for each test. */
export type MakeStorage = () => Promise<StorageUnderTest>;

export const KIB = 1024;
/** Files are sparse in steps of the file system's blocks: no larger than this anywhere. */
export const BLOCK = 64 * KIB;

/** Bytes that differ from place to place, so that a piece in the wrong place shows. */
export function pattern(lengthBytes: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length: lengthBytes }, (_, index) => (index * 7 + (index >> 8) + seed) % 251);
}

export async function readAll(file: StorageFile): Promise<Uint8Array> {
  const { sizeBytes } = await file.stat();
  const bytes = new Uint8Array(sizeBytes);
  expect(await file.read(bytes, 0)).toBe(sizeBytes);
  return bytes;
}

export async function makeFileWith(
  storage: Storage,
  path: string,
  content: Uint8Array,
): Promise<StorageFile> {
  const file = await storage.createFile(path, 0o600);
  await file.write(content, 0);
  return file;
}

export async function contentAt(storage: Storage, path: string): Promise<Uint8Array> {
  const file = await storage.openFile(path, "read");
  try {
    return await readAll(file);
  } finally {
    await file.close();
  }
}

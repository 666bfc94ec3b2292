// Open-file-description locks: they belong to a descriptor and follow the inode.

import { describe, expect, test } from "vitest";
import type { StorageFile } from "../../../src/storage/index.ts";
import { type MakeStorage, type StorageUnderTest } from "./subject.ts";

export function describeLocks(makeStorage: MakeStorage): void {
  const byte = (start: number, lengthBytes = 1) => ({ start, lengthBytes });

  async function openTwice({ storage, root }: StorageUnderTest): Promise<[StorageFile, StorageFile]> {
    return [await storage.createFile(`${root}/a`, 0o600), await storage.openFile(`${root}/a`, "write")];
  }

  describe("locks", () => {
    test("two descriptions may share a byte", async () => {
      const [first, second] = await openTwice(await makeStorage());
      expect(first.lock(byte(100), "shared")).toBe(true);
      expect(second.wouldConflict(byte(100), "shared")).toBe(false);
      expect(second.lock(byte(100), "shared")).toBe(true);
      await first.close();
      await second.close();
    });

    test("an exclusive lock stands against a shared one, both ways, and only where they meet", async () => {
      const [first, second] = await openTwice(await makeStorage());
      expect(first.lock(byte(100, 4), "shared")).toBe(true);
      expect(second.wouldConflict(byte(103), "exclusive")).toBe(true);
      expect(second.lock(byte(103), "exclusive")).toBe(false);
      expect(second.lock(byte(104), "exclusive")).toBe(true);
      expect(first.wouldConflict(byte(104), "shared")).toBe(true);
      expect(first.lock(byte(104), "shared")).toBe(false);
      expect(first.wouldConflict(byte(105), "exclusive")).toBe(false);
      await first.close();
      await second.close();
    });

    test("a description never conflicts with itself, and may change its lock's kind", async () => {
      const [first, second] = await openTwice(await makeStorage());
      expect(first.lock(byte(7), "shared")).toBe(true);
      expect(first.wouldConflict(byte(7), "exclusive")).toBe(false);
      expect(first.lock(byte(7), "exclusive")).toBe(true);
      expect(second.lock(byte(7), "shared")).toBe(false);
      expect(first.lock(byte(7), "shared")).toBe(true);
      expect(second.lock(byte(7), "shared")).toBe(true);
      await first.close();
      await second.close();
    });

    test("asking takes nothing", async () => {
      const [first, second] = await openTwice(await makeStorage());
      expect(first.wouldConflict(byte(7), "exclusive")).toBe(false);
      expect(second.lock(byte(7), "exclusive")).toBe(true);
      await first.close();
      await second.close();
    });

    test("a refused lock leaves what the description held", async () => {
      const [first, second] = await openTwice(await makeStorage());
      expect(first.lock(byte(7), "shared")).toBe(true);
      expect(second.lock(byte(7), "shared")).toBe(true);
      expect(first.lock(byte(7), "exclusive")).toBe(false);
      expect(second.wouldConflict(byte(7), "exclusive")).toBe(true);
      await first.close();
      await second.close();
    });

    test("unlock gives back its range and keeps the rest", async () => {
      const [first, second] = await openTwice(await makeStorage());
      expect(first.lock(byte(100, 4), "shared")).toBe(true);
      first.unlock(byte(101, 2));
      expect(second.wouldConflict(byte(100), "exclusive")).toBe(true);
      expect(second.wouldConflict(byte(101, 2), "exclusive")).toBe(false);
      expect(second.wouldConflict(byte(103), "exclusive")).toBe(true);
      await first.close();
      await second.close();
    });

    test("closing drops its locks, and closing another description of the file drops none", async () => {
      const made = await makeStorage();
      const [first, second] = await openTwice(made);
      expect(first.lock(byte(7), "exclusive")).toBe(true);
      const third = await made.storage.openFile(`${made.root}/a`, "read");
      await third.close();
      expect(second.wouldConflict(byte(7), "shared")).toBe(true);
      await first.close();
      expect(second.wouldConflict(byte(7), "shared")).toBe(false);
      await second.close();
    });

    test("a file opened for reading takes a shared lock and may ask for an exclusive one", async () => {
      const made = await makeStorage();
      const [first, second] = await openTwice(made);
      const reader = await made.storage.openFile(`${made.root}/a`, "read");
      expect(reader.lock(byte(100), "shared")).toBe(true);
      expect(second.wouldConflict(byte(100), "exclusive")).toBe(true);
      expect(reader.wouldConflict(byte(100), "exclusive")).toBe(false);
      for (const file of [first, second, reader]) await file.close();
    });

    test("locks follow the file through a rename, and lie far beyond its end where asked", async () => {
      const made = await makeStorage();
      const [first, second] = await openTwice(made);
      expect(first.lock(byte(2 ** 40), "exclusive")).toBe(true);
      await made.storage.rename(`${made.root}/a`, `${made.root}/b`);
      const third = await made.storage.openFile(`${made.root}/b`, "read");
      expect(third.wouldConflict(byte(2 ** 40), "shared")).toBe(true);
      for (const file of [first, second, third]) await file.close();
    });
  });
}

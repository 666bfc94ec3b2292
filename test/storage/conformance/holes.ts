// Holes are zeros, and copies keep them.

import { describe, expect, test } from "vitest";
import type { StorageFile } from "../../../src/storage/index.ts";
import { BLOCK, makeFileWith, pattern, readAll, type MakeStorage, type StorageUnderTest } from "./subject.ts";
import { failureOf } from "../../helpers/expect-error.ts";

export function describeSparseFiles(makeStorage: MakeStorage): void {
  describe("holes", () => {
    /** Data in blocks 2 and 5 of 8. */
    async function makeSparse({ storage, root }: StorageUnderTest): Promise<StorageFile> {
      const file = await storage.createFile(`${root}/sparse`, 0o600);
      await file.truncate(8 * BLOCK);
      await file.write(pattern(BLOCK, 2), 2 * BLOCK);
      await file.write(pattern(BLOCK, 5), 5 * BLOCK);
      return file;
    }

    /** What seekData and seekHole must add up to: every byte outside the data they tell of is zero. */
    async function dataRanges(file: StorageFile): Promise<[number, number][]> {
      const ranges: [number, number][] = [];
      let position = 0;
      for (;;) {
        const start = await file.seekData(position);
        if (start === undefined) return ranges;
        position = await file.seekHole(start);
        expect(position).toBeGreaterThan(start);
        ranges.push([start, position]);
      }
    }

    test("seekData and seekHole leave out zeros only", async () => {
      const made = await makeStorage();
      const file = await makeSparse(made);
      const bytes = await readAll(file);
      const ranges = await dataRanges(file);
      for (const [start, end] of ranges) bytes.fill(0, start, end);
      expect(bytes.every((byte) => byte === 0)).toBe(true);
      await file.close();
    });

    test("allocating a range keeps its content, and grows the file to its end", async () => {
      const made = await makeStorage();
      const file = await makeSparse(made);
      const before = await readAll(file);
      await file.allocate({ start: BLOCK, lengthBytes: 9 * BLOCK });
      expect((await file.stat()).sizeBytes).toBe(10 * BLOCK);
      const after = await readAll(file);
      expect(after.subarray(0, before.length)).toEqual(before);
      expect(after.subarray(before.length).every((byte) => byte === 0)).toBe(true);
      await file.allocate({ start: 0, lengthBytes: BLOCK });
      expect((await file.stat()).sizeBytes).toBe(10 * BLOCK);
      await file.close();
    });

    test("hints to the file system are taken or not, and change no byte", async () => {
      const { storage, root } = await makeStorage();
      const file = await storage.createFile(`${root}/hinted`, 0o600);
      expect([true, false]).toContain(file.disableCopyOnWrite());
      const isTaken = file.setExtentSizeHint(BLOCK * 16);
      // ext4 takes it, and does not keep it.
      expect(isTaken ? [0, BLOCK * 16] : [0]).toContain(file.extentSizeHint());
      await file.write(pattern(BLOCK), 0);
      expect(await readAll(file)).toEqual(pattern(BLOCK));
      await file.close();
    });

    test("no data follows at and past the end, and the end is a hole", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(10));
      expect(await file.seekData(3)).toBe(3);
      expect(await file.seekHole(3)).toBe(10);
      expect(await file.seekData(10)).toBeUndefined();
      expect(await file.seekHole(10)).toBe(10);
      expect(await file.seekData(5000)).toBeUndefined();
      expect(await file.seekHole(5000)).toBe(5000);
      await file.close();
    });

    test("a punched hole reads as zeros, keeps the size and spares its neighbours", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(4 * BLOCK));
      await file.punchHole({ start: BLOCK - 5, lengthBytes: BLOCK + 10 });
      const expected = pattern(4 * BLOCK).fill(0, BLOCK - 5, 2 * BLOCK + 5);
      expect(Buffer.compare(await readAll(file), expected)).toBe(0);
      await file.close();
    });

    test("a hole punched across the end does not grow the file", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(BLOCK));
      await file.punchHole({ start: 100, lengthBytes: 2 * BLOCK });
      const bytes = await readAll(file);
      expect(bytes.length).toBe(BLOCK);
      expect(Buffer.compare(bytes, pattern(BLOCK).fill(0, 100))).toBe(0);
      await file.close();
    });

    test("a copied range is the same bytes, in its place", async () => {
      const made = await makeStorage();
      const source = await makeSparse(made);
      const target = await makeFileWith(made.storage, `${made.root}/target`, pattern(9 * BLOCK, 77));
      await target.copyRangeFrom(source, BLOCK + 3, 100, 5 * BLOCK);
      const expected = pattern(9 * BLOCK, 77);
      expected.set((await readAll(source)).subarray(BLOCK + 3, 6 * BLOCK + 3), 100);
      expect(Buffer.compare(await readAll(target), expected)).toBe(0);
      await source.close();
      await target.close();
    });

    test("a copy that ends in a hole has the full size, and no more data than its source", async () => {
      const made = await makeStorage();
      const source = await makeSparse(made);
      const target = await made.storage.createFile(`${made.root}/target`, 0o600);
      await target.copyRangeFrom(source, 0, 0, 8 * BLOCK);
      expect(Buffer.compare(await readAll(target), await readAll(source))).toBe(0);
      expect(await dataRanges(target)).toEqual(await dataRanges(source));
      await source.close();
      await target.close();
    });

    test("a copy does not shrink a larger target", async () => {
      const { storage, root } = await makeStorage();
      const source = await makeFileWith(storage, `${root}/a`, pattern(10));
      const target = await makeFileWith(storage, `${root}/b`, pattern(50, 8));
      await target.copyRangeFrom(source, 0, 0, 10);
      expect([...(await readAll(target))]).toEqual([...pattern(10), ...pattern(50, 8).subarray(10)]);
      await source.close();
      await target.close();
    });

    test("a copy of more than the source has is refused and writes nothing", async () => {
      const { storage, root } = await makeStorage();
      const source = await makeFileWith(storage, `${root}/a`, pattern(10));
      const target = await makeFileWith(storage, `${root}/b`, pattern(50, 8));
      expect(await failureOf(() => target.copyRangeFrom(source, 5, 0, 6))).toMatchObject({
        code: "E_IO",
        image: `${root}/a`,
      });
      expect([...(await readAll(target))]).toEqual([...pattern(50, 8)]);
      await source.close();
      await target.close();
    });

    test("a range is copied elsewhere in its own file, and is refused onto itself", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(3 * BLOCK));
      expect((await failureOf(() => file.copyRangeFrom(file, 0, 100, BLOCK))).code).toBe("E_INTERNAL");
      expect(Buffer.compare(await readAll(file), pattern(3 * BLOCK))).toBe(0);
      await file.copyRangeFrom(file, 0, BLOCK + 10, BLOCK);
      const expected = pattern(3 * BLOCK);
      expected.copyWithin(BLOCK + 10, 0, BLOCK);
      expect(Buffer.compare(await readAll(file), expected)).toBe(0);
      await file.close();
    });

    test("a clone is the same file, or is refused with nothing written", async () => {
      const made = await makeStorage();
      const source = await makeSparse(made);
      const target = await made.storage.createFile(`${made.root}/target`, 0o600);
      const cloned = await target.cloneFrom(source);
      const expected = cloned ? await readAll(source) : new Uint8Array(0);
      expect(Buffer.compare(await readAll(target), expected)).toBe(0);
      await source.close();
      await target.close();
    });
  });
}

// Bytes come back as they were written, and a file ends where it ends.

import { describe, expect, test } from "vitest";
import { contentAt, KIB, makeFileWith, pattern, readAll, type MakeStorage } from "./subject.ts";
import { failureOf } from "../../helpers/expect-error.ts";

export function describeContent(makeStorage: MakeStorage): void {
  describe("content", () => {
    test.each([1, 511, 64 * KIB, 64 * KIB + 1, 3 * 1024 * KIB + 5])(
      "%d bytes come back as they were written",
      async (length) => {
        const { storage, root } = await makeStorage();
        const file = await makeFileWith(storage, `${root}/a`, pattern(length));
        await file.close();
        expect(Buffer.compare(await contentAt(storage, `${root}/a`), pattern(length))).toBe(0);
      },
    );

    test("a read across the end returns what there is and leaves the rest of the buffer alone", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(100));
      const buffer = new Uint8Array(64).fill(0xee);
      expect(await file.read(buffer, 90)).toBe(10);
      expect([...buffer.subarray(0, 10)]).toEqual([...pattern(100).subarray(90)]);
      expect(buffer.subarray(10).every((byte) => byte === 0xee)).toBe(true);
      expect(await file.read(buffer, 100)).toBe(0);
      expect(await file.read(buffer, 5000)).toBe(0);
      expect(await file.read(new Uint8Array(0), 0)).toBe(0);
      await file.close();
    });

    test("a large read across the end returns what there is", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(300 * KIB));
      const buffer = new Uint8Array(512 * KIB);
      expect(await file.read(buffer, 100 * KIB)).toBe(200 * KIB);
      expect(Buffer.compare(buffer.subarray(0, 200 * KIB), pattern(300 * KIB).subarray(100 * KIB))).toBe(0);
      await file.close();
    });

    test("a write beyond the end leaves zeros in between", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(10));
      await file.write(pattern(3, 9), 5000);
      const bytes = await readAll(file);
      expect(bytes.length).toBe(5003);
      expect(bytes.subarray(10, 5000).every((byte) => byte === 0)).toBe(true);
      expect([...bytes.subarray(5000)]).toEqual([...pattern(3, 9)]);
      await file.close();
    });

    test("a write in the middle changes nothing beside it", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(2000));
      await file.write(new Uint8Array(7), 600);
      const expected = pattern(2000).fill(0, 600, 607);
      expect(Buffer.compare(await readAll(file), expected)).toBe(0);
      await file.close();
    });

    test("a write of nothing changes nothing, beyond the end too", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(10));
      await file.write(new Uint8Array(0), 100);
      expect((await file.stat()).sizeBytes).toBe(10);
      await file.close();
    });

    test("the bytes written are those of the call, whatever the caller does to its buffer afterwards", async () => {
      const { storage, root } = await makeStorage();
      const source = pattern(200 * KIB);
      const file = await makeFileWith(storage, `${root}/a`, source);
      source.fill(0);
      expect(Buffer.compare(await readAll(file), pattern(200 * KIB))).toBe(0);
      await file.close();
    });

    test("truncate cuts, and grows by zeros", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(2000));
      await file.truncate(1000);
      await file.truncate(3000);
      const bytes = await readAll(file);
      expect(bytes.length).toBe(3000);
      expect(Buffer.compare(bytes.subarray(0, 1000), pattern(2000).subarray(0, 1000))).toBe(0);
      expect(bytes.subarray(1000).every((byte) => byte === 0)).toBe(true);
      await file.close();
    });

    test("a flush may be repeated, and leaves content and size as they are", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(2000));
      await file.flush("first");
      await file.flush("second");
      expect(Buffer.compare(await readAll(file), pattern(2000))).toBe(0);
      await file.close();
    });

    test("two descriptors of one file see each other's writes", async () => {
      const { storage, root } = await makeStorage();
      const first = await makeFileWith(storage, `${root}/a`, pattern(10));
      const second = await storage.openFile(`${root}/a`, "write");
      await second.write(pattern(20, 5), 0);
      expect([...(await readAll(first))]).toEqual([...pattern(20, 5)]);
      await first.close();
      await second.close();
    });

    test("a file opened for reading takes no write, no resize and no exclusive lock", async () => {
      const { storage, root } = await makeStorage();
      await (await makeFileWith(storage, `${root}/a`, pattern(10))).close();
      const file = await storage.openFile(`${root}/a`, "read");
      expect(await failureOf(() => file.write(pattern(1), 0))).toMatchObject({ image: `${root}/a` });
      expect(await failureOf(() => file.truncate(1))).toMatchObject({ image: `${root}/a` });
      expect(await failureOf(() => file.lock({ start: 0, lengthBytes: 1 }, "exclusive"))).toMatchObject({
        image: `${root}/a`,
      });
      expect([...(await readAll(file))]).toEqual([...pattern(10)]);
      await file.close();
    });

    test("a closed file refuses every use but another close", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(10));
      await file.close();
      await file.close();
      file.unlock({ start: 0, lengthBytes: 1 });
      const uses = [
        () => file.stat(),
        () => file.read(new Uint8Array(1), 0),
        () => file.write(new Uint8Array(1), 0),
        () => file.truncate(1),
        () => file.flush("late"),
        () => file.lock({ start: 0, lengthBytes: 1 }, "shared"),
      ];
      for (const use of uses) expect((await failureOf(use)).code).toBe("E_INTERNAL");
    });

    test("closing waits for a large write that is under way", async () => {
      const { storage, root } = await makeStorage();
      const file = await storage.createFile(`${root}/a`, 0o600);
      const writing = file.write(pattern(8 * 1024 * KIB), 0);
      await Promise.all([writing, file.close()]);
      expect(Buffer.compare(await contentAt(storage, `${root}/a`), pattern(8 * 1024 * KIB))).toBe(0);
    });

    test("an open file outlives its name", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(10));
      await storage.removeFile(`${root}/a`);
      expect([...(await readAll(file))]).toEqual([...pattern(10)]);
      await file.write(pattern(20), 0);
      await file.close();
      expect(await storage.stat(`${root}/a`)).toBeUndefined();
    });
  });
}

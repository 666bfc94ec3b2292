// What every Storage must do, the real disk and the simulated one alike. The engine is built on nothing
// that is not claimed here.

import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../src/errors/index.ts";
import type { Storage, StorageFile } from "../../src/storage/index.ts";

export interface StorageUnderTest {
  readonly storage: Storage;
  /** Absolute path of an empty folder that tests may fill. */
  readonly root: string;
}

/** Makes a storage with an empty folder; called once for each test. */
export type MakeStorage = () => Promise<StorageUnderTest>;

export function describeStorage(name: string, makeStorage: MakeStorage): void {
  describe(name, () => {
    describeContent(makeStorage);
    describeSparseFiles(makeStorage);
    describeNames(makeStorage);
    describeFolders(makeStorage);
    describeStats(makeStorage);
    describeLocks(makeStorage);
    describeHost(makeStorage);
  });
}

const KIB = 1024;
/** Files are sparse in steps of the file system's blocks: no larger than this anywhere. */
const BLOCK = 64 * KIB;

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

/** The ImgtxError that a call fails with; its code is what tests look at first. */
export async function failureOf(call: () => unknown): Promise<ImgtxError> {
  try {
    await call();
  } catch (error) {
    if (error instanceof ImgtxError) return error;
    throw error;
  }
  throw new Error("the call was expected to fail, and did not");
}

async function makeFileWith(storage: Storage, path: string, content: Uint8Array): Promise<StorageFile> {
  const file = await storage.createFile(path, 0o600);
  await file.write(content, 0);
  return file;
}

async function contentAt(storage: Storage, path: string): Promise<Uint8Array> {
  const file = await storage.openFile(path, "read");
  try {
    return await readAll(file);
  } finally {
    await file.close();
  }
}

function describeContent(makeStorage: MakeStorage): void {
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

function describeSparseFiles(makeStorage: MakeStorage): void {
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

    test("no data follows at and behind the end, and the end is a hole", async () => {
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

function describeNames(makeStorage: MakeStorage): void {
  describe("names", () => {
    test("a file is made once: a second make is E_EXISTS and leaves the first as it was", async () => {
      const { storage, root } = await makeStorage();
      await (await makeFileWith(storage, `${root}/a`, pattern(10))).close();
      expect(await failureOf(() => storage.createFile(`${root}/a`, 0o600))).toMatchObject({
        code: "E_EXISTS",
        image: `${root}/a`,
      });
      expect([...(await contentAt(storage, `${root}/a`))]).toEqual([...pattern(10)]);
    });

    test("a file is not made through a dangling symbolic link", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeSymlink("elsewhere", `${root}/link`);
      expect((await failureOf(() => storage.createFile(`${root}/link`, 0o600))).code).toBe("E_EXISTS");
      expect(await storage.stat(`${root}/elsewhere`)).toBeUndefined();
    });

    test("what is not there is E_NOT_FOUND, with its path", async () => {
      const { storage, root } = await makeStorage();
      const path = `${root}/none`;
      const calls = [
        () => storage.openFile(path, "read"),
        () => storage.openFile(path, "write"),
        () => storage.createFile(`${path}/a`, 0o600),
        () => storage.realPath(path),
        () => storage.readFolder(path),
        () => storage.makeFolder(`${path}/a`, 0o700),
        () => storage.flushFolder(path, "nothing"),
        () => storage.rename(path, `${root}/other`),
        () => storage.renameWithoutReplacing(path, `${root}/other`),
        () => storage.removeFile(path),
        () => storage.readSymlink(path),
      ];
      for (const call of calls) {
        const failure = await failureOf(call);
        expect(failure.code).toBe("E_NOT_FOUND");
        expect(failure.message).toMatch(/^Could not .*: No such file or directory$/);
        expect(failure.image).toBeDefined();
      }
      expect(await storage.readFolder(root)).toEqual([]);
    });

    test("a folder is not a file, and a file is not a folder", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeFolder(`${root}/folder`, 0o700);
      await (await makeFileWith(storage, `${root}/file`, pattern(1))).close();
      const calls = [
        () => storage.openFile(`${root}/folder`, "read"),
        () => storage.openFile(`${root}/folder`, "write"),
        () => storage.openFile(`${root}/file/a`, "read"),
        () => storage.createFile(`${root}/file/a`, 0o600),
        () => storage.readFolder(`${root}/file`),
        () => storage.flushFolder(`${root}/file`, "no folder"),
        () => storage.removeFolder(`${root}/file`),
      ];
      for (const call of calls) expect((await failureOf(call)).code).toBe("E_NOT_A_FILE");
      expect(await storage.readFolder(root)).toEqual(["file", "folder"]);
    });

    test("rename replaces what was there, and the moved file keeps its inode", async () => {
      const { storage, root } = await makeStorage();
      await (await makeFileWith(storage, `${root}/a`, pattern(10))).close();
      await (await makeFileWith(storage, `${root}/b`, pattern(20, 3))).close();
      const before = await storage.stat(`${root}/a`);
      await storage.rename(`${root}/a`, `${root}/b`);
      expect((await storage.stat(`${root}/b`))?.inode).toBe(before?.inode);
      expect([...(await contentAt(storage, `${root}/b`))]).toEqual([...pattern(10)]);
      expect(await storage.readFolder(root)).toEqual(["b"]);
    });

    test("rename moves a symbolic link itself, over another one too", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeSymlink("one", `${root}/a`);
      await storage.makeSymlink("two", `${root}/b`);
      await storage.rename(`${root}/a`, `${root}/b`);
      expect(await storage.readSymlink(`${root}/b`)).toBe("one");
      expect(await storage.readFolder(root)).toEqual(["b"]);
    });

    test("rename moves a folder with what is in it", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeFolder(`${root}/a`, 0o700);
      await (await makeFileWith(storage, `${root}/a/inside`, pattern(3))).close();
      await storage.rename(`${root}/a`, `${root}/b`);
      expect([...(await contentAt(storage, `${root}/b/inside`))]).toEqual([...pattern(3)]);
      expect(await storage.stat(`${root}/a`)).toBeUndefined();
    });

    test("rename without replacing moves to a free name", async () => {
      const { storage, root } = await makeStorage();
      await (await makeFileWith(storage, `${root}/a`, pattern(10))).close();
      await storage.renameWithoutReplacing(`${root}/a`, `${root}/b`);
      expect([...(await contentAt(storage, `${root}/b`))]).toEqual([...pattern(10)]);
      expect(await storage.readFolder(root)).toEqual(["b"]);
    });

    test.each(["file", "folder", "symlink"])("rename without replacing stops at a %s", async (kind) => {
      const { storage, root } = await makeStorage();
      await (await makeFileWith(storage, `${root}/a`, pattern(10))).close();
      if (kind === "file") await (await makeFileWith(storage, `${root}/b`, pattern(20, 3))).close();
      else if (kind === "folder") await storage.makeFolder(`${root}/b`, 0o700);
      else await storage.makeSymlink("nowhere", `${root}/b`);
      const before = await storage.statLink(`${root}/b`);
      const failure = await failureOf(() => storage.renameWithoutReplacing(`${root}/a`, `${root}/b`));
      expect(failure.code).toBe("E_EXISTS");
      expect(await storage.statLink(`${root}/b`)).toEqual(before);
      expect([...(await contentAt(storage, `${root}/a`))]).toEqual([...pattern(10)]);
    });

    test("removeFile removes a symbolic link and not what it points to", async () => {
      const { storage, root } = await makeStorage();
      await (await makeFileWith(storage, `${root}/a`, pattern(10))).close();
      await storage.makeSymlink("a", `${root}/link`);
      await storage.removeFile(`${root}/link`);
      expect(await storage.readFolder(root)).toEqual(["a"]);
    });

    test("a symbolic link says what it was made with, and is followed from its own folder", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeFolder(`${root}/folder`, 0o700);
      await (await makeFileWith(storage, `${root}/a`, pattern(10))).close();
      await storage.makeSymlink("../a", `${root}/folder/link`);
      expect(await storage.readSymlink(`${root}/folder/link`)).toBe("../a");
      expect(await storage.realPath(`${root}/folder/link`)).toBe(await storage.realPath(`${root}/a`));
      expect([...(await contentAt(storage, `${root}/folder/link`))]).toEqual([...pattern(10)]);
      expect((await failureOf(() => storage.makeSymlink("x", `${root}/folder/link`))).code).toBe("E_EXISTS");
    });

    test("openFile refuses a symbolic link when told to, as the last part of the path only", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeFolder(`${root}/folder`, 0o700);
      await storage.makeSymlink("folder", `${root}/by-link`);
      await (await makeFileWith(storage, `${root}/folder/a`, pattern(10))).close();
      await storage.makeSymlink("a", `${root}/folder/link`);
      const refuseSymlink = { refuseSymlink: true };
      expect(
        (await failureOf(() => storage.openFile(`${root}/folder/link`, "read", refuseSymlink))).code,
      ).toBe("E_NOT_A_FILE");
      const file = await storage.openFile(`${root}/by-link/a`, "read", refuseSymlink);
      expect(file.path).toBe(`${root}/by-link/a`);
      await file.close();
    });

    test("links in a circle are E_NOT_A_FILE", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeSymlink("b", `${root}/a`);
      await storage.makeSymlink("a", `${root}/b`);
      expect((await failureOf(() => storage.openFile(`${root}/a`, "read"))).code).toBe("E_NOT_A_FILE");
      expect((await failureOf(() => storage.realPath(`${root}/a`))).code).toBe("E_NOT_A_FILE");
    });
  });
}

function describeFolders(makeStorage: MakeStorage): void {
  describe("folders", () => {
    test("names come sorted, hidden ones too", async () => {
      const { storage, root } = await makeStorage();
      for (const name of ["b", "a", ".c", "Z"])
        await (await storage.createFile(`${root}/${name}`, 0o600)).close();
      expect(await storage.readFolder(root)).toEqual([".c", "Z", "a", "b"]);
    });

    test("a folder is made once", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeFolder(`${root}/a`, 0o750);
      expect(await storage.stat(`${root}/a`)).toMatchObject({ kind: "folder", mode: 0o750 });
      expect((await failureOf(() => storage.makeFolder(`${root}/a`, 0o700))).code).toBe("E_EXISTS");
    });

    test("flushFolder leaves the names as they are", async () => {
      const { storage, root } = await makeStorage();
      await (await storage.createFile(`${root}/a`, 0o600)).close();
      await storage.flushFolder(root, "names");
      expect(await storage.readFolder(root)).toEqual(["a"]);
    });

    test("removeFolder takes a whole tree and not what its links point to", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeFolder(`${root}/kept`, 0o700);
      await (await makeFileWith(storage, `${root}/kept/a`, pattern(5))).close();
      await storage.makeFolder(`${root}/tree`, 0o700);
      await storage.makeFolder(`${root}/tree/deep`, 0o700);
      await storage.makeFolder(`${root}/tree/deep/er`, 0o700);
      await (await storage.createFile(`${root}/tree/deep/er/b`, 0o600)).close();
      await storage.makeSymlink("../../kept", `${root}/tree/deep/link`);
      await storage.removeFolder(`${root}/tree`);
      expect(await storage.readFolder(root)).toEqual(["kept"]);
      expect(await storage.readFolder(`${root}/kept`)).toEqual(["a"]);
    });

    test("removeFolder takes a flat folder of links and not what they point to", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeFolder(`${root}/kept`, 0o700);
      await (await storage.createFile(`${root}/kept/a`, 0o600)).close();
      await storage.makeFolder(`${root}/view`, 0o700);
      await storage.makeSymlink("../kept", `${root}/view/folder`);
      await storage.makeSymlink("../kept/a", `${root}/view/file`);
      await storage.removeFolder(`${root}/view`);
      expect(await storage.readFolder(root)).toEqual(["kept"]);
      expect(await storage.readFolder(`${root}/kept`)).toEqual(["a"]);
    });

    test("removeFolder of nothing is no error; of a link to a folder it is refused", async () => {
      const { storage, root } = await makeStorage();
      await storage.removeFolder(`${root}/none`);
      await storage.makeFolder(`${root}/kept`, 0o700);
      await storage.makeSymlink("kept", `${root}/link`);
      expect((await failureOf(() => storage.removeFolder(`${root}/link`))).code).toBe("E_NOT_A_FILE");
      expect(await storage.readFolder(root)).toEqual(["kept", "link"]);
    });
  });
}

function describeStats(makeStorage: MakeStorage): void {
  describe("stat", () => {
    test("tells files, folders and links apart, and follows links only when asked to", async () => {
      const { storage, root } = await makeStorage();
      await (await makeFileWith(storage, `${root}/a`, pattern(10))).close();
      await storage.makeSymlink("a", `${root}/link`);
      await storage.makeSymlink("none", `${root}/dangling`);
      expect((await storage.stat(root))?.kind).toBe("folder");
      expect(await storage.stat(`${root}/a`)).toMatchObject({ kind: "file", sizeBytes: 10 });
      expect(await storage.stat(`${root}/link`)).toEqual(await storage.stat(`${root}/a`));
      expect((await storage.statLink(`${root}/link`))?.kind).toBe("symlink");
      expect(await storage.stat(`${root}/dangling`)).toBeUndefined();
      expect((await storage.statLink(`${root}/dangling`))?.kind).toBe("symlink");
      expect(await storage.stat(`${root}/none`)).toBeUndefined();
      expect(await storage.statLink(`${root}/a/below-a-file`)).toBeUndefined();
    });

    test("of a path and of its open file agree", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(10));
      expect(await file.stat()).toEqual(await storage.stat(`${root}/a`));
      await file.close();
    });

    test("two files differ in inode, and share the file system", async () => {
      const { storage, root } = await makeStorage();
      await (await storage.createFile(`${root}/a`, 0o600)).close();
      await (await storage.createFile(`${root}/b`, 0o640)).close();
      const a = await storage.stat(`${root}/a`);
      const b = await storage.stat(`${root}/b`);
      expect(a).toMatchObject({ mode: 0o600, ownerId: storage.host.userId });
      expect(b).toMatchObject({ mode: 0o640, fileSystem: a?.fileSystem });
      expect(b?.inode).not.toBe(a?.inode);
    });

    test("a write moves the time of modification and not that of birth", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(10));
      const before = await file.stat();
      await storage.host.sleep(20);
      await file.write(pattern(10, 2), 0);
      const after = await file.stat();
      expect(BigInt(after.modifiedNs)).toBeGreaterThan(BigInt(before.modifiedNs));
      expect(after.bornNs).toBe(before.bornNs);
      await file.close();
    });

    test("a sparse file takes less than its size", async () => {
      const { storage, root } = await makeStorage();
      const file = await storage.createFile(`${root}/a`, 0o600);
      await file.truncate(1024 * BLOCK);
      expect(await file.stat()).toMatchObject({ sizeBytes: 1024 * BLOCK });
      expect((await file.stat()).allocatedBytes).toBeLessThan(2 * BLOCK);
      await file.close();
    });
  });
}

function describeLocks(makeStorage: MakeStorage): void {
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

function describeHost(makeStorage: MakeStorage): void {
  describe("host", () => {
    test("random names are ten characters, and differ", async () => {
      const { storage } = await makeStorage();
      const names = Array.from({ length: 50 }, () => storage.host.randomName());
      for (const name of names) expect(name).toMatch(/^[a-z0-9]{10}$/);
      expect(new Set(names).size).toBe(50);
    });

    test("sleep lets time pass", async () => {
      const { storage } = await makeStorage();
      const before = storage.host.now();
      await storage.host.sleep(30);
      expect(storage.host.now() - before).toBeGreaterThanOrEqual(29);
    });

    test("nobody but this process is found to hold a file of its own", async () => {
      const { storage, root } = await makeStorage();
      const file = await storage.createFile(`${root}/a`, 0o600);
      file.lock({ start: 0, lengthBytes: 1 }, "exclusive");
      expect(await storage.findHolders(await file.stat())).toEqual([]);
      await file.close();
    });
  });
}

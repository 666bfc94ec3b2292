// Names: made once, moved, linked, removed.

import { describe, expect, test } from "vitest";
import { contentAt, makeFileWith, pattern, type MakeStorage } from "./subject.ts";
import { failureOf } from "../../helpers/expect-error.ts";

export function describeNames(makeStorage: MakeStorage): void {
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
      // Whether its times are settled changes as the clock goes on.
      expect(await storage.statLink(`${root}/b`)).toEqual({
        ...before,
        settled: expect.any(Boolean) as boolean,
      });
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

    test("a symbolic link may be a second name of one that says the same, and of nothing else", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeSymlink("a", `${root}/link`);
      await (await makeFileWith(storage, `${root}/file`, pattern(1))).close();
      await storage.makeSymlink("a", `${root}/second`, `${root}/link`);
      await storage.makeSymlink("b", `${root}/other`, `${root}/link`);
      await storage.makeSymlink("a", `${root}/of-file`, `${root}/file`);
      await storage.makeSymlink("a", `${root}/of-nothing`, `${root}/none`);
      await storage.removeFile(`${root}/link`);
      const inodes = new Set<string | undefined>();
      for (const [name, says] of [
        ["second", "a"],
        ["other", "b"],
        ["of-file", "a"],
        ["of-nothing", "a"],
      ] as const) {
        expect(await storage.readSymlink(`${root}/${name}`)).toBe(says);
        inodes.add((await storage.statLink(`${root}/${name}`))?.inode);
      }
      expect(inodes.size).toBe(4);
      const taken = async (): Promise<void> =>
        await storage.makeSymlink("a", `${root}/file`, `${root}/second`);
      expect((await failureOf(taken)).code).toBe("E_EXISTS");
      expect([...(await contentAt(storage, `${root}/file`))]).toEqual([...pattern(1)]);
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

// The small files of a workspace and the paths in them.

import { mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { canonicalPath, fromStoredPath, toStoredPath } from "../../../src/device/index.ts";
import { readWholeFile } from "../../../src/device/workspace/replace-file.ts";
import { replaceFile } from "../../../src/device/workspace/replace-file.ts";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { type Call, killAt, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const storage = makeNodeStorage();
const PURPOSES = { content: "content", name: "name" };

describe("a stored path", () => {
  test.each([
    ["/ws", "/ws/a.qcow2", "a.qcow2"],
    ["/ws", "/ws/sub/a.qcow2", "sub/a.qcow2"],
    ["/ws", "/ws2/a.qcow2", "/ws2/a.qcow2"],
    ["/ws", "/ws", "/ws"],
    ["/ws", "/else/a.qcow2", "/else/a.qcow2"],
    ["/", "/a.qcow2", "a.qcow2"],
    ["/ws", "/ws/-x\n'é", "-x\n'é"],
  ])("in %s is, for %s, %s, and leads back", (root, path, stored) => {
    expect(toStoredPath(root, path)).toBe(stored);
    expect(fromStoredPath(root, stored)).toBe(path);
  });
});

describe("a canonical path", () => {
  test("has no symbolic link in its folder, and keeps its last part as it was named", async () => {
    const root = makeFolder();
    mkdirSync(`${root}/real`);
    symlinkSync("real", `${root}/link`);
    symlinkSync("target", `${root}/real/last`);
    expect(await canonicalPath(storage, `${root}/link/last`)).toBe(`${root}/real/last`);
    expect(await canonicalPath(storage, `${root}/link/../link/new.qcow2`)).toBe(`${root}/real/new.qcow2`);
  });

  test("has the letters that its folder lists, where the file system finds a file by others too", async () => {
    const root = makeFolder();
    writeFileSync(`${root}/A.QCOW2`, "");
    const on = (fileSystem: string): Storage => ({
      ...storage,
      stat: async (path) => {
        const stat = await storage.stat(path);
        return stat && { ...stat, fileSystemId: fileSystem };
      },
      realPath: async (path) => (await storage.realPath(path)).replace("A.QCOW2", "a.qcow2"),
    });
    expect(await canonicalPath(on("ext:1"), `${root}/A.QCOW2`)).toBe(`${root}/A.QCOW2`);
    expect(await canonicalPath(on("exfat:1"), `${root}/A.QCOW2`)).toBe(`${root}/a.qcow2`);
    expect(await canonicalPath(on("exfat:1"), `${root}/NEW.QCOW2`)).toBe(`${root}/NEW.QCOW2`);
  });

  test.each(["/", "/tmp/..", "/tmp/."])("is not had of %s, which names a folder", async (path) => {
    expect((await failureOf(async () => await canonicalPath(storage, path))).code).toBe("E_NOT_A_FILE");
  });

  test("is not had where the folder is missing", async () => {
    const missing = `${makeFolder()}/missing/a`;
    expect((await failureOf(async () => await canonicalPath(storage, missing))).code).toBe("E_NOT_FOUND");
  });
});

describe("a file is replaced", () => {
  test("with its content flushed before its name, and the name after it", async () => {
    const path = `${makeFolder()}/file`;
    writeFileSync(path, "old");
    const calls: Call[] = [];
    const watched = watchStorage(storage, (call) => calls.push(call));
    await replaceFile(watched, path, Buffer.from("new"), 0o640, PURPOSES);
    expect(readFileSync(path, "utf8")).toBe("new");
    expect(statSync(path).mode & 0o777).toBe(0o640);
    const order = calls.map(({ name, purpose }) => purpose ?? name);
    expect(order.indexOf("content")).toBeLessThan(order.indexOf("rename"));
    expect(order.indexOf("rename")).toBeLessThan(order.indexOf("name"));
    expect(watched.openFiles.size).toBe(0);
  });

  test.each(["createFile", "file.write", "file.flush", "rename"])(
    "or is the old one when it is cut off at %s, and the next try succeeds",
    async (name) => {
      const path = `${makeFolder()}/file`;
      writeFileSync(path, "old");
      const dying = killAt(storage, (call) => call.name === name);
      await expect(replaceFile(dying, path, Buffer.from("new"), 0o600, PURPOSES)).rejects.toThrow("killed");
      expect(readFileSync(path, "utf8")).toBe("old");
      await replaceFile(storage, path, Buffer.from("newer"), 0o600, PURPOSES);
      expect(readFileSync(path, "utf8")).toBe("newer");
    },
  );

  test("and is read up to a limit", async () => {
    const path = `${makeFolder()}/file`;
    writeFileSync(path, "0123456789");
    expect(Buffer.from(await readWholeFile(storage, path, 4)).toString()).toBe("0123");
    expect(Buffer.from(await readWholeFile(storage, path, 400)).toString()).toBe("0123456789");
    // It is read in pieces of 64 KiB.
    for (const sizeBytes of [65_535, 65_536, 65_537, 200_000]) {
      const content = Buffer.from(Array.from({ length: sizeBytes }, (_, index) => index % 251));
      writeFileSync(path, content);
      expect(content.equals(await readWholeFile(storage, path, 1_000_000)), `${sizeBytes} bytes`).toBe(true);
      expect(content.subarray(0, 70_000).equals(await readWholeFile(storage, path, 70_000))).toBe(true);
    }
  });
});

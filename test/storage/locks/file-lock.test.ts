// Locks on imgtx's own files, and who is told to hold a file.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { describeHolders, lockFile, type LockWaiting, makeNodeStorage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { startHolder } from "../../helpers/storage/other-process.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const NO_WAIT: LockWaiting = { waitMs: 0, onWait: () => undefined };
const BYTE = { start: 0, lengthBytes: 1 };

async function makeLockFile() {
  const storage = makeNodeStorage();
  const path = `${makeFolder()}/lock`;
  await (await storage.createFile(path, 0o600)).close();
  return { storage, path, file: await storage.openFile(path, "write") };
}

describe("lockFile", () => {
  test("takes the lock for as long as the file is open", async () => {
    const { storage, path, file } = await makeLockFile();
    await lockFile(storage, file, BYTE, NO_WAIT, "the workspace");
    const second = await storage.openFile(path, "write");
    expect((await failureOf(() => lockFile(storage, second, BYTE, NO_WAIT, "the workspace"))).code).toBe(
      "E_BUSY",
    );
    await file.close();
    await lockFile(storage, second, BYTE, NO_WAIT, "the workspace");
    await second.close();
  });

  test("says at once who has it, by pid and program", async () => {
    const { storage, path, file } = await makeLockFile();
    const other = await startHolder(path, "exclusive");
    const failure = await failureOf(() => lockFile(storage, file, BYTE, NO_WAIT, "the workspace"));
    expect(failure).toMatchObject({ code: "E_BUSY", exitCode: 10, image: path });
    expect(failure.message).toBe(`the workspace is busy: held by pid ${other.pid} (node)`);
    expect(failure.hint).toContain("--wait");
    await file.close();
  });

  test("waits until the other process dies, and announces the wait once", async () => {
    const { storage, path, file } = await makeLockFile();
    const other = await startHolder(path, "exclusive");
    const announced: string[] = [];
    const onWait = (what: string): void => {
      announced.push(what);
      void other.stop();
    };
    const waiting = { waitMs: Number.POSITIVE_INFINITY, onWait };
    await lockFile(storage, file, BYTE, waiting, "transaction t1");
    expect(announced).toEqual([`transaction t1, held by pid ${other.pid} (node)`]);
    expect(readFileSync("/proc/locks", "utf8")).toContain(`:${(await file.stat()).inode} 0 0`);
    await file.close();
  });

  test("bytes of one file are locks of their own", async () => {
    const { storage, path, file } = await makeLockFile();
    await startHolder(path, "exclusive", 2 ** 40);
    await lockFile(storage, file, BYTE, NO_WAIT, "the workspace");
    await file.close();
  });
});

describe("findHolders", () => {
  test("names those with a lock before those that merely have the file open", async () => {
    const { storage, path, file } = await makeLockFile();
    const openers = [await startHolder(path, "none"), await startHolder(path, "none")];
    const locker = await startHolder(path, "shared", 100);
    const holders = await storage.findHolders(await file.stat());
    expect(holders).toEqual([
      { pid: locker.pid, program: "node", holdsLock: true, writes: true },
      ...openers
        .map(({ pid }) => ({ pid, program: "node", holdsLock: false, writes: true }))
        .sort((a, b) => a.pid - b.pid),
    ]);
    expect(describeHolders(holders)).toBe(`pid ${locker.pid} (node)`);
    await file.close();
  });

  const { test: asRoot } = oracle("root");
  asRoot("says that somebody has a lock where /proc hides the process", async () => {
    const { storage, path, file } = await makeLockFile();
    await startHolder(path, "exclusive");
    const stat = await file.stat();
    process.seteuid?.(65_534);
    try {
      const holders = await storage.findHolders(stat);
      expect(holders).toEqual([{ pid: 0, program: "hidden", holdsLock: true }]);
      expect(describeHolders(holders)).toContain("a process that /proc does not show");
    } finally {
      process.seteuid?.(0);
    }
    await file.close();
  });

  test("finds nobody for a file that nobody has open", async () => {
    const { storage, file } = await makeLockFile();
    const stat = await file.stat();
    await file.close();
    expect(await storage.findHolders(stat)).toEqual([]);
  });
});

test("describeHolders names three and counts the rest", () => {
  const holders = [1, 2, 3, 4, 5].map((pid) => ({ pid, program: "qemu-img" }));
  expect(describeHolders(holders)).toBe("pid 1 (qemu-img), pid 2 (qemu-img), pid 3 (qemu-img), 2 more");
});

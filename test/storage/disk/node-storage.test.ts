// Storage on this machine's disk passes the conformance suite, also where the file system can do no more
// than POSIX asks for.

import { copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { SystemCallError } from "../../../src/storage/native/native-functions.ts";
import { loadSystemCalls } from "../../../src/storage/native/system-calls.ts";
import { describeStorage } from "../conformance.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

describeStorage("the real disk", async () => ({ storage: makeNodeStorage(), root: makeFolder("on a disk") }));

const ENOSYS = 38;

function refuse(call: string): () => never {
  return () => {
    throw new SystemCallError(call, ENOSYS);
  };
}

describeStorage("the real disk with locks and nothing else beyond POSIX", async () => ({
  storage: makeNodeStorage({
    loadSystemCalls: () => ({
      ...loadSystemCalls(),
      copyFileRange: async () => refuse("copy_file_range")(),
      clone: async () => refuse("ioctl FICLONE")(),
      punchHole: refuse("fallocate"),
      renameWithoutReplacing: refuse("renameat2"),
    }),
  }),
  root: makeFolder("on a disk"),
}));

describeStorage("the real disk without hard links and without renameat2, as exFAT has neither", async () => ({
  storage: makeNodeStorage({
    loadSystemCalls: () => ({ ...loadSystemCalls(), renameWithoutReplacing: refuse("renameat2") }),
    link: refuse("link"),
  }),
  root: makeFolder("on a disk"),
}));

test("a name that is taken stays what it is where there are neither hard links nor renameat2", async () => {
  const root = makeFolder("on a disk");
  const storage = makeNodeStorage({
    loadSystemCalls: () => ({ ...loadSystemCalls(), renameWithoutReplacing: refuse("renameat2") }),
    link: refuse("link"),
  });
  writeFileSync(`${root}/a`, "ours");
  for (const content of ["", "somebody's"]) {
    writeFileSync(`${root}/b`, content);
    const failure = await failureOf(() => storage.renameWithoutReplacing(`${root}/a`, `${root}/b`));
    expect(failure.code).toBe("E_EXISTS");
    expect([readFileSync(`${root}/a`, "utf8"), readFileSync(`${root}/b`, "utf8")]).toEqual(["ours", content]);
  }
  const gone = await failureOf(() => storage.renameWithoutReplacing(`${root}/none`, `${root}/c`));
  expect([gone.code, existsSync(`${root}/c`)]).toEqual(["E_NOT_FOUND", false]);
});

test("a file stays the one that is open where each name has a number of its own, as in sshfs", async () => {
  const root = makeFolder("on a disk");
  const storage = makeNodeStorage({
    loadSystemCalls: () => ({ ...loadSystemCalls(), renameWithoutReplacing: refuse("renameat2") }),
    link: copyFileSync,
  });
  writeFileSync(`${root}/a`, "ours");
  const { inode } = (await storage.stat(`${root}/a`)) ?? {};
  await storage.renameWithoutReplacing(`${root}/a`, `${root}/b`);
  expect(await storage.stat(`${root}/b`)).toMatchObject({ inode, names: 1 });
  expect([readFileSync(`${root}/b`, "utf8"), existsSync(`${root}/a`)]).toEqual(["ours", false]);
});

test("a file where a mount answers from what it has asked before is opened with the size that it has now", async () => {
  const path = `${makeFolder("on a disk")}/a`;
  writeFileSync(path, "old");
  // What the other end has, and the mount does not know yet.
  const refreshStat = (): void => {
    writeFileSync(path, "old, and new");
  };
  const open = async (keeps: boolean): Promise<number> => {
    const loadCalls = () => ({ ...loadSystemCalls(), refreshStat });
    const storage = makeNodeStorage({ loadSystemCalls: loadCalls, keepsInodes: () => keeps });
    const file = await storage.openFile(path, "read");
    const { sizeBytes } = await file.stat();
    await file.close();
    return sizeBytes;
  };
  expect([await open(true), await open(false)]).toEqual([3, 12]);
});

test("threads are asked for where many files are about to be flushed, and sixteen at most", () => {
  const asked: number[] = [];
  const growPool = (threads: number): void => void asked.push(threads);
  const storage = makeNodeStorage({ loadSystemCalls: () => ({ ...loadSystemCalls(), growPool }) });
  for (const files of [0, 1, 7, 8, 16, 17, 500]) storage.expectFlushes?.(files);
  expect(asked).toEqual([8, 16, 16, 16]);
});

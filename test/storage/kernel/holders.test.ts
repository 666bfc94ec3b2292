// Who has a file open, where the list of locks changed while it was read: the kernel hands it out in pages, and a lock
// that comes or goes between two of them has others told twice.

import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { afterEach, expect, test, vi } from "vitest";
import { type LockWaiting, lockFile, makeNodeStorage } from "../../../src/storage/index.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const NO_WAIT: LockWaiting = { waitMs: 0, onWait: () => undefined };

afterEach(() => {
  vi.restoreAllMocks();
  syncBuiltinESMExports();
});

test("a lock of this process that is told twice is nobody else's", async () => {
  const storage = makeNodeStorage();
  const file = await storage.createFile(`${makeFolder()}/lock`, 0o600);
  await lockFile(storage, file, { start: 0, lengthBytes: 1 }, NO_WAIT, "the workspace");
  const { inode } = await file.stat();
  const lines = fs.readFileSync("/proc/locks", "utf8").split("\n");
  const told = lines.find((line) => line.includes(`:${inode} `)) ?? "";
  // What is read by another thread here is the list.
  const lists = [`${told}\n`, `${told}\n`, ""];
  const read = vi.spyOn(fs, "read").mockImplementation(((
    ...[, into, , , , done]: [number, Buffer, number, number, null, (error: null, count: number) => void]
  ) => {
    done(null, into.write(lists.shift() ?? ""));
  }) as unknown as typeof fs.read);
  syncBuiltinESMExports();
  expect(await storage.findHolders(await file.stat())).toEqual([]);
  expect(read).toHaveBeenCalledTimes(3);
  await file.close();
});

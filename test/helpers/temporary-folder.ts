// A folder of its own for each test, removed after it, or for the tests of a file; and a real storage that counts what is
// left open.

import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { onTestFinished } from "vitest";
import { makeNodeStorage, type Storage } from "../../src/storage/index.ts";

/**
 * The real path of a new folder, for the test that is running. Temporary folders may lie in memory (vitest.config.ts):
 * what is about a real disk's file system asks for one there.
 */
export function makeFolder(place: "anywhere" | "on a disk" = "anywhere"): string {
  const root = (place === "on a disk" && process.env["IMGTX_TEST_DISK"]) || tmpdir();
  const folder = realpathSync(mkdtempSync(`${root}/imgtx-test-`));
  onTestFinished(() => {
    rmSync(folder, { recursive: true, force: true });
  });
  return folder;
}

const ends: (() => void)[] = [];

/** What is to be done when all tests of the running file have ended: the modules stay loaded for the next one. */
export function afterFile(end: () => void): void {
  ends.push(end);
}

export function endFile(): void {
  for (const end of ends.splice(0)) end();
}

/** The real path of a new folder that stays until all tests of the file have ended. */
export function makeFolderOfFile(): string {
  const folder = realpathSync(mkdtempSync(`${tmpdir()}/imgtx-test-`));
  afterFile(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export interface WatchedStorage {
  readonly storage: Storage;
  /** Paths in the order of their opening. */
  readonly opened: string[];
  /** Files that are open now. */
  readonly countOpen: () => number;
}

export function watchStorage(): WatchedStorage {
  const real = makeNodeStorage();
  const opened: string[] = [];
  let open = 0;
  const storage: Storage = {
    ...real,
    async openFile(path, access, options) {
      const file = await real.openFile(path, access, options);
      const close = file.close.bind(file);
      let closed = false;
      opened.push(path);
      open += 1;
      file.close = async () => {
        if (!closed) open -= 1;
        closed = true;
        await close();
      };
      return file;
    },
  };
  return { storage, opened, countOpen: () => open };
}

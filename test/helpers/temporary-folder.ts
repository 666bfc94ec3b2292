// A folder of its own for each test, removed after it, and a real storage that counts what is left open.

import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { onTestFinished } from "vitest";
import { makeNodeStorage, type Storage } from "../../src/storage/index.ts";

/** The real path of a new folder, for the test that is running. */
export function makeFolder(): string {
  const folder = realpathSync(mkdtempSync(`${tmpdir()}/imgtx-test-`));
  onTestFinished(() => {
    rmSync(folder, { recursive: true, force: true });
  });
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

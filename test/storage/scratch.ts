// A folder of its own for each test, removed when the test is over.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { onTestFinished } from "vitest";

export function makeScratchFolder(): string {
  const folder = mkdtempSync(`${tmpdir()}/imgtx-storage-`);
  onTestFinished(() => {
    rmSync(folder, { recursive: true, force: true });
  });
  return folder;
}

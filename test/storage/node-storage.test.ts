// Storage on this machine's disk: the conformance suite, and what only a real disk has.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { afterEach } from "vitest";
import { makeNodeStorage } from "../../src/storage/index.ts";
import { describeStorage } from "./conformance.ts";

const folders: string[] = [];

function makeScratchFolder(): string {
  const folder = mkdtempSync(`${tmpdir()}/imgtx-storage-`);
  folders.push(folder);
  return folder;
}

afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

describeStorage("the real disk", async () => ({ storage: makeNodeStorage(), root: makeScratchFolder() }));

// Whether files of tests can say which workspaces know them: not on each file system.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { makeNodeStorage } from "../../src/storage/index.ts";

async function tryOne(): Promise<boolean> {
  const folder = mkdtempSync(`${tmpdir()}/imgtx-attributes-`);
  try {
    return await makeNodeStorage().setAttribute(folder, "user.imgtx.workspaces", Buffer.from("[]"));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

export const canSayWorkspaces = await tryOne();

// Makes a workspace.
//
// Invariant: a workspace is there once .imgtx/table.json is. What init makes before that is harmless, and making
// it again goes on from wherever a crash left it. Made under another name and renamed, it would leave folders that nobody
// could tell from one being made.

import { ImgtxError } from "../errors/index.ts";
import type { Storage } from "../storage/index.ts";
import { firstTable } from "./device-table.ts";
import { assertFolders } from "./lost-parts.ts";
import { replaceFile } from "./replace-file.ts";
import { encodeForHere, FILE_MODE, pathsOf, refuseForeignDevices, type Workspace } from "./workspace.ts";
import { lockAsItIs } from "./workspace-lock.ts";

const FOLDER_MODE = 0o755;

/** Makes the workspace durably where it is not there yet. True when this call made it. */
export async function makeWorkspace(workspace: Workspace, committed: string): Promise<boolean> {
  const { storage, root } = workspace;
  const paths = pathsOf(workspace);
  if (await storage.stat(paths.table)) return false;
  await refuseForeignDevices(workspace);
  await assertFolders(workspace);
  for (const folder of [paths.own, paths.history, paths.journals, paths.views]) {
    await makeFolderUnlessThere(storage, folder);
  }
  const lock = await lockAsItIs(workspace, { waitMs: 10_000, onWait: () => undefined });
  try {
    if (await storage.stat(paths.table)) return false;
    // Before the table has its name: whoever finds the table takes all of the workspace for made.
    await storage.flushFolder(paths.own, "folders in .imgtx");
    await storage.flushFolder(root, "the workspace's own folder");
    const content = await encodeForHere(workspace, firstTable(committed));
    await replaceFile(storage, paths.table, content, FILE_MODE, {
      content: "first table",
      name: "names in .imgtx",
    });
    return true;
  } finally {
    await lock.close();
  }
}

async function makeFolderUnlessThere(storage: Storage, path: string): Promise<void> {
  if (await storage.stat(path)) return;
  await unlessThere(async () => await storage.makeFolder(path, FOLDER_MODE));
}

/** Another process that makes the same workspace at the same moment is welcome. */
async function unlessThere(make: () => Promise<void>): Promise<void> {
  try {
    await make();
  } catch (error) {
    if (!(error instanceof ImgtxError && error.code === "E_EXISTS")) throw error;
  }
}

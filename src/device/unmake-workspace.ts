// Takes a workspace beside an image away, when nothing in it is open or unfinished any more.
//
// Invariants
// - Its lock is held until nothing but the lock is left: whoever wants to make a journal there meanwhile waits for it,
//   and finds then that the workspace has to be made anew.
// - Only what imgtx made goes, name by name. What somebody else put there stays, with the folders that it lies in, and
//   so do journals that were given up.
// - The last journal is gone durably before the table goes: a journal without a table would be a damaged workspace.

import { posix } from "node:path";
import { unlessItFails } from "../errors/index.ts";
import type { Storage } from "../storage/index.ts";
import { isClaimName } from "./lock/claims.ts";
import { pathsOf, type Workspace } from "./workspace/workspace.ts";
import { lockWorkspaceIfFree } from "./lock/workspace-lock.ts";

const OWN_FILE = /^(table|\d{6,15})\.json(\.new)?$/;

/**
 * Does nothing where another command has the workspace, or a journal is in it. It may be cut off while it was made or
 * taken away, or be a copy.
 */
export async function unmakeWorkspace(workspace: Workspace): Promise<void> {
  const { storage, root } = workspace;
  const { own, journals, claims, lock: lockPath } = pathsOf(workspace);
  if (!(await storage.statLink(own))) {
    await removeView(workspace);
    await removeIfEmpty(storage, root);
    return;
  }
  const lock = await lockWorkspaceIfFree(workspace, { asItIs: true });
  if (!lock) return;
  try {
    if (await storage.statLink(journals)) {
      if ((await storage.readFolder(journals)).length > 0) return;
      await storage.flushFolder(journals, "last journal gone");
    }
    await removeOwnIn(storage, own);
    await removeView(workspace);
    await storage.removeFile(lockPath);
    for (const folder of [own, root]) await removeIfEmpty(storage, folder);
  } finally {
    await lock.close();
  }
  if (!(await storage.statLink(claims))) return;
  // Its own claim has gone with the lock: what is in there now is somebody else's, and stays.
  for (const folder of [claims, own, root]) await removeIfEmpty(storage, folder);
}

async function removeView(workspace: Workspace): Promise<void> {
  const { storage } = workspace;
  const { devices } = pathsOf(workspace);
  if ((await storage.statLink(devices))?.kind !== "symlink") return;
  if ((await storage.readSymlink(devices)).startsWith(".imgtx/")) await storage.removeFile(devices);
}

async function removeOwnIn(storage: Storage, folder: string): Promise<void> {
  for (const name of await storage.readFolder(folder)) {
    const path = posix.join(folder, name);
    if (isClaimName(name)) continue;
    const kind = (await storage.statLink(path))?.kind;
    if (kind === "folder") {
      await removeOwnIn(storage, path);
      await removeIfEmpty(storage, path);
    } else if (kind === "symlink" || (kind === "file" && OWN_FILE.test(name))) {
      await storage.removeFile(path);
    }
  }
}

export async function removeIfEmpty(storage: Storage, folder: string): Promise<void> {
  await unlessItFails(() => storage.removeFolder(folder, { onlyEmpty: true }), ["E_EXISTS"]);
}

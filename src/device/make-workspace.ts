// Makes a workspace.
//
// Invariant: a workspace is there once .imgtx/table.json is. What init makes before that is harmless, and making
// it again goes on from wherever a crash left it. Made under another name and renamed, it would leave folders that nobody
// could tell from one being made.

import { posix } from "node:path";
import { unlessItFails, whileOpen } from "../errors/index.ts";
import type { Storage } from "../storage/index.ts";
import { inTheWay } from "./workspace/in-the-way.ts";
import { assertFolders } from "./workspace/lost-parts.ts";
import { replaceFile } from "./workspace/replace-file.ts";
import { assertUsable } from "./workspace/ownership.ts";
import {
  encodeForHere,
  FILE_MODE,
  firstTableOf,
  pathsOf,
  refuseForeignDevices,
  type Workspace,
} from "./workspace/workspace.ts";
import { lockAsItIs } from "./lock/workspace-lock.ts";

const FOLDER_MODE = 0o755;

/** Makes the workspace durably where it is not there yet. True when this call made it. */
export async function makeWorkspace(workspace: Workspace, committed: string): Promise<boolean> {
  const { storage, root } = workspace;
  const paths = pathsOf(workspace);
  if (await storage.stat(paths.table)) return false;
  if (workspace.first) await makeRoot(workspace);
  await refuseForeignDevices(workspace);
  await assertFolders(workspace);
  for (const folder of [paths.own, paths.history, paths.journals, paths.views]) {
    await makeFolderUnlessThere(storage, folder);
  }
  const lock = await lockAsItIs(workspace, { waitMs: 10_000, onWait: () => undefined });
  return await whileOpen(lock, async () => {
    if (await storage.stat(paths.table)) return false;
    // Before the table has its name: whoever finds the table takes all of the workspace for made.
    await storage.flushFolder(paths.own, "folders in .imgtx");
    await storage.flushFolder(root, "the workspace's own folder");
    for (const folder of foldersAbove(workspace))
      await storage.flushFolder(folder, "workspace beside its image");
    const content = await encodeForHere(workspace, firstTableOf(workspace, committed));
    await replaceFile(storage, paths.table, content, FILE_MODE, {
      content: "first table",
      name: "names in .imgtx",
    });
    return true;
  });
}

/** The folder of files that snapshots keep beside disks, durably: before a journal names a file in it. */
export async function makeFolderBeside(workspace: Workspace): Promise<void> {
  const { storage } = workspace;
  const { own, beside } = pathsOf(workspace);
  await makeFolderUnlessThere(storage, beside);
  // Also where it is there: whoever made it may have died before it was durable.
  await storage.flushFolder(own, "folder of files beside");
}

/** Those that have to know it: of the folder of a block device all above it, any of which may have been made for it just now. */
function foldersAbove({ root, first }: Workspace): string[] {
  if (!first) return [];
  const folders = [posix.dirname(root)];
  if (isBesideItsImage(root, first)) return folders;
  for (let at = posix.dirname(root); at !== "/"; at = posix.dirname(at)) folders.push(posix.dirname(at));
  return folders;
}

function isBesideItsImage(root: string, { chain }: NonNullable<Workspace["first"]>): boolean {
  return chain.some(({ image }) => posix.dirname(image) === posix.dirname(root));
}

async function makeFoldersTo(storage: Storage, folder: string): Promise<void> {
  if (await storage.stat(folder)) return;
  await makeFoldersTo(storage, posix.dirname(folder));
  await makeFolderUnlessThere(storage, folder);
}

/** The folder beside an image. What has its name already may be another user's, or lead elsewhere. */
async function makeRoot({ storage, root }: Workspace): Promise<void> {
  await makeFoldersTo(storage, posix.dirname(root));
  await makeFolderUnlessThere(storage, root);
  if ((await storage.statLink(root))?.kind !== "folder")
    throw inTheWay(root, "the journal of the image beside it");
  await assertUsable(storage, root, { wasNamed: true, safe: [] });
}

async function makeFolderUnlessThere(storage: Storage, path: string): Promise<void> {
  if (await storage.statLink(path)) return;
  await unlessThere(async () => await storage.makeFolder(path, FOLDER_MODE));
}

/** Another process that makes the same workspace at the same moment is welcome. */
async function unlessThere(make: () => Promise<void>): Promise<void> {
  await unlessItFails(make, ["E_EXISTS"]);
}

// Whether a workspace is itself, or a copy: one made by cp, or put back from a backup. The journals of a copy
// speak of what the original has finished or undone long since, and of images that the original, or a guest,
// goes on writing to. So a copy is read, and nothing in it is finished, undone or changed.

import { ImgtxError } from "../../errors/index.ts";
import { identityOf, shellQuote } from "../../format/index.ts";
import { kindOfFileSystem } from "../../storage/index.ts";
import type { TableMark } from "../table/device-table.ts";
import { isMarkedFile } from "../table/file-mark.ts";
import { type PresentTable, readPresent } from "../history/present-table.ts";
import { pathsOf, readMovedAway, readTableFile, type Workspace } from "../workspace/workspace.ts";

/** A line that says why the workspace is a copy; undefined where it is itself. */
export async function describeCopy(workspace: Workspace): Promise<string | undefined> {
  const present = await readPresent(workspace);
  const { table, mark, stat } = present;
  if (mark === null || stat === undefined) return undefined;
  if (mark.comesFrom !== undefined) return await sayComing(workspace, mark.comesFrom);
  const { storage, root } = workspace;
  const isItself =
    (await isMarkedFile(storage, pathsOf(workspace).table, stat, mark)) &&
    (await isInItsFolder(workspace, mark));
  if (isItself && (mark.root === root || !(await isOriginalAt(workspace, mark.root, present))))
    return undefined;
  const where = mark.root === root ? "here" : `in ${mark.root}`;
  return (
    `this workspace is a copy, or was put back from one: its table is that of generation ${table.generation}, ` +
    `of ${table.committed}, ${where}`
  );
}

/**
 * `cp -al` makes folders of its own for the very same files. Where directories may have another number after each mount,
 * as in an overlay, that tells nothing.
 */
async function isInItsFolder(workspace: Workspace, { folder }: TableMark): Promise<boolean> {
  const { own } = pathsOf(workspace);
  const there = folder && (await workspace.storage.stat(own));
  if (!folder || !there || !kindOfFileSystem(there.fileSystemId).keepsTimes) return true;
  return await isMarkedFile(workspace.storage, own, there, folder);
}

/** What a move of a workspace was making here when it was cut off. */
async function sayComing({ storage, root }: Workspace, from: string): Promise<string> {
  const moved = await readMovedAway({ storage, root: from });
  if (moved?.to === root) {
    return `the move of the workspace ${from} to here has not been ended: \`imgtx --workspace ${shellQuote(root)} recover\` does`;
  }
  return (
    `it is what a move of the workspace ${from} was making here, which that one has not changed to; ` +
    `\`imgtx relocate ${shellQuote(from)} ${shellQuote(root)}\` goes on with it`
  );
}

/** The way out, for whoever meets a copy. */
export function howToAdopt({ root }: Workspace): string {
  return `\`imgtx init --adopt ${shellQuote(root)}\` says what it forgets and makes it a workspace of its own`;
}

/** E_REFUSED in a copy. Asked before anything is written. */
export async function assertOwn(workspace: Workspace): Promise<void> {
  const why = await describeCopy(workspace);
  if (why === undefined) return;
  throw new ImgtxError("E_REFUSED", why, { image: pathsOf(workspace).own, hint: howToAdopt(workspace) });
}

/**
 * Whether the workspace that the table was written in is still where it was, beside this one: a snapshot of a
 * whole file system keeps inode numbers and birth times.
 */
async function isOriginalAt(here: Workspace, root: string, { table, stat }: PresentTable): Promise<boolean> {
  const { storage } = here;
  const other = { storage, root };
  const path = pathsOf(other).table;
  try {
    const there = await storage.stat(path);
    if (there?.kind !== "file" || table.workspaceId === null) return false;
    if (stat !== undefined && identityOf(there) === identityOf(stat))
      return !(await areOneFolder(here, other));
    const stored = await readTableFile(other, path);
    return (
      stored.table.workspaceId === table.workspaceId &&
      (await isMarkedFile(storage, path, there, stored.mark))
    );
  } catch (error) {
    // What can't be read there is no workspace that this one would be a copy of.
    if (error instanceof ImgtxError) return false;
    throw error;
  }
}

/** One workspace by two paths, as a bind mount makes it; else the files in it have two names, in two workspaces. */
async function areOneFolder(a: Workspace, b: Workspace): Promise<boolean> {
  const [one, other] = [await a.storage.stat(pathsOf(a).own), await b.storage.stat(pathsOf(b).own)];
  return one !== undefined && other !== undefined && identityOf(one) === identityOf(other);
}

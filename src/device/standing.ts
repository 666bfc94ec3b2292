// Whether a workspace is itself, or a copy: one made by cp, or put back from a backup. The journals of a copy
// speak of what the original has finished or undone long since, and of images that the original, or a guest,
// goes on writing to. So a copy is read, and nothing in it is finished, undone or changed.

import { ImgtxError } from "../errors/index.ts";
import { shellQuote } from "../format/index.ts";
import { isMarkedFile } from "./file-mark.ts";
import { pathsOf, type PresentTable, readPresent, readTableFile, type Workspace } from "./workspace.ts";

/** A line that says why the workspace is a copy; undefined where it is itself. */
export async function describeCopy(workspace: Workspace): Promise<string | undefined> {
  const present = await readPresent(workspace);
  const { table, mark, stat } = present;
  if (mark === null || stat === undefined) return undefined;
  const { storage, root } = workspace;
  const isItself = await isMarkedFile(storage, pathsOf(workspace).table, stat, mark);
  if (isItself && (mark.root === root || !(await isOriginalAt(workspace, mark.root, present))))
    return undefined;
  const where = mark.root === root ? "here" : `in ${mark.root}`;
  return (
    `this workspace is a copy, or was put back from one: its table is that of generation ${table.generation}, ` +
    `of ${table.committed}, ${where}`
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
async function isOriginalAt(
  { storage }: Workspace,
  root: string,
  { table, stat }: PresentTable,
): Promise<boolean> {
  const other = { storage, root };
  const path = pathsOf(other).table;
  try {
    const there = await storage.stat(path);
    if (there?.kind !== "file" || table.workspaceId === null) return false;
    // One workspace by two paths: a bind mount.
    if (there.fileSystem === stat?.fileSystem && there.inode === stat.inode) return false;
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

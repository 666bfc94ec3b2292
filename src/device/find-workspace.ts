// Which workspace a command works in.

import { posix } from "node:path";
import { ImgtxError } from "../errors/index.ts";
import type { Storage } from "../storage/index.ts";
import { realFolder } from "./stored-path.ts";
import { pathsOf, type Workspace } from "./workspace.ts";

/**
 * The workspace that a command works in: the named one, else the nearest at startFolder or above it.
 * E_NO_WORKSPACE where there is none.
 */
export async function findWorkspace(
  storage: Storage,
  startFolder: string,
  named: string | undefined,
): Promise<Workspace> {
  const from = await realFolder(storage, named ?? startFolder);
  for (let folder = from; ; folder = posix.dirname(folder)) {
    if (await storage.stat(`${folder}/.imgtx/table.json`)) return { storage, root: folder };
    if (named !== undefined || folder === "/") break;
  }
  throw new ImgtxError(
    "E_NO_WORKSPACE",
    named === undefined ? "no workspace here or in a folder above" : `'${named}' is not a workspace`,
    { image: from, hint: "make one with `imgtx init`, or name one with --workspace" },
  );
}

/** The workspace that folder would be; nothing is made, and nothing needs to be there but the folder. */
export async function workspaceAt(storage: Storage, folder: string): Promise<Workspace> {
  return { storage, root: await realFolder(storage, folder) };
}

/** Whether the workspace is there, and not only the place for it. */
export async function isWorkspaceMade(workspace: Workspace): Promise<boolean> {
  return (await workspace.storage.stat(pathsOf(workspace).table)) !== undefined;
}

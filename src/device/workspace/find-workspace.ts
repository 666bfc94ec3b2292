// Which workspace a command works in.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import { shellQuote } from "../../format/index.ts";
import type { Storage } from "../../storage/index.ts";
import { ownedStorage } from "./owned-storage.ts";
import { assertUsable, linkRefusal, type OtherOwner, ROOT, type Trust } from "./ownership.ts";
import { assertFolder, realFolder } from "../table/stored-path.ts";
import { pathsOf, type Workspace } from "./workspace.ts";

/**
 * The workspace that a command works in: the named one, else the nearest at startFolder or above it.
 * E_NO_WORKSPACE where there is none; E_NOT_OWNER where it is not the caller's to use; E_CORRUPT where its table
 * is lost.
 */
export async function findWorkspace(
  storage: Storage,
  startFolder: string,
  named: string | undefined,
  safe: readonly string[] = [],
): Promise<Workspace> {
  const from = await realFolder(storage, named ?? startFolder);
  const trust = { wasNamed: named !== undefined, safe };
  for (let folder = from; ; folder = posix.dirname(folder)) {
    const found = await lookAt(storage, folder, trust);
    if (found) return found;
    if (named !== undefined || folder === "/") break;
  }
  throw isNoWorkspace(from, named === undefined ? "no workspace here or in a folder above" : undefined);
}

export function isNoWorkspace(folder: string, text = `'${folder}' is not a workspace`): ImgtxError {
  return new ImgtxError("E_NO_WORKSPACE", text, {
    image: folder,
    hint: "make one with `imgtx init`, or name one with --workspace",
  });
}

async function lookAt(storage: Storage, folder: string, trust: Trust): Promise<Workspace | undefined> {
  const paths = pathsOf({ storage, root: folder });
  const own = await storage.statLink(paths.own);
  if (!own) return undefined;
  if (own.kind === "symlink") throw await linkRefusal(storage, paths.own);
  const table = await storage.statLink(paths.table);
  if (!table && !(await wasWorkspace({ storage, root: folder }))) return undefined;
  const owner = await assertUsable(storage, folder, trust);
  if (table?.kind === "file") return belongingTo(storage, folder, owner);
  throw new ImgtxError("E_CORRUPT", table ? "the device table is not a file" : "the device table is lost", {
    image: paths.table,
    hint: `\`imgtx init --restore ${shellQuote(folder)}\` puts back the generation before it`,
  });
}

/** Whether a folder without a table had one: where making a workspace was cut off, nothing had happened yet. */
async function wasWorkspace(workspace: Workspace): Promise<boolean> {
  const { history, journals } = pathsOf(workspace);
  for (const folder of [history, journals]) {
    if ((await workspace.storage.statLink(folder))?.kind !== "folder") continue;
    if ((await workspace.storage.readFolder(folder)).some((name) => /\.(json|journal)$/.test(name)))
      return true;
  }
  return false;
}

/**
 * The workspace that folder would be; nothing is made, and nothing needs to be there but the folder. E_NOT_OWNER
 * where it is not the caller's to use.
 */
export async function workspaceAt(
  storage: Storage,
  folder: string,
  safe: readonly string[] = [],
): Promise<Workspace> {
  const root = await realFolder(storage, folder);
  await assertFolder(storage, root, folder);
  const owner = await assertUsable(storage, root, { wasNamed: true, safe });
  return belongingTo(storage, root, owner);
}

/** Whoever else makes files there can make them for no other user. */
function belongingTo(storage: Storage, root: string, owner: OtherOwner): Workspace {
  if (!owner) return { storage, root };
  const own = storage.host.userId === ROOT ? ownedStorage(storage, root, owner) : storage;
  return { storage: own, root, ownerId: owner.ownerId };
}

/** Whether the workspace is there, and not only the place for it. */
export async function isWorkspaceMade(workspace: Workspace): Promise<boolean> {
  return (await workspace.storage.stat(pathsOf(workspace).table)) !== undefined;
}

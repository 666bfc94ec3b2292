// Parts of .imgtx that were lost: empty folders that a backup or rsync left out, a file that somebody removed. What
// they held is gone; made again, they let everything go on. The table is another matter: see ownership and restore.

import { inTheWay } from "./in-the-way.ts";
import { pathsOf, type Workspace } from "./workspace.ts";

export type Part = "journal" | "history" | "view";

const FOLDER_MODE = 0o755;

export async function findLostParts(workspace: Workspace): Promise<Part[]> {
  const lost: Part[] = [];
  for (const [part, path] of partsOf(workspace))
    if (!(await workspace.storage.statLink(path))) lost.push(part);
  return lost;
}

/** E_EXISTS where something that is no folder stands in the place of a part that is one. */
export async function assertFolders(workspace: Workspace): Promise<void> {
  const { own, snapshots, givenUp, beside, hooks, volumes, claims } = pathsOf(workspace);
  const parts = partsOf(workspace).map(([, part]) => part);
  for (const path of [own, ...parts, snapshots, givenUp, beside, hooks, volumes, claims]) {
    const there = await workspace.storage.statLink(path);
    if (there && there.kind !== "folder") throw inTheWay(path, "a folder of its own");
  }
}

/** The caller holds the workspace lock. */
export async function makeLostParts(workspace: Workspace): Promise<Part[]> {
  const { storage } = workspace;
  const lost = await findLostParts(workspace);
  const paths = new Map(partsOf(workspace));
  for (const part of lost) await storage.makeFolder(paths.get(part) ?? "", FOLDER_MODE);
  if (lost.length > 0) await storage.flushFolder(pathsOf(workspace).own, "folders made again in .imgtx");
  return lost;
}

function partsOf(workspace: Workspace): readonly (readonly [Part, string])[] {
  const { journals, history, views } = pathsOf(workspace);
  return [
    ["journal", journals],
    ["history", history],
    ["view", views],
  ];
}

// Journals that nobody goes on with: kept as records, where they hold no device and nothing is done by them.

import { pathsOf, type Workspace } from "../../device/index.ts";
import { journalPath } from "../journal/index.ts";

export function givenUpPath(workspace: Workspace, id: string): string {
  return `${pathsOf(workspace).givenUp}/${id}.journal`;
}

/** Out of the folder in which journals count, durably. */
export async function setAside(workspace: Workspace, ids: readonly string[]): Promise<void> {
  const { storage } = workspace;
  const { givenUp, own, journals } = pathsOf(workspace);
  if (ids.length === 0) return;
  if (!(await storage.statLink(givenUp))) {
    await storage.makeFolder(givenUp, 0o700);
    await storage.flushFolder(own, "folder of forgotten journals");
  }
  for (const id of ids) await storage.rename(journalPath(workspace, id), givenUpPath(workspace, id));
  await storage.flushFolder(givenUp, "forgotten journals");
  await storage.flushFolder(journals, "forgotten journals' old names");
}

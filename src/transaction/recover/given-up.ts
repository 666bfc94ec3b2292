// Journals that nobody goes on with: kept as records, where they hold no device and nothing is done by them. What they say
// of files that were made is what an undo goes by.
//
// Invariant: one that was not written here speaks of another workspace's files, or of those of another time, and tells nothing.

import { type DeviceTable, pathsOf, type Workspace } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { isPlaceholder } from "../../format/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import { whyNotAsMade } from "../images/removal.ts";
import { journalPath, readJournal } from "../journal/index.ts";

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

/** A file that a transaction was to have taken back. */
export interface LeftFile {
  readonly path: string;
  /** Why it is not what the transaction made; undefined: it is. */
  readonly whyNotOurs: (file: StorageFile) => Promise<string | undefined>;
}

/**
 * Files of transactions that were given up before their commit mark, the newest first. None where the workspace was copied: they
 * may be the original's.
 */
export async function filesGivenUp(workspace: Workspace, table: DeviceTable): Promise<readonly LeftFile[]> {
  const { storage } = workspace;
  const { givenUp } = pathsOf(workspace);
  if (table.adopted !== undefined || (await storage.statLink(givenUp))?.kind !== "folder") return [];
  // Else a journal does not know whether it was written here.
  if (!(await storage.describeFileSystem(givenUp)).keepsInodes) return [];
  const files: LeftFile[] = [];
  for (const name of await storage.readFolder(givenUp)) {
    const id = /^([a-z0-9]+)\.journal$/.exec(name)?.[1];
    const journal = id === undefined ? undefined : await readJournal(workspace, id, `${givenUp}/${name}`);
    if (!journal || journal.state instanceof ImgtxError || journal.state.commit) continue;
    for (const { plan, prepared, undone } of journal.state.statements.toReversed()) {
      if (undone) continue;
      const byName = [...plan.redo.map(({ log }) => log), ...plan.newFiles.map(({ staging }) => staging)];
      files.push(...byName.map((path) => ({ path, whyNotOurs: () => Promise.resolve(undefined) })));
      for (const { path, staging } of plan.newFiles.toReversed()) {
        const made = prepared?.files.find((one) => one.path === path);
        if (!made || path === staging) continue;
        files.push({
          path,
          whyNotOurs: async (file) =>
            (await isPlaceholder(file, staging)) ? undefined : await whyNotAsMade(storage, file, made),
        });
      }
    }
  }
  return files;
}

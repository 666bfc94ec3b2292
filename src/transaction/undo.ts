// Takes back what statements made. Idempotent, and the same code for a failed statement, an abort, a
// rollback to a savepoint and recovery.
//
// Invariants
// - A file goes only when it is ours: by its staging name, which holds the transaction's id, or by the
//   inode and birth time that the journal recorded before the file got its final name.
// - A file that the present table refers to never goes, whatever a journal says.
// - Undone is only what was seen to: a file that is gone, on a disk that is there. Of one whose disk is away nothing is
//   known, and the journal stays until it is back, or until somebody gives it up.

import { posix } from "node:path";
import { type DeviceTable, readTable, type Workspace } from "../device/index.ts";
import { ImgtxError } from "../errors/index.ts";
import { isSameFile } from "../format/index.ts";
import type { Journal, Statement } from "./journal/index.ts";
import { diskIsAway, isDiskThere } from "./planned-folders.ts";
import type { KeptFile } from "./request.ts";
import { undoPatches } from "./undo-patches.ts";

/** Returns what it left as it is. */
export async function undoStatements(
  workspace: Workspace,
  statements: readonly Statement[],
): Promise<KeptFile[]> {
  refuseWhatTheTableUses(await readTable(workspace), statements);
  const kept: KeptFile[] = [];
  const away: string[] = [];
  const folders = new Set<string>();
  for (const statement of statements.toReversed()) {
    kept.push(...(await undoPatches(workspace.storage, statement, (image) => away.push(image))));
    for (const { path } of statement.plan.newFiles) {
      if (!(await removeMade(workspace, statement, path))) away.push(path);
      // Also where nothing was left to remove: a process that died may have removed it, and not durably.
      folders.add(posix.dirname(path));
    }
  }
  await flushFolders(workspace, folders);
  // All that can be seen is undone by then: what is left is tried again as long as the journal is there.
  throwIfAway(away);
  return kept;
}

/**
 * The same with whatever can't be taken back left as it is and named: what is lost, what others changed, what a disk
 * does not let go.
 */
export async function undoWhatCanBe(
  workspace: Workspace,
  statements: readonly Statement[],
): Promise<KeptFile[]> {
  const kept: KeptFile[] = [];
  const orKeep = async (path: string, work: () => Promise<void>): Promise<void> => {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      kept.push({ path, why: error.message });
    }
  };
  const folders = new Set<string>();
  for (const statement of statements.toReversed()) {
    const { plan } = statement;
    for (const image of new Set(plan.patches.map((patch) => patch.image))) {
      const patches = plan.patches.filter((patch) => patch.image === image);
      await orKeep(image, async () => {
        const alone = { ...statement, plan: { ...plan, patches } };
        const onAway = (): void => throwIfAway([image]);
        kept.push(...(await undoPatches(workspace.storage, alone, onAway)));
      });
    }
    for (const newFile of plan.newFiles) {
      const { path } = newFile;
      await orKeep(path, async () => {
        const alone = { ...statement, plan: { ...plan, newFiles: [newFile] } };
        refuseWhatTheTableUses(await readTable(workspace), [alone]);
        if (!(await removeMade(workspace, statement, path))) throwIfAway([path]);
        folders.add(posix.dirname(path));
      });
    }
  }
  await flushFolders(workspace, folders);
  return kept;
}

/** Removes what is ours of a new file. False where its disk is not there, and nothing is known of it. */
async function removeMade(
  { storage }: Workspace,
  { plan, prepared }: Statement,
  path: string,
): Promise<boolean> {
  const newFile = plan.newFiles.find((file) => file.path === path);
  const fingerprint = prepared?.files.find((file) => file.path === path)?.fingerprint;
  const named = fingerprint && (await storage.statLink(path));
  const gone = [
    newFile && (await storage.statLink(newFile.staging)) ? newFile.staging : [],
    named && isSameFile(fingerprint, named) ? path : [],
  ].flat();
  for (const file of gone) await storage.removeFile(file);
  return gone.length > 0 || named !== undefined || (await isDiskThere(storage, path, plan.folders));
}

async function flushFolders({ storage }: Workspace, folders: ReadonlySet<string>): Promise<void> {
  for (const folder of folders) {
    if (await storage.stat(folder)) await storage.flushFolder(folder, "removed images");
  }
}

function refuseWhatTheTableUses(table: DeviceTable, statements: readonly Statement[]): void {
  const doomed = new Set(statements.flatMap(({ plan }) => plan.newFiles.map((file) => file.path)));
  if (doomed.size === 0) return;
  for (const { name, chain } of table.devices) {
    const used = chain.find(({ image, fingerprint }) => {
      const file = statements
        .flatMap(({ prepared }) => prepared?.files ?? [])
        .find(({ path }) => path === image);
      return doomed.has(image) && file !== undefined && isSameFile(file.fingerprint, fingerprint);
    });
    if (!used) continue;
    throw new ImgtxError("E_JOURNAL", "a journal wants to take back an image that the device table uses", {
      device: name,
      image: used.image,
      hint: "keep both as they are: the journal does not belong to this workspace, or the table was put back from a copy",
    });
  }
}

/** Takes back what the statements wrote into images that were there before, and leaves their new files. */
export async function undoStatementPatches(
  { storage }: Workspace,
  statements: readonly Statement[],
): Promise<KeptFile[]> {
  const kept: KeptFile[] = [];
  const away: string[] = [];
  for (const statement of statements.toReversed()) {
    kept.push(...(await undoPatches(storage, statement, (image) => away.push(image))));
  }
  throwIfAway(away);
  return kept;
}

function throwIfAway([first, ...others]: readonly string[]): void {
  if (first === undefined) return;
  const more = others.length === 0 ? "" : `, as are ${others.length} more`;
  throw diskIsAway(first, `what was made there is still to be taken back${more}`);
}

/** For the end of a note; empty where nothing was left. */
export function sayKept(kept: readonly KeptFile[]): string {
  return kept.map(({ path, why }) => `; left '${path}' as it is: ${why}`).join("");
}

/** Undoes every statement from the given one on, and leaves the transaction open as it was before it. */
export async function undoFrom(
  workspace: Workspace,
  journal: Journal,
  from: number,
): Promise<readonly KeptFile[]> {
  const doomed = journal.state.statements.slice(from);
  if (doomed.length === 0) return [];
  if (journal.isInDoubt || doomed.some((statement) => statement.done && !statement.undoing)) {
    // Durable before the first file goes: else a crash would leave an action that claims to be done. It may
    // claim so by a record whose flush failed, too.
    await journal.append({ type: "undo", from }, "undo");
  } else if (doomed.some((statement) => statement.undoing)) {
    await journal.secure();
  }
  const kept = await undoStatements(workspace, doomed);
  await journal.append({ type: "undone", from }, "undone");
  return kept;
}

/** Takes the whole transaction back and retires the journal. */
export async function abortJournal(workspace: Workspace, journal: Journal): Promise<readonly KeptFile[]> {
  // An implicit transaction without a commit mark never was: it needs no word that it is taken back.
  if (!journal.state.begin.implicit) await journal.append({ type: "abort" }, "abort mark");
  try {
    const kept = await undoStatements(workspace, journal.state.statements);
    await journal.retire();
    return kept;
  } catch (error) {
    if (!(error instanceof ImgtxError) || !journal.state.aborting) throw error;
    throw error.reworded(error.message, {
      hint: `transaction ${journal.id} is aborted; the next imgtx command removes what is left of it`,
    });
  }
}

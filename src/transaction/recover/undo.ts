// Takes back what statements made. Idempotent, and the same code for a failed statement, an abort, a
// rollback to a savepoint and recovery.
//
// Invariants
// - What is not provably ours any more stays, and is returned: see removal.ts and leaving-fences.ts.
// - Undone is only what was seen to: a file that is gone, on a disk that is there. Of one whose disk is away nothing is
//   known, and the journal stays until it is back, or until somebody gives it up.

import { discardNextGeneration, lockWorkspaceIfFree, readTable, type Workspace } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import type { Journal, Statement } from "../journal/index.ts";
import { lowerFences } from "../commit/leaving-fences.ts";
import { diskIsAway } from "../images/planned-folders.ts";
import { Removal } from "../images/removal.ts";
import { removeVolumes } from "../images/volumes.ts";
import type { KeptFile } from "../requests/request.ts";

/** All of a transaction: its statements, and the fences of a commit that came to nothing. Returns what it left as it is. */
export async function undoTransaction(workspace: Workspace, journal: Journal): Promise<KeptFile[]> {
  const { state } = journal;
  const away: string[] = [];
  const down: (() => Promise<void>)[] = [];
  const onAway = (image: string): number => away.push(image);
  const onDown = (work: () => Promise<void>): number => down.push(work);
  const lowered = await lowerFences(workspace, state, { onAway, onDown });
  const kept = await undoStatements(workspace, journal, 0, away);
  for (const work of down) await work();
  return [...lowered, ...kept];
}

/** Those from that number on. Returns what it left as it is. An error where anything is away, be it from before. */
async function undoStatements(
  workspace: Workspace,
  journal: Journal,
  from: number,
  away: string[] = [],
): Promise<readonly KeptFile[]> {
  const { id, state } = journal;
  const [earlier, statements] = [state.statements.slice(0, from), state.statements.slice(from)];
  const removal = await Removal.begin(workspace, id, statements, earlier);
  const needed = logsOf(earlier);
  for (const statement of statements.toReversed()) {
    if (statement.undone) continue;
    away.push(...(await removal.removeLogs(statement, needed)));
    for (const newFile of statement.plan.newFiles) {
      if (!(await removal.remove(statement, newFile))) away.push(newFile.path);
    }
  }
  await removal.flush();
  const left = await removeVolumes(
    workspace,
    journal,
    state.volumes.filter(({ statement }) => statement >= from),
  );
  // All that can be seen is undone by then: what is left is tried again as long as the journal is there.
  throwIfAway(away);
  return [...removal.kept, ...left];
}

/**
 * The same with whatever can't be taken back left as it is and named: what is lost, what others changed, what a disk
 * does not let go.
 */
export async function undoWhatCanBe(workspace: Workspace, journal: Journal): Promise<KeptFile[]> {
  const { state } = journal;
  const { statements } = state;
  const removal = await Removal.begin(workspace, state.begin.id, statements);
  const kept: KeptFile[] = [];
  const orKeep = async (path: string, work: () => Promise<void>): Promise<void> => {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      kept.push({ path, why: error.message });
    }
  };
  for (const fence of state.fences) {
    await orKeep(fence.image, async () => {
      kept.push(...(await lowerFences(workspace, { ...state, fences: [fence] })));
    });
  }
  for (const statement of statements.toReversed()) {
    if (statement.undone) continue;
    const { plan } = statement;
    for (const { log } of plan.redo) {
      await orKeep(log, async () => throwIfAway(await removal.removeLogs(statement)));
    }
    for (const newFile of plan.newFiles) {
      await orKeep(newFile.path, async () => {
        if (!(await removal.remove(statement, newFile))) throwIfAway([newFile.path]);
      });
    }
  }
  await removal.flush();
  for (const volume of state.volumes) {
    await orKeep(volume.path, async () => {
      kept.push(...(await removeVolumes(workspace, journal, [volume])));
    });
  }
  return [...kept, ...removal.kept];
}

/** Removes the redo logs of the statements, and leaves their new files. Returns what it left as it is. */
export async function removeLogs(
  workspace: Workspace,
  id: string,
  statements: readonly Statement[],
): Promise<readonly KeptFile[]> {
  const removal = await Removal.begin(workspace, id, statements);
  const away: string[] = [];
  for (const statement of statements.toReversed()) away.push(...(await removal.removeLogs(statement)));
  await removal.flush();
  throwIfAway(away);
  return removal.kept;
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
  if (doomed.length === 0 && journal.state.volumes.every(({ statement }) => statement < from)) return [];
  if (journal.isInDoubt || doomed.some((statement) => statement.done && !statement.undoing)) {
    // Durable before the first file goes: else a crash would leave an action that claims to be done. It may
    // claim so by a record whose flush failed, too.
    await journal.append({ type: "undo", from }, "undo");
  } else if (doomed.some((statement) => statement.undoing)) {
    await journal.secure();
  }
  const kept = await undoStatements(workspace, journal, from);
  await journal.append({ type: "undone", from }, "undone");
  return kept;
}

/** The same up to a savepoint. What a commit that failed took back from there on is missing no more. */
export async function goBackTo(
  workspace: Workspace,
  journal: Journal,
  from: number,
): Promise<readonly KeptFile[]> {
  const kept = await undoFrom(workspace, journal, from);
  const { shortFrom } = journal.state;
  if (shortFrom !== null && from <= shortFrom)
    await journal.append({ type: "renewing", from: null }, "renewing");
  return kept;
}

/** Takes the whole transaction back and retires the journal. The caller may hold the workspace lock. */
export async function abortJournal(
  workspace: Workspace,
  journal: Journal,
  isLocked: boolean,
): Promise<readonly KeptFile[]> {
  // An implicit transaction without a commit mark never was: it needs no word that it is taken back.
  if (!journal.state.begin.implicit) await journal.append({ type: "abort" }, "abort mark");
  try {
    const kept = await undoTransaction(workspace, journal);
    // A commit of it may have died before its mark. One of a single command is undone by itself, or by recovery.
    if (!journal.state.begin.implicit) await discardStaged(workspace, isLocked);
    await journal.retire(journal.state.volumes.length > 0);
    return kept;
  } catch (error) {
    if (!(error instanceof ImgtxError) || !journal.state.aborting) throw error;
    throw error.reworded(error.message, {
      hint: `transaction ${journal.id} is aborted; the next imgtx command removes what is left of it, \`imgtx recover --give-up ${journal.id}\` leaves it as it is`,
    });
  }
}

/** Clears away what a commit staged of the next generation. Whoever has the workspace lock does so himself. */
async function discardStaged(workspace: Workspace, isLocked: boolean): Promise<void> {
  const lock = isLocked ? undefined : await lockWorkspaceIfFree(workspace);
  if (!isLocked && !lock) return;
  try {
    await discardNextGeneration(workspace, await readTable(workspace));
  } finally {
    await lock?.close();
  }
}

function logsOf(statements: readonly Statement[]): ReadonlySet<string> {
  return new Set(statements.flatMap(({ undone, plan }) => (undone ? [] : plan.redo.map(({ log }) => log))));
}

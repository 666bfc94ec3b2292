// What is left for recovery: told from the journals alone. Takes no lock and changes nothing.

import {
  findOwner,
  isViewPresent,
  listHistory,
  readingHistory,
  readTable,
  sayWorker,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { isBesideImage } from "../../format/index.ts";
import {
  isParked,
  type JournalFolder,
  type JournalSnapshot,
  type Statement,
  type TransactionState,
} from "../journal/index.ts";

/** What waits for recovery, a phrase each. */
export async function findLeftovers(
  workspace: Workspace,
  { ids, halfMade, journals }: JournalFolder,
): Promise<string[]> {
  const found: string[] = [];
  for (const id of halfMade)
    if (!ids.includes(id)) found.push(`a half-made journal of transaction ${id} is left`);
  for (const snapshot of journals) {
    const leftover = await describeLeftover(workspace, snapshot);
    if (leftover !== undefined) found.push(leftover);
    else if (!snapshot.busy && halfMade.includes(snapshot.id)) {
      found.push(`a half-made journal of transaction ${snapshot.id} is left`);
    }
  }
  // Nobody looks at that of an image alone.
  const isSeen = !isBesideImage(workspace.root);
  if (isSeen && !(await isViewPresent(workspace, await readTable(workspace))))
    found.push("'devices' lags behind the table");
  return found;
}

/** What is to be done about a journal, or undefined: a live process has it, or all is well. */
export async function describeLeftover(
  workspace: Workspace,
  snapshot: JournalSnapshot,
): Promise<string | undefined> {
  const { id, busy, unsure, state } = snapshot;
  if (state instanceof ImgtxError && state.code === "E_NO_PERMISSION") {
    return `transaction ${id} is another user's, who alone can read its journal`;
  }
  if (state instanceof ImgtxError) return `the journal of transaction ${id} can't be used: ${state.message}`;
  if (busy) return undefined;
  if (unsure) return `transaction ${id} may be at work elsewhere: ${sayWorker(workspace, unsure)}`;
  if (isParked(state)) return undefined;
  if (state.commit) return `transaction ${id} is committed and waits to be finished`;
  if (state.fences.length > 0) return `transaction ${id} has fenced images for a commit that came to nothing`;
  const isCutOff = firstUnfinished(state) !== undefined || firstWithoutPlan(state) !== undefined;
  return state.aborting || isCutOff || (await mustAbort(workspace, state))
    ? `transaction ${id} was interrupted and waits to be undone`
    : undefined;
}

export async function mustAbort(workspace: Workspace, { begin }: TransactionState): Promise<boolean> {
  return begin.implicit || (begin.owned && (await findOwner(workspace, begin.id, begin.owner)) === "gone");
}

/** The first statement that a dead process left amid its making or its undoing. */
export function firstUnfinished(state: TransactionState): Statement | undefined {
  return state.statements.find((statement) => !statement.undone && (statement.undoing || !statement.done));
}

/** The number of a statement for which volumes were about to be made, and that was not planned. */
export function firstWithoutPlan({ volumes, statements }: TransactionState): number | undefined {
  return volumes.find(({ statement }) => statement >= statements.length)?.statement;
}

/** A copy that a command made by itself, and that has come somewhere. */
export function canBeParked({ begin, commit, aborting, statements }: TransactionState): boolean {
  const [only, ...others] = statements;
  if (!begin.implicit || commit || aborting || !only || others.length > 0) return false;
  return only.marks.size > 0 && !only.prepared && !only.undoing;
}

/**
 * Whether a generation was made by this transaction. The unlink of a retired journal is not flushed, so
 * a power cut can bring it back; and damage to its commit mark must not undo what the table rests on.
 */
export async function isInHistory(workspace: Workspace, id: string): Promise<boolean> {
  const present = await readTable(workspace);
  if (present.transaction === id) return true;
  const history = readingHistory(workspace, present);
  for (const generation of (await listHistory(workspace, present)).toReversed()) {
    if ((await history.file(generation))?.head.transaction === id) return true;
  }
  return false;
}

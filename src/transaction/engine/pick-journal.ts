// Which open transaction a command works on.

import type { Workspace } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { chooseTransaction, type Purpose, requireTransaction } from "../choose.ts";
import { describeTransaction } from "../describe/describe.ts";
import { Journal, readJournals } from "../journal/index.ts";
import { firstUnfinished, firstWithoutPlan } from "../recover/leftovers.ts";
import type { LockWait } from "../requests/request.ts";
import type { TransactionDescription } from "../describe/results.ts";

/** The transaction that an action joins, locked; undefined where it is one of its own. */
export async function pickJournal(
  workspace: Workspace,
  wanted: string | undefined,
  wait: LockWait,
): Promise<Journal | undefined> {
  const open = await findOpen(workspace);
  const chosen = await unlessDamaged(workspace, wanted, () => chooseTransaction(open, wanted));
  return chosen && (await openChosen(workspace, chosen.id, wait));
}

/** The transaction that a command ends or marks, locked. */
export async function requireJournal(
  workspace: Workspace,
  wanted: string | undefined,
  purpose: Purpose,
  wait: LockWait,
): Promise<Journal> {
  return await openChosen(workspace, (await requireOpen(workspace, wanted, purpose)).id, wait);
}

/** As above, and only its description. */
export async function requireOpen(
  workspace: Workspace,
  wanted: string | undefined,
  purpose: Purpose,
): Promise<TransactionDescription> {
  const open = await findOpen(workspace);
  // Where none is open, a damaged one may be the one that is meant.
  const named = open.length === 0 ? undefined : (wanted ?? "");
  return await unlessDamaged(workspace, named, () => requireTransaction(open, wanted, purpose));
}

/** All but those of single commands, and those that can't be read. */
export async function findOpen(workspace: Workspace): Promise<TransactionDescription[]> {
  return (await readJournals(workspace)).flatMap((snapshot) => {
    const { state } = snapshot;
    // A disk that fails now says nothing of what is open: the command must not go its own way.
    if (state instanceof ImgtxError && state.code === "E_IO") throw state;
    const isOpen =
      !(state instanceof ImgtxError) && !state.begin.implicit && !state.commit && !state.aborting;
    return isOpen ? [describeTransaction(workspace, snapshot, undefined)] : [];
  });
}

/** What is chosen; else why the journal with this id, or any one where none is named, can't be read. */
async function unlessDamaged<T>(
  workspace: Workspace,
  wanted: string | undefined,
  choose: () => T,
): Promise<T> {
  try {
    return choose();
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code !== "E_NO_TRANSACTION") throw error;
    const damaged = (await readJournals(workspace)).find(
      ({ id, state }) => state instanceof ImgtxError && (wanted === undefined || wanted === id),
    );
    throw damaged?.state instanceof ImgtxError ? damaged.state : error;
  }
}

async function openChosen(workspace: Workspace, id: string, wait: LockWait): Promise<Journal> {
  const journal = await Journal.open(workspace, id, wait);
  const state = journal?.state;
  const isCutOff = state && (firstUnfinished(state) ?? firstWithoutPlan(state)) !== undefined;
  if (journal && state && !state.commit && !state.aborting && !isCutOff) return journal;
  await journal?.close();
  throw isCutOff ? interrupted(id) : endedMeanwhile(id);
}

function endedMeanwhile(id: string): ImgtxError {
  return new ImgtxError("E_NO_TRANSACTION", `transaction ${id} was ended by another command just now`, {
    hint: "`imgtx history` lists what was committed",
  });
}

/** A process that had the journal ended amid an action, after this command's own recovery had looked. */
function interrupted(id: string): ImgtxError {
  return new ImgtxError("E_BUSY", `another command on transaction ${id} was interrupted just now`, {
    hint: "run the command again; it first takes back what the other one left",
  });
}

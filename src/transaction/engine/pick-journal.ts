// Which open transaction a command works on; and how one is opened: its journal comes into being under the workspace lock.

import { describeWorker, underWorkspaceLock, type Workspace } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { chooseTransaction, NO_TRANSACTION, type Purpose, requireTransaction, sayWhose } from "../choose.ts";
import { describeTransaction } from "../describe/describe.ts";
import { type BeginRecord, beginRecordOf, Journal, readJournals } from "../journal/index.ts";
import { firstUnfinished, firstWithoutPlan } from "../recover/leftovers.ts";
import type { LockWait } from "../requests/request.ts";
import type { TransactionDescription } from "../describe/results.ts";
import type { Work } from "./work.ts";

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
async function findOpen(workspace: Workspace): Promise<TransactionDescription[]> {
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

export async function createJournal(
  workspace: Workspace,
  choice: { id: string; name: string | null; onError: "abort" | "keep"; owned: boolean },
  wait: LockWait,
): Promise<Journal> {
  return await underWorkspaceLock(workspace, wait, async () => {
    if (choice.name !== null) await assertNameFree(workspace, choice.name);
    const owner = choice.owned ? await describeWorker(workspace) : null;
    return await Journal.create(
      workspace,
      beginRecordOf(workspace, { ...choice, implicit: false, owner }),
      [],
    );
  });
}

/** The first record of a transaction that a single command begins and ends. */
export function beginAlone({ workspace, id }: Pick<Work, "workspace" | "id">): BeginRecord {
  const alone = { name: null, onError: "abort", implicit: true, owned: false, owner: null } as const;
  return beginRecordOf(workspace, { id, ...alone });
}

/** One that is open may be named by its id or by its name: neither may mean another one. */
async function assertNameFree(workspace: Workspace, name: string): Promise<void> {
  if (name === NO_TRANSACTION) {
    throw new ImgtxError(
      "E_USAGE",
      `a transaction can't be called '${name}': \`--txn ${name}\` stands for no one`,
    );
  }
  const other = (await findOpen(workspace)).find((open) => open.id === name || open.name === name);
  if (!other) return;
  throw new ImgtxError("E_TRANSACTION", `'${name}' is an open transaction already: ${sayWhose(other)}`, {
    hint: `choose another name, or end that one with \`imgtx txn commit ${other.id}\` or \`imgtx txn abort ${other.id}\``,
  });
}

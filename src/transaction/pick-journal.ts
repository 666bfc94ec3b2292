// Which open transaction a command works on.

import type { Workspace } from "../device/index.ts";
import { ImgtxError } from "../errors/index.ts";
import { Journal, readJournals, type TransactionState } from "./journal/index.ts";
import { firstUnfinished } from "./leftovers.ts";
import type { LockWait } from "./request.ts";

interface OpenTransaction {
  readonly id: string;
  readonly state: TransactionState;
}

/**
 * The transaction with this id or name, locked; without one the only open transaction; undefined where
 * none is open. The transaction of a `txn exec` is only for the commands inside it: they name it.
 */
export async function pickJournal(
  workspace: Workspace,
  wanted: string | undefined,
  wait: LockWait,
): Promise<Journal | undefined> {
  const open = await listOpen(workspace);
  const found =
    wanted === undefined
      ? open.filter(({ state }) => !state.begin.owned)
      : open.filter(({ id, state }) => id === wanted || state.begin.name === wanted);
  found.sort((a, b) => a.state.begin.started.localeCompare(b.state.begin.started));
  const [first, ...others] = found;
  if (!first) {
    if (wanted === undefined) return undefined;
    throw (await findDamaged(workspace, wanted)) ?? notOpen(wanted);
  }
  if (others.length > 0) {
    throw new ImgtxError("E_TRANSACTION", "several transactions are open", {
      hint: `say which one with --txn: ${found.map(({ id, state }) => describe(id, state)).join(", ")}`,
    });
  }
  const journal = await Journal.open(workspace, first.id, wait);
  const state = journal?.state;
  if (journal && state && !state.commit && !state.aborting && !firstUnfinished(state)) return journal;
  await journal?.close();
  throw state && firstUnfinished(state) ? interrupted(first.id) : notOpen(first.id);
}

/** Why the journal with this id, or else any one, can't be read. */
export async function findDamaged(workspace: Workspace, id?: string): Promise<ImgtxError | undefined> {
  for (const snapshot of await readJournals(workspace)) {
    if (id !== undefined && snapshot.id !== id) continue;
    if (snapshot.state instanceof ImgtxError) return snapshot.state;
  }
  return undefined;
}

async function listOpen(workspace: Workspace): Promise<OpenTransaction[]> {
  return (await readJournals(workspace)).flatMap(({ id, state }) => {
    // A disk that fails now says nothing of what is open: the command must not go its own way.
    if (state instanceof ImgtxError && state.code === "E_IO") throw state;
    const isOpen =
      !(state instanceof ImgtxError) && !state.begin.implicit && !state.commit && !state.aborting;
    return isOpen ? [{ id, state }] : [];
  });
}

function notOpen(wanted: string): ImgtxError {
  return new ImgtxError("E_NO_TRANSACTION", `no open transaction is called '${wanted}'`, {
    hint: "`imgtx txn status` lists the open ones",
  });
}

/** A process that had the journal ended amid an action, after this command's own recovery had looked. */
function interrupted(id: string): ImgtxError {
  return new ImgtxError("E_BUSY", `another command on transaction ${id} was interrupted just now`, {
    hint: "run the command again; it first takes back what the other one left",
  });
}

function describe(id: string, { begin }: TransactionState): string {
  return begin.name === null ? id : `${id} (${begin.name})`;
}

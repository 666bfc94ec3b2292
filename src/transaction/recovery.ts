// Finishes or undoes what a crash left, before any command does its own work.
//
// Invariants
// - The lock on a journal is the liveness test: what can be locked has no process working on it.
// - What a mark says is secured (written anew and flushed) before it is acted on: it may have been read
//   from the page cache alone, and a power cut during recovery would take it back.
// - Each step may be repeated. A recovery that has run to its end leaves nothing for the next one to do.
// - A damaged journal is left alone with all its files, and stops what would change the workspace.

import {
  describeCopy,
  type DeviceTable,
  discardNextGeneration,
  howToAdopt,
  isOwnerAlive,
  flushTableName,
  isViewPresent,
  isWorkspaceMade,
  listHistory,
  lockWorkspace,
  pathsOf,
  readGeneration,
  readTable,
  showView,
  type Workspace,
} from "../device/index.ts";
import { EXIT_OF_CODE, ImgtxError } from "../errors/index.ts";
import type { LockWaiting } from "../storage/index.ts";
import { finishCommit, summarise } from "./finish.ts";
import {
  isParked,
  Journal,
  type JournalSnapshot,
  listNames,
  readJournals,
  removeHalfMade,
  type Statement,
  type TransactionState,
} from "./journal/index.ts";
import { imagesGivenUp } from "./merges.ts";
import type { KeptFile, RecoveryNote } from "./request.ts";
import { sayKept, undoStatementPatches, undoStatements } from "./undo.ts";

const READ_ONLY_CODES = new Set(["E_READ_ONLY", "E_NO_PERMISSION"]);

/**
 * Runs recovery where something is left, and says what it did. Where the workspace can't be written to,
 * nothing is changed and the notes say what is waiting.
 */
export async function recover(workspace: Workspace, waiting: LockWaiting): Promise<RecoveryNote[]> {
  if (!(await isWorkspaceMade(workspace))) return [];
  const copy = await reportCopy(workspace);
  if (copy) return [copy];
  const waitingThings = await findLeftovers(workspace);
  if (waitingThings.length === 0) return [];
  try {
    const lock = await lockWorkspace(workspace, waiting);
    try {
      const notes = await settleJournals(workspace);
      const note = await repairView(workspace);
      return note ? [...notes, note] : notes;
    } finally {
      await lock.close();
    }
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    if (error.code === "E_BUSY") return [];
    if (!READ_ONLY_CODES.has(error.code) || error.image !== pathsOf(workspace).lock) throw error;
    return asReports(waitingThings, "; the workspace can't be written to, so nothing was changed");
  }
}

/** What recovery would find to do, a note each. Changes nothing. */
export async function reportLeftovers(workspace: Workspace): Promise<RecoveryNote[]> {
  if (!(await isWorkspaceMade(workspace))) return [];
  const copy = await reportCopy(workspace);
  return copy ? [copy] : asReports(await findLeftovers(workspace), "");
}

/** In a copy nothing is finished or undone: it may be of the original, which went on. */
async function reportCopy(workspace: Workspace): Promise<RecoveryNote | undefined> {
  const copy = await describeCopy(workspace);
  if (copy === undefined) return undefined;
  const text = `${copy}; it is only read, and nothing in it is finished or undone; ${howToAdopt(workspace)}`;
  return { transaction: null, did: "reported", text };
}

function asReports(leftovers: readonly string[], why: string): RecoveryNote[] {
  return leftovers.map((what) => ({ transaction: null, did: "reported", text: `${what}${why}` }));
}

/** Settles every journal but the caller's own. The caller holds the workspace lock. */
export async function settleJournals(workspace: Workspace, except?: string): Promise<RecoveryNote[]> {
  const notes: RecoveryNote[] = [];
  const { ids, halfMade } = await listNames(workspace);
  for (const id of halfMade) {
    // Only a journal with a live process may have a new one beside it: that process is replacing it.
    if (!ids.includes(id)) await removeHalfMade(workspace, id);
  }
  for (const snapshot of await readJournals(workspace, except)) {
    const isHalfReplaced = halfMade.includes(snapshot.id);
    if (!isHalfReplaced && (await describeLeftover(workspace, snapshot)) === undefined) continue;
    const note = await recoverOne(workspace, snapshot.id, isHalfReplaced);
    if (note) notes.push(note);
  }
  return notes;
}

async function repairView(workspace: Workspace): Promise<RecoveryNote | undefined> {
  const table = await readTable(workspace);
  if (await isViewPresent(workspace, table)) return undefined;
  // Whoever moved the table died before it showed it, and perhaps before the move was durable.
  await flushTableName(workspace);
  await showView(workspace, table);
  return { transaction: null, did: "view", text: `showed generation ${table.generation} in 'devices' again` };
}

/** Damaged journals, which stop everything that would change the workspace. */
export function assertJournalsSound(snapshots: readonly JournalSnapshot[]): void {
  for (const { state } of snapshots) {
    if (state instanceof ImgtxError) throw state;
  }
}

/**
 * E_BUSY where a process that could not finish its commit still has the journal: it has said that its generation is
 * the next one, and recovery would take another one of that number for it. The caller holds the workspace lock.
 */
export async function assertNoneUnfinished(
  workspace: Workspace,
  table: DeviceTable,
  except: string,
): Promise<void> {
  for (const { id, path, state } of await readJournals(workspace, except)) {
    if (state instanceof ImgtxError || !state.commit || state.commit.generation <= table.generation) continue;
    throw new ImgtxError("E_BUSY", `transaction ${id} is committed, and its process has not ended yet`, {
      image: path,
      hint: "run the command again; it first finishes what the other one left",
    });
  }
}

async function recoverOne(
  workspace: Workspace,
  id: string,
  hasHalfMade: boolean,
): Promise<RecoveryNote | undefined> {
  const journal = await openUnlessBusy(workspace, id);
  if (!journal) return undefined;
  try {
    if (hasHalfMade) await removeHalfMade(workspace, id);
    return await settle(workspace, journal);
  } finally {
    await journal.close();
  }
}

async function settle(workspace: Workspace, journal: Journal): Promise<RecoveryNote | undefined> {
  const { state } = journal;
  const { id } = journal;
  const what = `transaction ${id} (${summarise(state)})`;
  if (state.commit) {
    const table = await finishOrSay(workspace, journal, what);
    const left = imagesGivenUp(state, table).map((image) => `; ${image} could not be brought in line`);
    return {
      transaction: id,
      did: "finished",
      text: `finished ${what}: the devices are at generation ${table.generation}${left.join("")}`,
    };
  }
  if (isParked(state)) return undefined;
  if (canBeParked(state)) {
    // Its devices are free from then on: no fence of its may stay.
    const kept = await undoStatementPatches(workspace, state.statements);
    await journal.append({ type: "parked", statement: state.statements.length - 1 }, "parked");
    const text = `kept the unfinished copy of ${sayParked(state)}${sayKept(kept)}`;
    return { transaction: id, did: "kept", text };
  }
  const unfinished = firstUnfinished(state);
  const mustGo = state.aborting || (await mustAbort(workspace, state));
  if (!mustGo && !unfinished) return undefined;
  if (await isInHistory(workspace, id)) {
    await journal.retire();
    return {
      transaction: id,
      did: "retired",
      text: `cleared away the journal of ${what}, which was committed`,
    };
  }
  if (mustGo) {
    if (state.aborting) await journal.secure();
    const kept = await undoStatements(workspace, state.statements);
    await discardNextGeneration(workspace, await readTable(workspace));
    await journal.retire();
    return {
      transaction: id,
      did: "aborted",
      text: `undid ${what}, which was interrupted: no disk was changed${sayKept(kept)}`,
    };
  }
  if (!unfinished) return undefined;
  if (state.begin.onError === "abort") {
    // At once, and not behind an undo of the statement: a crash between the two would leave it open.
    const kept = await abortJournal(workspace, journal);
    const text = `aborted ${what}: an action of it was interrupted${sayKept(kept)}`;
    return { transaction: id, did: "aborted", text };
  }
  const kept = await undoFrom(workspace, journal, unfinished.plan.statement);
  const text = `undid the interrupted '${unfinished.plan.kind}' in transaction ${id}, which stays open`;
  return { transaction: id, did: "undone", text: `${text}${sayKept(kept)}` };
}

/** A failure here stops the commands of others too: they have to hear of the commit that waits. */
async function finishOrSay(workspace: Workspace, journal: Journal, what: string): Promise<DeviceTable> {
  try {
    await journal.secure();
    return await finishCommit(workspace, journal, false);
  } catch (error) {
    const mayPass: readonly number[] = [EXIT_OF_CODE.E_IO, EXIT_OF_CODE.E_LOCKED, EXIT_OF_CODE.E_NOT_FOUND];
    if (!(error instanceof ImgtxError) || !mayPass.includes(error.exitCode)) throw error;
    throw error.reworded(`${what} is committed, and can't be finished yet: ${error.message}`);
  }
}

/** A copy that a command made by itself, and that has come somewhere. */
function canBeParked({ begin, commit, aborting, statements }: TransactionState): boolean {
  const [only, ...others] = statements;
  if (!begin.implicit || commit || aborting || !only || others.length > 0) return false;
  return only.marks.size > 0 && !only.prepared && !only.undoing;
}

/** `'vda': `imgtx mirror vda FILE` goes on with it, …` */
function sayParked({ statements }: TransactionState): string {
  const plan = statements[0]?.plan;
  const [device = ""] = plan?.devices ?? [];
  const pairs = plan?.newFiles.map(({ path }) => path).join(", ");
  return (
    `'${plan?.devices.join("', '")}' in ${pairs}: the same \`imgtx mirror\` goes on with it, ` +
    `\`imgtx mirror --cancel ${device}\` removes it`
  );
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

async function mustAbort(workspace: Workspace, { begin }: TransactionState): Promise<boolean> {
  return begin.implicit || (begin.owned && !(await isOwnerAlive(workspace, begin.id)));
}

/** The first statement that a dead process left amid its making or its undoing. */
export function firstUnfinished(state: TransactionState): Statement | undefined {
  return state.statements.find((statement) => !statement.undone && (statement.undoing || !statement.done));
}

async function openUnlessBusy(workspace: Workspace, id: string): Promise<Journal | undefined> {
  try {
    return await Journal.open(workspace, id);
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_BUSY") return undefined;
    throw error;
  }
}

/**
 * Whether a generation was made by this transaction. The unlink of a retired journal is not flushed, so
 * a power cut can bring it back; and damage to its commit mark must not undo what the table rests on.
 */
async function isInHistory(workspace: Workspace, id: string): Promise<boolean> {
  const present = await readTable(workspace);
  if (present.transaction === id) return true;
  for (const generation of await listHistory(workspace, present)) {
    if ((await readGeneration(workspace, generation))?.transaction === id) return true;
  }
  return false;
}

/** What waits for recovery, a phrase each. Takes no lock and changes nothing. */
async function findLeftovers(workspace: Workspace): Promise<string[]> {
  const found: string[] = [];
  const { ids, halfMade } = await listNames(workspace);
  for (const id of halfMade)
    if (!ids.includes(id)) found.push(`a half-made journal of transaction ${id} is left`);
  for (const snapshot of ids.length === 0 ? [] : await readJournals(workspace)) {
    const leftover = await describeLeftover(workspace, snapshot);
    if (leftover !== undefined) found.push(leftover);
    else if (!snapshot.busy && halfMade.includes(snapshot.id)) {
      found.push(`a half-made journal of transaction ${snapshot.id} is left`);
    }
  }
  if (!(await isViewPresent(workspace, await readTable(workspace))))
    found.push("'devices' lags behind the table");
  return found;
}

/** What is to be done about a journal, or undefined: a live process has it, it is damaged, or all is well. */
async function describeLeftover(
  workspace: Workspace,
  snapshot: JournalSnapshot,
): Promise<string | undefined> {
  const { id, busy, state } = snapshot;
  if (busy || state instanceof ImgtxError) return undefined;
  if (isParked(state)) return undefined;
  if (state.commit) return `transaction ${id} is committed and waits to be finished`;
  return state.aborting || firstUnfinished(state) || (await mustAbort(workspace, state))
    ? `transaction ${id} was interrupted and waits to be undone`
    : undefined;
}

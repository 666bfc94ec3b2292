// Finishes or undoes what a crash left, before any command does its own work.
//
// Invariants
// - The lock on a journal is the liveness test, and where it is free the process that wrote the journal last is asked
//   for: see the device layer's liveness.ts. What may be alive is left as it is.
// - What a mark says is secured (written anew and flushed) before it is acted on: it may have been read
//   from the page cache alone, and a power cut during recovery would take it back.
// - Each step may be repeated. A recovery that has run to its end leaves nothing for the next one to do.
// - One journal's trouble is told by a note, and keeps nobody from the others. The journal stays, and its devices are
//   held: see waiting.ts. A damaged journal is left alone with all its files.
// - Commands that read wait for no lock, and leave long work to others.

import {
  describeCopy,
  discardNextGeneration,
  findLostParts,
  howToAdopt,
  flushTableName,
  isViewPresent,
  isWorkspaceMade,
  lockWorkspace,
  lockWorkspaceIfFree,
  pathsOf,
  readTable,
  sayWorker,
  showView,
  type Workspace,
  type WorkspaceLock,
} from "../../device/index.ts";
import { type ErrorCode, ImgtxError, unlessItFails } from "../../errors/index.ts";
import { summarise } from "../commit/closing.ts";
import type { LockWaiting } from "../../storage/index.ts";
import { finishOrKeep, type Finishing, HOLDS_LOCK, lockForMoments, showIfMoved } from "../commit/finish.ts";
import {
  clearHalfMade,
  isParked,
  Journal,
  type JournalSnapshot,
  readJournalFolder,
  readJournals,
  readNamedJournals,
  type TransactionState,
} from "../journal/index.ts";
import {
  canBeParked,
  describeLeftover,
  findLeftovers,
  firstUnfinished,
  firstWithoutPlan,
  isInHistory,
  mustAbort,
} from "./leftovers.ts";
import { findOverlaysAway, imagesCopiedInto, measureCopies } from "../commit/copies.ts";
import { imagesRedone } from "../images/redo.ts";
import { activateAll } from "../images/volumes.ts";
import { lowerFences, takeFencesBack } from "../commit/leaving-fences.ts";
import type { OnProgress, RecoveryNote, RunOptions } from "../requests/request.ts";
import { abortJournal, removeLogs, sayKept, undoFrom, undoTransaction } from "./undo.ts";
import { endMove } from "./adopt.ts";
import { mendLostParts, noteStrangeThings, sayLost } from "./strange-things.ts";
import { noteOnDamaged, noteOnLeft, noteOnUnsure, noteOnView, noteOnWaiting, withFound } from "./waiting.ts";

/** For a moment, or until a guest ends: then what it wrote is brought along, and the move shown. */
const HOLDS_BACK: ReadonlySet<ErrorCode> = new Set(["E_LOCKED", "E_UNFINISHED"]);

const READ_ONLY_CODES = new Set(["E_READ_ONLY", "E_NO_PERMISSION"]);

/** Who recovers: a command that reads, or one that changes something, before its own work; or `recover`. */
export type RecoveryCaller = "reader" | "writer" | "recover";

export interface RecoveryOptions {
  readonly caller: RecoveryCaller;
  readonly waiting: LockWaiting;
  readonly onProgress?: OnProgress | undefined;
  /** Holds copies to a rate. */
  readonly throttle?: RunOptions["throttle"];
}

/**
 * Runs recovery where something is left, and says what it did. Where the workspace can't be written to,
 * nothing is changed and the notes say what is waiting. E_BUSY for `recover` alone, where others have the workspace.
 */
export async function recover(workspace: Workspace, options: RecoveryOptions): Promise<RecoveryNote[]> {
  if (!(await isWorkspaceMade(workspace))) return [];
  const come = options.caller === "reader" ? [] : await endMove(workspace);
  const copy = await reportCopy(workspace);
  // Who wants to change something is refused for the same reason, in the same words.
  if (copy) return options.caller === "reader" ? [copy] : come;
  const folder = await readJournalFolder(workspace);
  const noted = [...come, ...noteStrangeThings(workspace, folder)];
  const lost = await findLostParts(workspace);
  const leftovers = [...lost.map(sayLost), ...(await findLeftovers(workspace, folder))];
  if (leftovers.length === 0) return noted;
  try {
    const lock = await lockFor(workspace, options);
    if (!lock) return noted;
    let notes: RecoveryNote[];
    try {
      notes = [...noted, ...(await mendLostParts(workspace))];
      notes.push(...(await settleJournals(workspace, { isLeft: isLeftBy(options.caller) })).notes);
      const note = await repairView(workspace, notes);
      if (note) notes.push(note);
    } finally {
      await lock.close();
    }
    return options.caller === "recover" ? await finishLeft(workspace, notes, options) : notes;
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    if (!READ_ONLY_CODES.has(error.code) || error.image !== pathsOf(workspace).lock) throw error;
    return asReports(leftovers, "; the workspace can't be written to, so nothing was changed");
  }
}

async function lockFor(
  workspace: Workspace,
  { caller, waiting }: RecoveryOptions,
): Promise<WorkspaceLock | undefined> {
  if (caller === "reader") return await lockWorkspaceIfFree(workspace);
  try {
    return await lockWorkspace(workspace, waiting);
  } catch (error) {
    // Its own work finds that the workspace is busy, and says so, if it needs it.
    if (caller === "writer" && error instanceof ImgtxError && error.code === "E_BUSY") return undefined;
    throw error;
  }
}

/** What recovery would find to do, a note each. Changes nothing. */
export async function reportLeftovers(workspace: Workspace): Promise<RecoveryNote[]> {
  if (!(await isWorkspaceMade(workspace))) return [];
  const copy = await reportCopy(workspace);
  return copy ? [copy] : asReports(await findLeftovers(workspace, await readJournalFolder(workspace)), "");
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

type IsLeft = (workspace: Workspace, state: TransactionState) => Promise<boolean>;

/** What is copied in moments, before whatever the command was called for. */
const SHORT_COPY_BYTES = 64 * 2 ** 20;

/** Committed transactions that are not finished under the workspace lock. */
function isLeftBy(caller: RecoveryCaller): IsLeft {
  if (caller === "recover") {
    return async (_, state) =>
      await Promise.resolve(imagesCopiedInto(state).size + imagesRedone(state).size > 0);
  }
  return async ({ storage }, state) => (await measureCopies(storage, state)) > SHORT_COPY_BYTES;
}

/** Finishes what the first round left, whatever it takes, with the workspace free for others. */
async function finishLeft(
  workspace: Workspace,
  notes: readonly RecoveryNote[],
  options: RecoveryOptions,
): Promise<RecoveryNote[]> {
  const all: RecoveryNote[] = [];
  for (const note of notes) {
    const isLeft = note.transaction !== null && note.obstacle?.code === "E_UNFINISHED";
    all.push(
      ...(isLeft ? withFound(await finishPatiently(workspace, note.transaction, options), note) : [note]),
    );
  }
  return all;
}

/**
 * Finishes a committed transaction with the workspace free for others, however long its copies take, and waits for
 * who has its images open. No note where a live process has it, or has ended it.
 */
export async function finishPatiently(
  workspace: Workspace,
  id: string,
  how: Pick<RecoveryOptions, "waiting" | "onProgress" | "throttle">,
): Promise<RecoveryNote[]> {
  const journal = await openUnlessBusy(workspace, id);
  if (!journal) return [];
  const underLock = lockForMoments(workspace, how.waiting);
  try {
    return [await finish(workspace, journal, { isLocked: false, ...how, underLock })];
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    return [noteOnWaiting(id, journal.state, error)];
  } finally {
    await journal.close();
  }
}

interface Settling {
  /** The caller's own. */
  readonly except?: string;
  /** Only what holds one of these. */
  readonly devices?: readonly string[];
  readonly isLeft?: IsLeft;
}

export interface Settled {
  readonly notes: readonly RecoveryNote[];
  /** Those that are there now, but for the caller's own. */
  readonly journals: readonly JournalSnapshot[];
}

/** Settles what it can of each journal but the caller's own. The caller holds the workspace lock. */
export async function settleJournals(
  workspace: Workspace,
  { except, devices, isLeft = isLeftBy("writer") }: Settling,
): Promise<Settled> {
  const notes: RecoveryNote[] = [];
  const { halfMade, journals } = await readNamedJournals(workspace, except);
  for (const snapshot of journals) {
    if (devices && snapshot.held?.every((held) => !devices.includes(held))) continue;
    const { id, state } = snapshot;
    const note =
      state instanceof ImgtxError
        ? noteOnDamaged(snapshot, state)
        : await settleOrSay(workspace, snapshot, state, { isHalfReplaced: halfMade.includes(id), isLeft });
    if (note) notes.push(note);
  }
  // A note tells of each that was worked on, and they may be gone, or others now.
  return { notes, journals: notes.length === 0 ? journals : await readJournals(workspace, except) };
}

async function settleOrSay(
  workspace: Workspace,
  snapshot: JournalSnapshot,
  state: TransactionState,
  { isHalfReplaced, isLeft }: { isHalfReplaced: boolean; isLeft: IsLeft },
): Promise<RecoveryNote | undefined> {
  try {
    if (!isHalfReplaced && (await describeLeftover(workspace, snapshot)) === undefined) return undefined;
    if (snapshot.unsure) return noteOnUnsure(snapshot.id, state, sayWorker(workspace, snapshot.unsure));
    if (!snapshot.busy && state.commit && (await isLeft(workspace, state)))
      return await showAndLeave(workspace, snapshot.id);
    return await recoverOne(workspace, snapshot.id, isHalfReplaced);
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    return noteOnWaiting(snapshot.id, state, error);
  }
}

/** Where the table has moved that is shown at once, and only what comes after it is left. */
async function showAndLeave(workspace: Workspace, id: string): Promise<RecoveryNote | undefined> {
  const journal = await openUnlessBusy(workspace, id);
  if (!journal) return undefined;
  const lines: string[] = [];
  const onNotice = (line: string): void => void lines.push(line);
  try {
    await showIfMoved(workspace, journal, {
      isLocked: false,
      isBrief: true,
      underLock: HOLDS_LOCK,
      onNotice,
    });
    return noteOnLeft(id, journal.state, lines);
  } finally {
    await journal.close();
  }
}

/** Notes of transactions that wait: where a move waits for what its devices have left, guests go on starting there. */
async function repairView(
  workspace: Workspace,
  notes: readonly RecoveryNote[],
): Promise<RecoveryNote | undefined> {
  const table = await readTable(workspace);
  const isHeldBack = notes.some(
    ({ transaction, obstacle }) =>
      transaction === table.transaction && obstacle && HOLDS_BACK.has(obstacle.code),
  );
  if (isHeldBack || (await isViewPresent(workspace, table))) return undefined;
  try {
    // Whoever moved the table died before it showed it, and perhaps before the move was durable.
    await flushTableName(workspace);
    await showView(workspace, table);
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    return noteOnView(error);
  }
  return { transaction: null, did: "view", text: `showed generation ${table.generation} in 'devices' again` };
}

async function recoverOne(
  workspace: Workspace,
  id: string,
  hasHalfMade: boolean,
): Promise<RecoveryNote | undefined> {
  const journal = await openUnlessBusy(workspace, id);
  if (!journal) return undefined;
  try {
    if (hasHalfMade) await clearHalfMade(workspace, id);
    return await settle(workspace, journal);
  } finally {
    await journal.close();
  }
}

async function settle(workspace: Workspace, journal: Journal): Promise<RecoveryNote | undefined> {
  const { state } = journal;
  const { id } = journal;
  const what = `transaction ${id} (${summarise(state)})`;
  if (state.commit)
    return await finish(workspace, journal, { isLocked: false, isBrief: true, underLock: HOLDS_LOCK });
  if (isParked(state)) return undefined;
  if (canBeParked(state)) {
    // Its devices are free from then on.
    const kept = await removeLogs(workspace, id, state.statements);
    await journal.append({ type: "parked", statement: state.statements.length - 1 }, "parked");
    const text = `kept the unfinished copy of ${sayParked(state)}${sayKept(kept)}`;
    return { transaction: id, did: "kept", text };
  }
  const unfinished = firstUnfinished(state);
  const mustGo = state.aborting || (await mustAbort(workspace, state));
  const hasFences = state.fences.length > 0;
  const from = unfinished?.plan.statement ?? firstWithoutPlan(state);
  if (!mustGo && from === undefined && !hasFences) return undefined;
  if (await isInHistory(workspace, id)) {
    const fences = state.fences.filter(({ kept }) => !kept);
    const left = sayKept(await lowerFences(workspace, { ...state, fences }));
    await journal.retire();
    const text = `cleared away the journal of ${what}, which was committed${left}`;
    return { transaction: id, did: "retired", text };
  }
  if (mustGo) {
    if (state.aborting) await journal.secure();
    const kept = await undoTransaction(workspace, journal);
    await discardNextGeneration(workspace, await readTable(workspace));
    await journal.retire(state.volumes.length > 0);
    return {
      transaction: id,
      did: "aborted",
      text: `undid ${what}, which was interrupted: no disk was changed${sayKept(kept)}`,
    };
  }
  if (hasFences) {
    const kept = await takeFencesBack(workspace, journal);
    const text = `lifted the fences of a commit of transaction ${id} that was interrupted; it stays open${sayKept(kept)}`;
    if (from === undefined) return { transaction: id, did: "undone", text };
  }
  if (from === undefined) return undefined;
  if (state.begin.onError === "abort") {
    // At once, and not after an undo of the statement: a crash between the two would leave it open.
    const kept = await abortJournal(workspace, journal, true);
    const text = `aborted ${what}: an action of it was interrupted${sayKept(kept)}`;
    return { transaction: id, did: "aborted", text };
  }
  const kept = await undoFrom(workspace, journal, from);
  const text = `undid the interrupted '${unfinished?.plan.kind ?? "making of volumes"}' in transaction ${id}, which stays open`;
  return { transaction: id, did: "undone", text: `${text}${sayKept(kept)}` };
}

type Untold = Omit<Finishing, "onNotice">;

async function finish(workspace: Workspace, journal: Journal, how: Untold): Promise<RecoveryNote> {
  const { id, state } = journal;
  await journal.secure();
  await activateAll(workspace, journal);
  const overlays = await findOverlaysAway(workspace, state);
  const lines: string[] = [];
  const table = await finishOrKeep(workspace, journal, { ...how, onNotice: (line) => lines.push(line) });
  const left = [
    ...overlays.map((overlay) => `; '${overlay}' stays, on a disk that is not there: remove it when it is`),
    ...lines.map((line) => `; ${line}`),
  ];
  return {
    transaction: id,
    did: "finished",
    text: `finished transaction ${id} (${summarise(state)}): the devices are at generation ${table.generation}${left.join("")}`,
  };
}

/** `'vda': `imgtx mirror vda FILE` goes on with it, …` */
function sayParked({ statements }: TransactionState): string {
  const plan = statements[0]?.plan;
  const [device = ""] = plan?.devices ?? [];
  const pairs = plan?.newFiles.map(({ path }) => path).join(", ");
  return (
    `'${plan?.devices.join("', '")}' in ${pairs}: the same \`imgtx mirror ${device} FILE\` goes on with it, ` +
    `\`imgtx mirror --cancel ${device}\` removes it`
  );
}

async function openUnlessBusy(workspace: Workspace, id: string): Promise<Journal | undefined> {
  return await unlessItFails(() => Journal.open(workspace, id), ["E_BUSY"]);
}

// The ways out of what recovery can't end by itself: a person says that what can't be done is left.
//
// Invariants
// - Only what waits is ended here: never what is open and well, and never what a live process works on.
// - What is left is named, file by file. The journal is kept as a record where anything is.
// - A committed transaction is finished or given up, and never undone; one that is not, never finished.

import {
  assertOwn,
  isClaimName,
  underWorkspaceLock,
  readTable,
  removeClaim,
  replaceTable,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { summarise } from "../commit/closing.ts";
import { shellQuote } from "../../format/index.ts";
import { finishCommit, lockForMoments, withCopiesForgotten } from "../commit/finish.ts";
import { givenUpPath, setAside } from "./given-up.ts";
import { describeOutcome } from "../describe/describe.ts";
import {
  Journal,
  type JournalSnapshot,
  lastSeen,
  liveStatements,
  logsOf,
  type PreparedRedo,
  readJournals,
  redoOf,
  type Statement,
  type TransactionState,
} from "../journal/index.ts";
import { firstUnfinished, mustAbort } from "./leftovers.ts";
import { isDiskThere } from "../images/planned-folders.ts";
import { isUntouched } from "../images/apply-redo.ts";
import type { GivenUp } from "../describe/repair-results.ts";
import type { KeptFile, RunOptions, Session } from "../requests/request.ts";
import type { Outcome } from "../describe/results.ts";
import { undoWhatCanBe } from "./undo.ts";

/** Finishes a committed transaction that waits, and leaves images that are gone, or another's, as they are. */
export async function forceCommit(session: Session, id: string, options: RunOptions): Promise<Outcome> {
  const { workspace } = session;
  return await withWaiting(session, id, async (journal) => {
    const { state } = journal;
    if (!state.commit) {
      throw new ImgtxError("E_TRANSACTION", `transaction ${id} is not committed, and was interrupted`, {
        hint: `\`imgtx txn abort --force ${id}\` takes back what can be`,
      });
    }
    const kept: KeptFile[] = [];
    const plans = liveStatements(state).map(({ plan }) => plan);
    const parts = { transaction: id, plans, kept, pending: false, dryRun: options.dryRun };
    if (options.dryRun) {
      return await describeOutcome(workspace, {
        ...parts,
        changed: false,
        table: await readTable(workspace),
      });
    }
    await journal.secure();
    const table = await finishCommit(workspace, journal, {
      isLocked: false,
      waiting: options,
      onProgress: options.onProgress,
      throttle: options.throttle,
      onNotice: options.onNotice,
      onLeft: (file) => {
        kept.push(file);
        options.onKept?.(file);
      },
      underLock: lockForMoments(workspace, options),
    });
    return await describeOutcome(workspace, { ...parts, changed: true, table });
  });
}

/** Takes back what can be of a transaction that is not committed, and leaves the rest as it is. */
export async function forceAbort(session: Session, id: string, options: RunOptions): Promise<Outcome> {
  const { workspace } = session;
  return await withWaiting(session, id, async (journal) => {
    const { state } = journal;
    if (state.commit) {
      throw new ImgtxError("E_TRANSACTION", `transaction ${id} is committed, and can't be undone`, {
        hint: `\`imgtx txn commit --force ${id}\` finishes it; \`imgtx recover --give-up ${id}\` leaves it as it is`,
      });
    }
    const plans = liveStatements(state).map(({ plan }) => plan);
    let kept: readonly KeptFile[] = [];
    if (!options.dryRun) {
      if (!state.begin.implicit && !state.aborting) await journal.append({ type: "abort" }, "abort mark");
      kept = await undoWhatCanBe(workspace, journal);
      for (const file of kept) options.onKept?.(file);
      if (kept.length === 0) await journal.retire();
      else await underWorkspaceLock(workspace, options, async () => await setAside(workspace, [id]));
    }
    return await describeOutcome(workspace, {
      changed: !options.dryRun,
      dryRun: options.dryRun,
      transaction: id,
      pending: false,
      undoes: true,
      plans,
      table: await readTable(workspace),
      kept,
    });
  });
}

/**
 * Sets the journal of a transaction that waits aside, and says what is left by it. Changes no image. Or takes away the claim
 * that a process left on the workspace which can't be seen: its transactions wait, as any do.
 */
export async function giveUp(session: Session, id: string, options: RunOptions): Promise<GivenUp> {
  const { workspace } = session;
  // Also in a copy, which has it from its original, and can't be adopted with it.
  if (isClaimName(id)) {
    const what = `the claim of ${await removeClaim(workspace, id, options)} on the workspace`;
    const { generation: present } = await readTable(workspace);
    const nothing = { record: null, devices: [], left: [] };
    return { id, changed: !options.dryRun, what, generation: present, ...nothing };
  }
  await assertOwn(workspace);
  const ended = session.recovered.find((note) => note.transaction === id && note.did !== "waiting");
  const snapshot = await findWaiting(workspace, id, ended !== undefined);
  const record = givenUpPath(workspace, id);
  const { generation } = await readTable(workspace);
  if (!snapshot) return { id, changed: false, record: null, what: "", devices: [], left: [], generation };
  const { state, held } = snapshot;
  const isRead = !(state instanceof ImgtxError);
  const left = isRead ? await describeLeft(workspace, state) : [];
  if (!options.dryRun) {
    await underWorkspaceLock(workspace, options, async () => {
      if (isRead && state.commit) {
        await replaceTable(workspace, withCopiesForgotten(await readTable(workspace), state));
      }
      await setAside(workspace, [id]);
    });
  }
  const what = isRead ? summarise(state) : state.message;
  return { id, changed: !options.dryRun, record, what, devices: held, left, generation };
}

async function withWaiting<T>(
  session: Session,
  id: string,
  use: (journal: Journal) => Promise<T>,
): Promise<T> {
  await assertOwn(session.workspace);
  await findWaiting(session.workspace, id, false);
  const journal = await Journal.open(session.workspace, id, undefined, { isForced: true });
  if (!journal) throw notWaiting(id);
  try {
    return await use(journal);
  } finally {
    await journal.close();
  }
}

/** The journal with this id, which waits; undefined where it need not be there any more, and is not. */
async function findWaiting(
  workspace: Workspace,
  id: string,
  mayBeGone: boolean,
): Promise<JournalSnapshot | undefined> {
  const snapshot = (await readJournals(workspace)).find((one) => one.id === id);
  if (!snapshot && mayBeGone) return undefined;
  if (!snapshot) throw notWaiting(id);
  const { state } = snapshot;
  if (snapshot.busy) {
    const pid = state instanceof ImgtxError ? undefined : state.begin.worker?.pid;
    const who = pid === undefined ? "" : ` (pid ${pid})`;
    throw new ImgtxError("E_BUSY", `another imgtx command works on transaction ${id}${who}`, {
      hint: "wait until it has ended",
    });
  }
  if (snapshot.unsure) return snapshot;
  if (state instanceof ImgtxError || state.commit || state.aborting || firstUnfinished(state))
    return snapshot;
  if (await mustAbort(workspace, state)) return snapshot;
  throw new ImgtxError("E_TRANSACTION", `transaction ${id} is open, and waits for nothing`, {
    hint: `end it with \`imgtx txn commit ${id}\` or \`imgtx txn abort ${id}\``,
  });
}

function notWaiting(id: string): ImgtxError {
  return new ImgtxError("E_NO_TRANSACTION", `no transaction '${id}' waits to be finished or undone`, {
    hint: "`imgtx txn status` lists those that do",
  });
}

/** What stays of the transaction where nothing more is done for it: files of its own, and images that it changes. */
async function describeLeft(workspace: Workspace, state: TransactionState): Promise<KeptFile[]> {
  const left: KeptFile[] = [];
  for (const statement of state.statements) {
    if (!statement.undone) left.push(...(await describeFiles(workspace, statement, state)));
  }
  const changing = state.commit ? redoOf(state) : new Map<string, PreparedRedo>();
  for (const image of new Set([...changing.keys(), ...state.fences.map((fence) => fence.image)])) {
    const redo = changing.get(image);
    const isHalf = redo !== undefined && (await mayBeChanged(workspace, state, redo));
    left.push({ path: image, why: sayImageLeft(state, image, isHalf) });
  }
  return left;
}

/** Whether some of its redo log may have been applied: also where the log can't be read any more. */
async function mayBeChanged(
  { storage }: Workspace,
  state: TransactionState,
  redo: PreparedRedo,
): Promise<boolean> {
  try {
    return !(await isUntouched(storage, state, redo));
  } catch (error) {
    if (error instanceof ImgtxError) return true;
    throw error;
  }
}

function sayImageLeft(state: TransactionState, image: string, isHalf: boolean): string {
  const half = "it may be changed by half";
  if (isHalf && redoOf(state).get(image)?.guardedBy !== "fence") return half;
  const device = lastSeen(state).get(image)?.device ?? "DEV";
  const lift = `\`imgtx unfreeze --force ${device}\` lifts it`;
  return isHalf
    ? `${half}, and have a fence: see what \`imgtx img check ${shellQuote(image)}\` says of it before ${lift}`
    : `it may have a fence: ${lift}`;
}

async function describeFiles(
  { storage }: Workspace,
  { plan }: Statement,
  { commit }: TransactionState,
): Promise<KeptFile[]> {
  const left: KeptFile[] = [];
  for (const { path, staging } of plan.newFiles) {
    const isThere = await isDiskThere(storage, path, plan.folders);
    const found: string[] = [];
    for (const one of [staging, path]) if (await storage.statLink(one)) found.push(one);
    for (const one of new Set(isThere ? found : [staging, path])) {
      left.push({
        path: one,
        why: isThere ? "the transaction made it" : "it may be on its disk, which is not there",
      });
    }
  }
  for (const { into, kind } of commit ? plan.copies : []) {
    left.push({
      path: into,
      why:
        kind === "up"
          ? "it shows what it showed, on the one backing image or on the other, and may have a fence"
          : "it may hold a half of what was to be copied into it, and have a fence; `imgtx mirror DEV` compares all of it",
    });
  }
  for (const log of logsOf(plan)) {
    if (await storage.statLink(log)) left.push({ path: log, why: "the transaction made it" });
  }
  return left;
}

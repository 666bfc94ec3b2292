// The transaction layer's face: a session is one command's look at one workspace, after recovery.

import {
  assertOwn,
  type DeviceTable,
  findWorkspace,
  lockOwner,
  makeWorkspace,
  readTable,
  type Workspace,
  withDevices,
  workspaceAt,
} from "../device/index.ts";
import { ImgtxError, whileOpen } from "../errors/index.ts";
import type { Storage } from "../storage/index.ts";
import { hasNoSavepoint, type Purpose, TO_ABORT, TO_COMMIT, toUseSavepoint } from "./choose.ts";
import { commitJournal, rehearseCommit } from "./commit/commit.ts";
import { describeOutcome, describeTransaction } from "./describe/describe.ts";
import { commitImplicit, planOnly, runStatements } from "./engine/engine.ts";
import { changesOf, isParked, type Journal, liveStatements, readJournals } from "./journal/index.ts";
import { settleBesideDevices } from "./recover/beside.ts";
import { recover, type RecoveryCaller, reportLeftovers } from "./recover/recovery.ts";
import { assertAlone, findApplied, onceOf } from "./once.ts";
import { noteLostHooks } from "./hooks.ts";
import { withRoom } from "./engine/provision.ts";
import { createJournal, pickJournal, requireJournal, requireOpen } from "./engine/pick-journal.ts";
import { assertWhole, renewMirrors } from "./engine/renew.ts";
import type { ActionRequest, KeptFile, LockWait, RunOptions, Session } from "./requests/request.ts";
import type { Outcome, TransactionDescription } from "./describe/results.ts";
import { abortJournal, goBackTo } from "./recover/undo.ts";
import { verifySynced } from "./engine/verify-synced.ts";
import {
  type Attempt,
  effectiveTable,
  endWork,
  startWork,
  throwIfInterrupted,
  withFound,
  type Work,
} from "./engine/work.ts";

export interface SessionOptions extends LockWait {
  /** Where the search for a workspace begins. */
  readonly startFolder: string;
  /** The workspace that was named; its parents are not searched. */
  readonly workspace: string | undefined;
  /** Workspaces of other users that the caller trusts: absolute paths. */
  readonly safeWorkspaces?: readonly string[];
  /** Where there is none, work in the one that would be made here. The first plan makes it. */
  readonly createHere: boolean;
  /** Who opens it: what only reads waits for nobody, and `recover` leaves nothing to others. Default: a writer. */
  readonly caller?: RecoveryCaller;
  /** Say what recovery would do, and do nothing: `recover --dry-run`. */
  readonly reportOnly?: boolean;
  readonly onProgress?: RunOptions["onProgress"];
  /** Holds what recovery copies to a rate. */
  readonly throttle?: RunOptions["throttle"];
}

export async function initWorkspace(
  storage: Storage,
  folder: string,
  safeWorkspaces: readonly string[] = [],
): Promise<{ root: string; created: boolean }> {
  const workspace = await workspaceAt(storage, folder, safeWorkspaces);
  const created = await makeWorkspace(workspace, new Date(storage.host.now()).toISOString());
  if (!created) await assertOwn(workspace);
  const notes = await recover(workspace, {
    caller: "writer",
    waiting: { waitMs: 10_000, onWait: () => undefined },
  });
  const unseen = notes.find(({ did, transaction }) => did === "waiting" && transaction === null);
  if (created && unseen) {
    throw new ImgtxError("E_UNFINISHED", `the workspace is made, but not finished: ${unseen.text}`, {
      image: workspace.root,
      changed: true,
      hint: "the next imgtx command shows it; `imgtx recover` does only that",
    });
  }
  return { root: workspace.root, created };
}

/** Finds the workspace and runs recovery in it. E_NO_WORKSPACE where there is none. */
export async function openSession(storage: Storage, options: SessionOptions): Promise<Session> {
  const workspace = await findOrPlace(storage, options);
  const { caller = "writer", onProgress, throttle } = options;
  const how = { caller, waiting: options, onProgress, throttle };
  const recovered = options.reportOnly
    ? await reportLeftovers(workspace)
    : [...(await settleBesideDevices(workspace, how)), ...(await recover(workspace, how))];
  recovered.push(...(await noteLostHooks(workspace, caller === "recover" && options.reportOnly !== true)));
  return { workspace, root: workspace.root, currentFolder: options.startFolder, recovered };
}

/** E_REFUSED in a workspace that is a copy: it is only read. */
export async function assertChangeable({ workspace }: Session): Promise<void> {
  await assertOwn(workspace);
}

/** Runs actions in the open transaction, or as a transaction of their own. */
export async function runActions(
  session: Session,
  requests: readonly ActionRequest[],
  choice: RunOptions,
): Promise<Outcome> {
  const { workspace } = session;
  await assertChangeable(session);
  const { kept, options } = collectKept(choice);
  const joined = options.standalone ? undefined : await pickJournal(workspace, options.transaction, options);
  try {
    return await withRoom({ workspace, journal: joined, options }, (attempt) =>
      runOnce(session, requests, { joined, kept, options }, attempt),
    );
  } finally {
    await joined?.close();
  }
}

async function runOnce(
  session: Session,
  requests: readonly ActionRequest[],
  {
    joined: journal,
    kept,
    options,
  }: { readonly joined: Journal | undefined } & ReturnType<typeof collectKept>,
  attempt: Attempt,
): Promise<Outcome> {
  const { workspace } = session;
  attempt.isUndone = journal === undefined && !options.dryRun;
  const id = journal?.id ?? workspace.storage.host.randomName();
  const once = onceOf(options, requests);
  const work = await startWork(session, options, { id, journal, attempt });
  try {
    assertAlone(once, journal?.id);
    const applied = await findApplied(workspace, once, options.dryRun);
    if (applied) return applied;
    if (options.dryRun) return await dryRun(work, requests, journal);
    const first = journal?.state.statements.length ?? 0;
    const before = await readTable(workspace);
    await runStatements(work, requests);
    const done = work.journal?.state.statements.slice(first).map(({ plan }) => plan) ?? [];
    const after = !journal && work.journal ? await commitImplicit(work, work.journal, once) : before;
    // Nothing else is read after it: a disk that fails now must not make a failure of what is done.
    if (!journal) await verifySynced(work, requests, done, after);
    return await describeOutcome(workspace, {
      changed: done.length > 0,
      dryRun: false,
      transaction: work.id,
      joined: journal?.state.begin,
      pending: journal !== undefined,
      plans: [...work.idle, ...withFound(done, work.found)],
      table: journal ? withDevices(after, changesOf(journal.state)) : after,
      kept,
    });
  } finally {
    await endWork(work);
    if (!journal) await work.journal?.close();
  }
}

export async function beginTransaction(
  session: Session,
  choice: { name: string | undefined; onError: "abort" | "keep"; owned: boolean },
  wait: LockWait,
): Promise<{ description: TransactionDescription; release(): Promise<void> }> {
  const { workspace } = session;
  await assertChangeable(session);
  const id = workspace.storage.host.randomName();
  const owner = choice.owned ? await lockOwner(workspace, id) : undefined;
  try {
    const journal = await createJournal(workspace, { ...choice, name: choice.name ?? null, id }, wait);
    await journal.close();
    return {
      description: describeTransaction(workspace, { id, state: journal.state, busy: false }, undefined),
      release: async () => await owner?.close(),
    };
  } catch (error) {
    await owner?.close();
    throw error;
  }
}

/** Commits the named transaction, or that which was begun here. One that holds nothing makes no generation. */
export async function commitTransaction(
  session: Session,
  id: string | undefined,
  choice: RunOptions,
): Promise<Outcome> {
  const { workspace } = session;
  const { kept, options } = collectKept(choice);
  return await withJournal(workspace, { id, purpose: TO_COMMIT }, options, async (journal) => {
    throwIfInterrupted(options.signal);
    assertWhole(journal.state);
    const table = options.dryRun
      ? await rehearse(workspace, journal, options)
      : await withRoom({ workspace, journal, options }, (attempt) =>
          commitOpen(session, journal, options, attempt),
        );
    const plans = liveStatements(journal.state).map(({ plan }) => plan);
    return await describeOutcome(workspace, {
      changed: plans.length > 0 && !options.dryRun,
      dryRun: options.dryRun,
      transaction: journal.id,
      joined: options.dryRun ? journal.state.begin : undefined,
      pending: options.dryRun,
      plans,
      table,
      kept,
    });
  });
}

async function rehearse(workspace: Workspace, journal: Journal, options: RunOptions): Promise<DeviceTable> {
  if (liveStatements(journal.state).length > 0) await rehearseCommit(workspace, journal, options);
  return await readTable(workspace);
}

/** With the copies that the transaction made brought in sync first. */
async function commitOpen(
  session: Session,
  journal: Journal,
  options: RunOptions,
  attempt: Attempt,
): Promise<DeviceTable> {
  const { workspace } = session;
  const statements = liveStatements(journal.state);
  if (statements.length === 0) {
    await abortJournal(workspace, journal, false);
    return await readTable(workspace);
  }
  const { onProgress, throttle, onNotice, markEveryMs } = options;
  const inHand = { onProgress, throttle, onNotice, markEveryMs };
  if (statements.every(({ plan }) => !plan.renewable)) {
    attempt.isUndone = true;
    return await commitJournal(workspace, journal, options, inHand);
  }
  const work = await startWork(session, options, { id: journal.id, journal, attempt: undefined });
  try {
    const open = await renewMirrors(work, journal);
    attempt.isUndone = true;
    return await commitJournal(workspace, journal, options, { ...inHand, open });
  } finally {
    await endWork(work);
  }
}

/** Takes back the named transaction, or that which was begun here. Its actions are listed as they were. */
export async function abortTransaction(
  session: Session,
  id: string | undefined,
  choice: RunOptions,
): Promise<Outcome> {
  const { workspace } = session;
  const { kept, options } = collectKept(choice);
  return await withJournal(workspace, { id, purpose: TO_ABORT }, options, async (journal) => {
    const plans = liveStatements(journal.state).map(({ plan }) => plan);
    const table = await readTable(workspace);
    const left = options.dryRun ? [] : await abortJournal(workspace, journal, false);
    for (const file of left) options.onKept(file);
    return await describeOutcome(workspace, {
      changed: !options.dryRun,
      dryRun: options.dryRun,
      transaction: journal.id,
      joined: options.dryRun ? journal.state.begin : undefined,
      undoes: true,
      pending: options.dryRun,
      plans,
      table,
      kept,
    });
  });
}

/** Marks a point in the transaction that rollbackToSavepoint goes back to. A name may be used again. */
export async function makeSavepoint(
  session: Session,
  id: string | undefined,
  name: string,
  wait: LockWait,
): Promise<Outcome> {
  const { workspace } = session;
  const purpose = toUseSavepoint("savepoint", name);
  return await withJournal(workspace, { id, purpose }, wait, async (journal) => {
    const table = await readTable(workspace);
    await journal.appendOrTakeBack({ type: "savepoint", name }, "savepoint");
    return await describeOpen(workspace, journal, { changed: false, table, kept: [] });
  });
}

/** Undoes what came after the latest savepoint of this name, which stays. */
export async function rollbackToSavepoint(
  session: Session,
  id: string | undefined,
  name: string,
  wait: LockWait,
): Promise<Outcome> {
  const { workspace } = session;
  const purpose = toUseSavepoint("rollback-to", name);
  return await withJournal(workspace, { id, purpose }, wait, async (journal) => {
    const { savepoints } = journal.state;
    const savepoint = savepoints.findLast((one) => one.name === name);
    if (!savepoint) {
      const names = savepoints.map((one) => one.name);
      throw hasNoSavepoint({ id: journal.id, savepoints: names }, name);
    }
    const table = await readTable(workspace);
    const before = liveStatements(journal.state).length;
    const kept = await goBackTo(workspace, journal, savepoint.nextStatement);
    for (const file of kept) wait.onKept?.(file);
    const changed = liveStatements(journal.state).length < before;
    return await describeOpen(workspace, journal, { changed, table, kept });
  });
}

/** The open transaction that `txn savepoint` or `txn rollback-to` would work on. */
export async function findTransaction(
  { workspace }: Session,
  id: string | undefined,
  purpose: Purpose,
): Promise<TransactionDescription> {
  return await requireOpen(workspace, id, purpose);
}

/** The open ones, and all that waits to be finished or undone, or can't be read. */
export async function listTransactions(session: Session): Promise<TransactionDescription[]> {
  const problems = new Map(session.recovered.map((note) => [note.transaction, note.obstacle] as const));
  return (await readJournals(session.workspace)).flatMap((snapshot) => {
    const { id, state } = snapshot;
    // A copy that was cut off holds nothing: it is there to be gone on with, or to be removed.
    if (!(state instanceof ImgtxError) && isParked(state)) return [];
    return [describeTransaction(session.workspace, snapshot, problems.get(id))];
  });
}

async function findOrPlace(storage: Storage, options: SessionOptions): Promise<Workspace> {
  try {
    return await findWorkspace(storage, options.startFolder, options.workspace, options.safeWorkspaces);
  } catch (error) {
    if (!options.createHere || !(error instanceof ImgtxError) || error.code !== "E_NO_WORKSPACE") throw error;
    return await workspaceAt(storage, options.workspace ?? options.startFolder, options.safeWorkspaces);
  }
}

async function dryRun(
  work: Work,
  requests: readonly ActionRequest[],
  journal: Journal | undefined,
): Promise<Outcome> {
  const plans = await planOnly(work, requests);
  return await describeOutcome(work.workspace, {
    changed: false,
    dryRun: true,
    transaction: journal?.id ?? null,
    joined: journal?.state.begin,
    pending: journal !== undefined,
    plans,
    table: await effectiveTable(work),
    kept: [],
  });
}

async function withJournal<T>(
  workspace: Workspace,
  { id, purpose }: { readonly id: string | undefined; readonly purpose: Purpose },
  wait: LockWait,
  use: (journal: Journal) => Promise<T>,
): Promise<T> {
  return await whileOpen(await requireJournal(workspace, id, purpose, wait), use);
}

async function describeOpen(
  workspace: Workspace,
  journal: Journal,
  { changed, table, kept }: { changed: boolean; table: DeviceTable; kept: readonly KeptFile[] },
): Promise<Outcome> {
  return await describeOutcome(workspace, {
    changed,
    dryRun: false,
    transaction: journal.id,
    joined: journal.state.begin,
    pending: true,
    plans: liveStatements(journal.state).map(({ plan }) => plan),
    table,
    kept,
  });
}

/** What is left is told at once, since a command may fail later on, and is part of its outcome where it does not. */
function collectKept(options: RunOptions): {
  readonly kept: readonly KeptFile[];
  readonly options: RunOptions & { onKept(file: KeptFile): void };
} {
  const kept: KeptFile[] = [];
  const onKept = (file: KeptFile): void => {
    kept.push(file);
    options.onKept?.(file);
  };
  return { kept, options: { ...options, onKept } };
}

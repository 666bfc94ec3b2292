// Runs actions: plan, journal, prepare; then commits, or leaves them in the open transaction.
//
// Invariants
// - The plan is durable before the first file is made: see enter.ts.
// - Locks are taken in one order: journal, images, workspace.
// - An image that changes between being read for a plan and being locked is found by the commit, which
//   compares all images with what the plan read, under their locks.
// - What fails before the commit mark is undone before the error is thrown on.

import {
  assertShown,
  type DeviceTable,
  withDevices,
  withGivenUp,
  withRenames,
  withSealsOf,
} from "../../device/index.ts";
import { ImgtxError, settleAll } from "../../errors/index.ts";
import { assertActiveLayersApart } from "../actions/plan/chain-entry.ts";
import { commitJournal } from "../commit/commit.ts";
import { enterStatement } from "./enter.ts";
import { assertDevicesFree } from "./held.ts";
import { extendFor } from "./provision.ts";
import type { Journal, PlanRecord } from "../journal/index.ts";
import { changedImages, planStatement } from "./plan.ts";
import { lookAtNamed, prepareStatement } from "./prepare.ts";
import type { ActionRequest, Once } from "../requests/request.ts";
import { abortJournal, undoFrom } from "../recover/undo.ts";
import { effectiveTable, throwIfInterrupted, waitingOf, type Work } from "./work.ts";

/** Plans every request on top of the one before, and changes nothing. */
export async function planOnly(work: Work, requests: readonly ActionRequest[]): Promise<PlanRecord[]> {
  let table = await effectiveTable(work);
  const plans: PlanRecord[] = [];
  for (const [index, request] of requests.entries()) {
    work.options.onRequest?.(index);
    const statement = { table, request, number: plans.length, earlier: plans };
    const { plan, record } = await planStatement(work, statement).catch(async (error: unknown) => {
      const device = error instanceof ImgtxError ? error.device : undefined;
      // What holds it is the cause, where that keeps it from being planned on.
      if (device !== undefined) await assertDevicesFree(work, { devices: [device], kind: request.kind });
      throw error;
    });
    await work.images.lock(waitingOf(work), changedImages(record));
    await assertDevicesFree(work, record);
    const moved = withSealsOf(withDevices(table, record.changes), table);
    const changed = withRenames(moved, record.renames ?? [], table.generation + 1);
    const next = (record.givesUp ?? []).reduce(withGivenUp, changed);
    assertShown(table, next);
    table = next;
    await assertActiveLayersApart(work.workspace.storage, table, record.devices);
    plans.push(record);
    if (index < requests.length - 1) await work.dryRun?.stage(work.id, plan.redo ?? []);
  }
  work.options.onRequest?.(undefined);
  return plans;
}

/**
 * Runs the requests as statements of the work's transaction. When one fails all of them are undone; an
 * implicit transaction, or one begun with --on-error abort, is aborted whole.
 */
export async function runStatements(work: Work, requests: readonly ActionRequest[]): Promise<void> {
  const first = work.journal?.state.statements.length ?? 0;
  for (const [index, request] of requests.entries()) {
    work.options.onRequest?.(index);
    try {
      await runStatement(work, request);
    } catch (error) {
      throw await undoAfterFailure(work, first, error);
    }
  }
  work.options.onRequest?.(undefined);
}

/** Commits an implicit transaction after its last statement. Returns the table that it made. */
export async function commitImplicit(work: Work, journal: Journal, once?: Once): Promise<DeviceTable> {
  try {
    throwIfInterrupted(work.options.signal);
    const { images, underWay, just, options } = work;
    const { onProgress, throttle, onNotice, markEveryMs } = options;
    const close = async (image: string): Promise<void> => await images.closeImage(image);
    const told = { onProgress, throttle, onNotice, markEveryMs, once };
    const inHand = { open: images.byPath(), close, underWay, just, ...told };
    return await commitJournal(work.workspace, journal, waitingOf(work), inHand);
  } catch (error) {
    const isInDoubt = error instanceof ImgtxError && error.code === "E_UNFINISHED";
    throw journal.state.commit || isInDoubt ? error : await undoAfterFailure(work, 0, error);
  }
}

async function runStatement(work: Work, request: ActionRequest): Promise<void> {
  throwIfInterrupted(work.options.signal);
  const { plan, record } = await enterStatement(work, request);
  if (work.idle.includes(record)) return;
  const { journal } = work;
  if (!journal) throw new Error("a statement that was entered has a journal");
  const isPrepared = record.newFiles.length > 0 || record.redo.length > 0;
  const named = isPrepared ? await prepareStatement(work, journal, plan, record) : [];
  if (journal.state.begin.implicit) {
    work.underWay = settleAll([work.underWay, ...named]);
    // Whoever waits for it sees a failure; until then it is not an unhandled one.
    work.underWay.catch(() => undefined);
  } else {
    await settleAll(named);
    const looks = await lookAtNamed(work, journal, record);
    await journal.append({ type: "done", statement: record.statement, named: looks }, "done");
  }
}

/** Undoes what this command did. Returns the error to throw: the first one, which is the cause. */
async function undoAfterFailure(work: Work, first: number, cause: unknown): Promise<unknown> {
  const { workspace, journal } = work;
  if (!journal) return cause;
  await Promise.allSettled([work.underWay]);
  // With their locks: undo asks who has what it removes, redo logs too, and this command has no more use for it.
  await work.images.close();
  await work.staged.close();
  const { implicit, onError } = journal.state.begin;
  const { isExtended, error } = await makeRoom(work, journal, cause);
  const aborts = implicit || (onError === "abort" && !isExtended);
  try {
    const kept = aborts
      ? await abortJournal(workspace, journal, false)
      : await undoFrom(workspace, journal, first);
    for (const file of kept) work.options.onKept?.(file);
    if (work.attempt && isExtended) work.attempt.isExtended = true;
  } catch (undoError) {
    if (!(error instanceof ImgtxError) || !(undoError instanceof ImgtxError)) return error;
    // With the code of the second failure: "refused, nothing changed" would not be true yet.
    return undoError.reworded(`${error.message}; and then it could not be undone: ${undoError.message}`, {
      hint: "files of the transaction are still there; the next imgtx command removes them",
      cause: new AggregateError([error, undoError]),
    });
  }
  if (implicit || !aborts || !(error instanceof ImgtxError)) return error;
  const said = error.message.replace(/\.$/, "");
  return error.reworded(`${said}; transaction ${journal.id} is aborted with it (--on-error abort)`);
}

/** In an open transaction, whose other actions stay: by itself it is extended when nothing of it is left. */
async function makeRoom(
  { workspace, options, attempt }: Work,
  journal: Journal,
  error: unknown,
): Promise<{ readonly isExtended: boolean; readonly error: unknown }> {
  if (journal.state.begin.implicit || !attempt || attempt.isLast) return { isExtended: false, error };
  try {
    return { isExtended: await extendFor({ workspace, journal, options }, error), error };
  } catch (failure) {
    return { isExtended: false, error: failure };
  }
}

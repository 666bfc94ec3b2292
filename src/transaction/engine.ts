// Runs actions: plan, journal, prepare; then commits, or leaves them in the open transaction.
//
// Invariants
// - The plan is durable before the first file is made, under the workspace lock and with no other open
//   transaction on the same devices. So two processes never work on one device.
// - Locks are taken in one order: journal, images, workspace.
// - An image that changes between being read for a plan and being locked is found by the commit, which
//   compares all images with what the plan read, under their locks.
// - What fails before the commit mark is undone before the error is thrown on.

import { type DeviceTable, findDevice, lockWorkspace, makeWorkspace, withDevices } from "../device/index.ts";
import { ImgtxError, settleAll } from "../errors/index.ts";
import type { Plan } from "./action.ts";
import { assertActiveLayersApart } from "./chain-entry.ts";
import { commitJournal } from "./commit.ts";
import { beginRecordOf, Journal, type PlanRecord, readJournals } from "./journal/index.ts";
import { removeParked, takeParked } from "./parked.ts";
import { changedImages, planStatement } from "./plan.ts";
import { prepareStatement } from "./prepare.ts";
import { abortJournal, assertJournalsSound, settleJournals, undoFrom } from "./recovery.ts";
import { heldDevices } from "./journal/index.ts";
import type { ActionRequest } from "./request.ts";
import { effectiveTable, throwIfInterrupted, type Work } from "./work.ts";

/** Plans every request on top of the one before, and changes nothing. */
export async function planOnly(work: Work, requests: readonly ActionRequest[]): Promise<PlanRecord[]> {
  let table = await effectiveTable(work);
  const plans: PlanRecord[] = [];
  for (const [index, request] of requests.entries()) {
    work.options.onRequest?.(index);
    const { record } = await planStatement(work, { table, request, number: plans.length, earlier: plans });
    await work.images.lock(work.options, changedImages(record));
    await assertDevicesFree(work, record.devices);
    table = withDevices(table, record.changes);
    assertActiveLayersApart(table, record.devices);
    plans.push(record);
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

/** Commits an implicit transaction behind its last statement. Returns the table that it made. */
export async function commitImplicit(work: Work, journal: Journal): Promise<DeviceTable> {
  try {
    throwIfInterrupted(work.options.signal);
    const { images, underWay, options } = work;
    const { onProgress, onNotice } = options;
    const inHand = { open: images.byPath(), underWay, onProgress, onNotice };
    return await commitJournal(work.workspace, journal, options, inHand);
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
  const isPrepared = record.newFiles.length > 0 || record.patches.some(({ when }) => when === "prepare");
  const named = isPrepared ? await prepareStatement(work, journal, plan, record) : [];
  if (journal.state.begin.implicit) {
    work.underWay = settleAll([work.underWay, ...named]);
    // Whoever waits for it sees a failure; until then it is not an unhandled one.
    work.underWay.catch(() => undefined);
  } else {
    await settleAll(named);
    await journal.append({ type: "done", statement: record.statement }, "done");
  }
}

/** How often an action is planned anew because another command moved its devices meanwhile. */
const MOST_REPLANS = 8;
const RETRY_MS = 50;

/** Plans the request, locks its images, and makes the plan durable under the workspace lock. */
async function enterStatement(
  work: Work,
  request: ActionRequest,
): Promise<{ plan: Plan; record: PlanRecord }> {
  const { host } = work.workspace.storage;
  const deadline = host.now() + work.options.waitMs;
  const mark = work.images.mark();
  for (let replans = 0; ; ) {
    const table = await effectiveTable(work);
    const number = work.journal?.state.statements.length ?? 0;
    const { plan, record } = await planStatement(work, { table, request, number, earlier: [] });
    await work.images.lock(work.options, changedImages(record));
    throwIfInterrupted(work.options.signal);
    if (!work.journal && hasNothingToDo(record)) {
      work.idle.push(record);
      return { plan, record };
    }
    const entered = await enterPlan(work, table, record);
    if (!(entered instanceof ImgtxError)) return { plan, record: entered };
    const obstacle = entered;
    await work.images.closeSince(mark);
    replans += 1;
    if (obstacle.code !== "E_CHANGED" ? host.now() >= deadline : replans >= MOST_REPLANS) throw obstacle;
    if (obstacle.code !== "E_CHANGED") {
      throwIfInterrupted(work.options.signal);
      if (replans === 1) work.options.onWait(obstacle.message);
      await host.sleep(RETRY_MS);
    }
  }
}

/** A transaction of nothing would make a generation that is the one before. */
function hasNothingToDo({ changes, newFiles, patches, kind }: PlanRecord): boolean {
  return kind === "mirror" && changes.length + newFiles.length + patches.length === 0;
}

/** The plan as it is in the journal; else what stood in the way, which may pass. */
async function enterPlan(
  work: Work,
  plannedOn: DeviceTable,
  record: PlanRecord,
): Promise<PlanRecord | ImgtxError> {
  const { workspace, options } = work;
  await makeWorkspace(workspace, new Date(workspace.storage.host.now()).toISOString());
  const lock = await lockWorkspace(workspace, options);
  try {
    await settleJournals(workspace, work.id);
    try {
      await assertDevicesFree(work, record.devices);
    } catch (error) {
      if (error instanceof ImgtxError && error.code === "E_BUSY") return error;
      throw error;
    }
    const table = await effectiveTable(work);
    const entryOf = (of: DeviceTable, name: string) => JSON.stringify(findDevice(of, name));
    const moved = record.devices.find((name) => entryOf(table, name) !== entryOf(plannedOn, name));
    if (moved !== undefined) {
      return new ImgtxError("E_CHANGED", "another command changed the device meanwhile", { device: moved });
    }
    assertActiveLayersApart(withDevices(table, record.changes), record.devices);
    return await addPlan(work, record);
  } finally {
    await lock.close();
  }
}

/** Actions behind which nobody would go on with an unfinished copy. */
const ENDS_COPIES: ReadonlySet<string> = new Set(["mirror-cancel", "device-remove"]);

async function addPlan(work: Work, record: PlanRecord): Promise<PlanRecord> {
  if (ENDS_COPIES.has(record.kind)) await removeParked(work.workspace, record.devices, work.options.onKept);
  if (work.journal) {
    await work.journal.append(record, "plan");
    return record;
  }
  const copy = { record, id: work.id };
  const parked =
    record.kind === "mirror" ? await takeParked(work.workspace, copy, work.options.onKept) : undefined;
  const plan = parked?.state.statements[0]?.plan;
  if (parked && plan) {
    work.journal = parked;
    work.id = parked.id;
    return plan;
  }
  const begin = beginRecordOf(work.workspace, {
    id: work.id,
    name: null,
    onError: "abort",
    implicit: true,
    owned: false,
  });
  work.journal = await Journal.create(work.workspace, begin, [record]);
  return record;
}

/** E_TRANSACTION where an open transaction holds one of the devices, E_BUSY where a running command does. */
async function assertDevicesFree(work: Work, devices: readonly string[]): Promise<void> {
  const journals = await readJournals(work.workspace, work.id);
  assertJournalsSound(journals);
  for (const { id, state } of journals) {
    if (state instanceof ImgtxError) continue;
    const device = heldDevices(state).find((held) => devices.includes(held));
    if (device === undefined) continue;
    const { name, implicit, pid, user } = state.begin;
    throw implicit || state.commit
      ? new ImgtxError("E_BUSY", `another imgtx command works on it (pid ${pid}, ${user})`, {
          device,
          hint: "wait for it, with --wait",
        })
      : new ImgtxError(
          "E_TRANSACTION",
          `it is in the open transaction ${name === null ? id : `${id} (${name})`}`,
          {
            device,
            hint: `join it with --txn ${id}, or end it with \`imgtx txn commit --txn ${id}\` or \`imgtx txn abort --txn ${id}\``,
          },
        );
  }
}

/** Undoes what this command did. Returns the error to throw: the first one, which is the cause. */
async function undoAfterFailure(work: Work, first: number, error: unknown): Promise<unknown> {
  const { workspace, journal } = work;
  if (!journal) return error;
  await Promise.allSettled([work.underWay]);
  const { implicit, onError } = journal.state.begin;
  const aborts = implicit || onError === "abort";
  try {
    const kept = aborts ? await abortJournal(workspace, journal) : await undoFrom(workspace, journal, first);
    for (const file of kept) work.options.onKept?.(file);
  } catch (undoError) {
    if (!(error instanceof ImgtxError) || !(undoError instanceof ImgtxError)) return error;
    // With the code of the second failure: "refused, nothing changed" would not be true yet.
    return undoError.reworded(`${error.message}; and then it could not be undone: ${undoError.message}`, {
      hint: "files of the transaction are still there; the next imgtx command removes them",
      cause: new AggregateError([error, undoError]),
    });
  }
  if (implicit || !aborts || !(error instanceof ImgtxError)) return error;
  return error.reworded(`${error.message}; transaction ${journal.id} is aborted with it (--on-error abort)`);
}

// How a statement gets into the journal: planned, its images locked, its devices free.
//
// Invariants
// - A plan is durable before its first file is made, under the workspace lock and with no other open
//   transaction on the same devices. So two processes never work on one device.
// - What stands in the way is waited for as long as the command waits for anything, and no longer.

import { posix } from "node:path";
import {
  assertShown,
  type DeviceEntry,
  type DeviceTable,
  findDevice,
  isWorkspaceMade,
  lockWorkspaceIfFree,
  makeFolderBeside,
  pathsOf,
  withDevices,
} from "../../device/index.ts";
import { ImgtxError, whileOpen } from "../../errors/index.ts";
import type { Plan } from "../actions/plan/action.ts";
import { traitsOf } from "../actions/index.ts";
import { assertActiveLayersApart } from "../actions/plan/chain-entry.ts";
import { findHeldBeside, findHeldUp, type HeldUp } from "./held.ts";
import { beginAlone } from "./pick-journal.ts";
import { provision } from "./provision.ts";
import { Journal, type JournalSnapshot, type PlanRecord } from "../journal/index.ts";
import { removeParked, takeParked } from "../recover/parked.ts";
import { changedImages, planStatement } from "./plan.ts";
import { heldError } from "../recover/waiting.ts";
import { findJournalBeside, settleBeside } from "../recover/beside.ts";
import { finishPatiently, settleJournals } from "../recover/recovery.ts";
import type { ActionRequest } from "../requests/request.ts";
import { setOnKept } from "./set-signposts.ts";
import { effectiveTable, lockMade, throwIfInterrupted, waitingOf, type Work } from "./work.ts";

/** How often an action is planned anew at once because another command moved its devices meanwhile. */
const MOST_REPLANS = 8;
const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 500;

/** Plans the request, locks its images, and makes the plan durable under the workspace lock. */
export async function enterStatement(
  work: Work,
  asked: ActionRequest,
): Promise<{ plan: Plan; record: PlanRecord }> {
  const { host } = work.workspace.storage;
  const mark = work.images.mark();
  let pauseMs = FIRST_PAUSE_MS;
  let request = asked;
  for (let tries = 1; ; tries += 1) {
    let planned: Awaited<ReturnType<typeof planAndEnter>>;
    const ready = await makeReady(work, request);
    if ("request" in ready) {
      // What was opened to name volumes was opened before they were there.
      if (ready.request !== request) await work.images.closeSince(mark);
      ({ request } = ready);
      planned = await planAndEnter(work, request, mark);
    } else planned = ready;
    if ("plan" in planned) return planned;
    await work.images.closeSince(mark);
    throwIfInterrupted(work.options.signal);
    work.search = undefined;
    const obstacle = await tryToEnd(work, planned);
    if (!obstacle || (obstacle.code === "E_CHANGED" && tries <= MOST_REPLANS)) continue;
    if (waitingOf(work).waitMs === 0) throw obstacle;
    if (tries === 1) work.options.onWait(obstacle.message);
    await host.sleep(pauseMs * (0.5 + Math.random() / 2));
    pauseMs = Math.min(pauseMs * 1.5, LONGEST_PAUSE_MS);
  }
}

/** With the volumes that it needs. */
async function makeReady(
  work: Work,
  request: ActionRequest,
): Promise<{ readonly request: ActionRequest } | HeldUp> {
  try {
    return await provision(work, request);
  } catch (error) {
    return await heldUpInstead(work, request, error);
  }
}

async function planAndEnter(
  work: Work,
  request: ActionRequest,
  mark: number,
): Promise<{ plan: Plan; record: PlanRecord } | HeldUp> {
  const table = await effectiveTable(work);
  const number = work.journal?.state.statements.length ?? 0;
  work.reads?.forget();
  let planned: { plan: Plan; record: PlanRecord };
  try {
    planned = await planStatement(work, { table, request, number, earlier: [] });
    await work.images.lock(waitingOf(work), changedImages(planned.record));
  } catch (error) {
    return await heldUpInstead(work, request, error);
  }
  const { plan, record } = planned;
  throwIfInterrupted(work.options.signal);
  // Those of earlier statements are locked since they were looked at.
  const heldBeside = await findHeldBeside(work, work.images.pathsSince(mark));
  if (heldBeside) return heldBeside;
  if (!work.journal && hasNothingToDo(record)) {
    work.idle.push(record);
    return planned;
  }
  const entered = await enterPlan(work, table, await setOnKept(work, table, record));
  return "obstacle" in entered ? entered : { plan, record: entered };
}

/** A device that is held may not be to be planned on, because of what holds it: that is the cause to be told. */
async function heldUpInstead(work: Work, { kind }: ActionRequest, error: unknown): Promise<HeldUp> {
  if (!(error instanceof ImgtxError)) throw error;
  const heldBeside = error.image === undefined ? undefined : await findHeldBeside(work, [error.image]);
  if (heldBeside) return heldBeside;
  if (error.device === undefined) throw error;
  const devices = [error.device];
  if (!(await isWorkspaceMade(work.workspace))) throw error;
  const lock = await lockWorkspaceIfFree(work.workspace);
  if (!lock) throw error;
  try {
    const settled = await settleJournals(work.workspace, { except: work.id, devices });
    const heldUp = await findHeldUp(work, { devices, kind }, settled);
    if (!heldUp) throw error;
    return heldUp;
  } finally {
    await lock.close();
  }
}

/** What still stands in the way when that which can be finished is; undefined: nothing. */
async function tryToEnd(
  work: Work,
  { obstacle, unfinished, beside }: HeldUp,
): Promise<ImgtxError | undefined> {
  const { onProgress, onRecovered, throttle } = work.options;
  if (beside) {
    const { storage } = work.workspace;
    const how = { caller: "writer", waiting: waitingOf(work), onProgress, throttle } as const;
    const { notes, amid } = await settleBeside(storage, beside, how);
    for (const note of notes) onRecovered?.(note);
    return amid ?? ((await findJournalBeside(storage, beside.image)) ? obstacle : undefined);
  }
  if (unfinished === undefined) return obstacle;
  const notes = await finishPatiently(work.workspace, unfinished, {
    waiting: waitingOf(work),
    onProgress,
    throttle,
  });
  for (const note of notes) {
    if (note.did === "waiting") return heldError(note, obstacle.device);
    onRecovered?.(note);
  }
  return notes.length === 0 ? obstacle : undefined;
}

/** A transaction of nothing would make a generation that is the one before. */
function hasNothingToDo({ changes, newFiles, redo, kind }: PlanRecord): boolean {
  return (
    traitsOf(kind).mayDoNothing === true && [changes, newFiles, redo].every(({ length }) => length === 0)
  );
}

/** The plan as it is in the journal; else what stood in the way, which may pass. */
async function enterPlan(
  work: Work,
  plannedOn: DeviceTable,
  record: PlanRecord,
): Promise<PlanRecord | HeldUp> {
  const { workspace } = work;
  return await whileOpen(await lockMade(work), async () => {
    const settled = await settleJournals(workspace, { except: work.id, devices: record.devices });
    for (const note of settled.notes) if (note.did !== "waiting") work.options.onRecovered?.(note);
    const heldUp = await findHeldUp(work, record, settled);
    if (heldUp) return heldUp;
    const table = await effectiveTable(work, settled.journals);
    const moved = record.devices.find(
      (name) => !isAlike(findDevice(table, name), findDevice(plannedOn, name)),
    );
    const restsOnSnapshots = record.givesUp !== undefined && !areSnapshotsKept(plannedOn, table);
    const stale = moved ?? (restsOnSnapshots ? record.devices[0] : undefined);
    if (stale !== undefined) {
      const why = `another command changed ${moved === undefined ? "snapshots of it" : "the device"} meanwhile`;
      return { obstacle: new ImgtxError("E_CHANGED", why, { device: stale }) };
    }
    const next = withDevices(table, record.changes);
    assertShown(table, next);
    await assertActiveLayersApart(workspace.storage, next, record.devices);
    const beside = pathsOf(workspace).beside;
    if (record.newFiles.some(({ path }) => posix.dirname(path) === beside)) await makeFolderBeside(workspace);
    return await addPlan(work, record, settled.journals);
  });
}

/** Nearly always it is the table that was read for the plan, by which both are one. */
function isAlike(a: DeviceEntry | undefined, b: DeviceEntry | undefined): boolean {
  return a === b || JSON.stringify(a) === JSON.stringify(b);
}

/** Whether those that a plan was made on are what they were. */
function areSnapshotsKept({ snapshots: before }: DeviceTable, { snapshots: now }: DeviceTable): boolean {
  return JSON.stringify(before) === JSON.stringify(now.slice(0, before.length));
}

async function addPlan(
  work: Work,
  record: PlanRecord,
  others: readonly JournalSnapshot[],
): Promise<PlanRecord> {
  const { endsCopies, isResumable } = traitsOf(record.kind);
  if (endsCopies) {
    await removeParked(work.workspace, others, record.devices, work.options.onKept);
  }
  if (work.journal) {
    await work.journal.append(record, "plan");
    return record;
  }
  const parked = isResumable
    ? await takeParked(work.workspace, others, { id: work.id, record }, work.options.onKept)
    : undefined;
  const plan = parked?.state.statements[0]?.plan;
  if (parked && plan) {
    work.journal = parked;
    work.id = parked.id;
    return plan;
  }
  // Of the new files, and of what devices leave.
  work.workspace.storage.expectFlushes?.(record.newFiles.length);
  const begin = beginAlone(work);
  // What comes next is `prepared`, in a moment, and before it no file has its name.
  const isNamedLater = !isResumable && record.newFiles.length > 0 && record.redo.length === 0;
  work.journal = await Journal.create(work.workspace, begin, [record], { isNamedLater });
  return record;
}

// Brings the mirrors of an open transaction in sync once more, right before its commit: a guest may have
// written to their sources since.
//
// Invariants
// - Only copies are renewed. Where a changed image matters to any other action, the commit refuses it.
// - What was copied stays locked until the commit mark: a block device does not tell of a write in between.

import { type DeviceEntry, type DeviceTable, type Workspace } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { describeDoubt, describeUnreadChanges, fingerprintAt } from "../../format/index.ts";
import { traitsOf } from "../actions/index.ts";
import type { CommitInHand } from "../commit/commit.ts";
import { runStatements } from "./engine.ts";
import {
  type Journal,
  lastSeen,
  liveStatements,
  type PlanRecord,
  type Statement,
  type TransactionState,
  volumesFilled,
} from "../journal/index.ts";
import { undoFrom } from "../recover/undo.ts";
import type { ActionRequest } from "../requests/request.ts";
import { effectiveTable, type Work } from "./work.ts";

/** Returns the images that it has open and locked, by path: nobody writes to what was copied before it is committed. */
export async function renewMirrors(work: Work, journal: Journal): Promise<CommitInHand["open"]> {
  await renewChanged(work, journal);
  // Of those that other statements change the commit wants more: it locks them once more, by the same files.
  return new Map([...work.images.heldByPath()].map(([path, file]) => [path, { file, isLocked: false }]));
}

async function renewChanged(work: Work, journal: Journal): Promise<void> {
  const { workspace } = work;
  const statements = liveStatements(journal.state);
  const changed = await findChanged(workspace, journal.state);
  if (changed.size === 0) return;
  // A doubt is a copy's alone: whatever else an image is used for, it holds what the device holds.
  const affected = statements.filter(({ plan }) =>
    plan.watched.some(({ image }) => (minds(plan) ? changed.has(image) : isKnownToBe(changed, image))),
  );
  if (affected.length === 0) return;
  const doubts = new Map([...changed].flatMap(([image, doubt]) => (doubt === null ? [] : [[image, doubt]])));
  if (!affected.every(({ plan }) => plan.renewable) || statements.some((one) => hasCopyAmong(one, changed))) {
    assertNoneLeft(statements, doubts);
    return;
  }
  // A reopened device has its mirror for its image: that is taken back first, and done again at the end.
  const reopened = affected.find(({ plan }) => isMove(plan));
  const later = reopened ? statements.filter(({ plan }) => plan.statement >= reopened.plan.statement) : [];
  if (!later.every(({ plan }) => isMove(plan))) {
    assertNoneLeft(statements, doubts);
    return;
  }
  if (reopened) await takeBack(work, journal, reopened.plan.statement);
  const copies = affected.filter(({ plan }) => !isMove(plan));
  const table = await effectiveTable(work);
  await runStatements(work, [...requestsOf(copies, table), ...requestsOf(later, table)]);
  if (reopened) await journal.append({ type: "renewing", from: null }, "renewing");
}

/** Who dies here, or fails after it, leaves a transaction that lacks what was asked for, and the journal says so. */
async function takeBack(work: Work, journal: Journal, from: number): Promise<void> {
  await journal.append({ type: "renewing", from }, "renewing");
  for (const file of await undoFrom(work.workspace, journal, from)) work.options.onKept?.(file);
}

/** E_CHANGED where a commit took a move back to renew its copy, and came to nothing then: no other commits the rest alone. */
export function assertWhole({ shortFrom, statements }: TransactionState): void {
  if (shortFrom === null) return;
  const [device] = statements[shortFrom]?.plan.devices ?? [];
  throw new ImgtxError(
    "E_CHANGED",
    "a commit took this device's change back, since its copy was out of date, and failed before it was done once more",
    {
      ...(device !== undefined && { device }),
      hint: "`imgtx txn abort` takes the transaction back; then begin again",
    },
  );
}

/** Whether a doubt counts for it. What it fills after the mark is what the device holds then. */
function minds(plan: PlanRecord): boolean {
  if (!plan.renewable || isMove(plan)) return plan.renewable;
  const filled = plan.copies.flatMap(({ kind, into }) => (kind === "fill" ? [into] : []));
  const begun = new Set([...filled, ...volumesFilled(plan)]);
  return plan.newFiles.length > 0 || plan.redo.some(({ image }) => !begun.has(image));
}

/** Whether somebody wrote to a copy itself: what came into it was meant for nobody else to find. */
function hasCopyAmong({ plan }: Statement, changed: Changed): boolean {
  const copyIn = traitsOf(plan.kind).renewal?.copyIn ?? (({ mirror }: DeviceEntry) => mirror?.image);
  const copies = [
    ...plan.newFiles.map(({ path }) => path),
    ...plan.changes.map(({ after }) => (after ? copyIn(after) : undefined)),
  ];
  return copies.some((path) => path !== undefined && isKnownToBe(changed, path));
}

/**
 * E_CHANGED where a device would go over to a copy of what may have been written to since, and the copy can't be made
 * anew. The commit itself refuses what is known to have been.
 */
function assertNoneLeft(statements: readonly Statement[], doubts: ReadonlyMap<string, string>): void {
  for (const { plan } of statements.filter(({ plan }) => isMove(plan))) {
    for (const { image } of plan.watched) {
      const doubt = doubts.get(image);
      if (doubt === undefined) continue;
      const [device] = plan.devices;
      throw new ImgtxError(
        "E_CHANGED",
        `somebody may have written to it since the transaction compared it with its mirror, since ${doubt}`,
        {
          image,
          ...(device !== undefined && { device }),
          hint: "`imgtx txn abort` takes the transaction back; then begin again",
        },
      );
    }
  }
}

/** Images that have changed since, or may have: then with the doubt. */
type Changed = ReadonlyMap<string, string | null>;

function isKnownToBe(changed: Changed, image: string): boolean {
  return changed.get(image) === null;
}

/** Whoever copied one of them reads it once more. */
async function findChanged({ storage }: Workspace, state: TransactionState): Promise<Changed> {
  const changed = new Map<string, string | null>();
  for (const { image, fingerprint, isNew } of lastSeen(state).values()) {
    // The header counts where it matters, which the commit judges: a write changes the time as well.
    const now = await fingerprintAt(storage, image, undefined);
    if (!now || describeUnreadChanges(fingerprint, now).length > 0) changed.set(image, null);
    else {
      const doubt = isNew ? undefined : describeDoubt(fingerprint, now);
      if (doubt !== undefined) changed.set(image, doubt);
    }
  }
  return changed;
}

/** Whether the statement has its device go over to a copy. */
function isMove({ kind, renewable }: PlanRecord): boolean {
  return renewable && traitsOf(kind).renewal?.isMove === true;
}

/** One request, or as many as it takes, for all statements of an action. */
function requestsOf(statements: readonly Statement[], table: DeviceTable): ActionRequest[] {
  const kinds = [...new Set(statements.map(({ plan }) => plan.kind))];
  return kinds.flatMap((kind) => {
    const plans = statements.map(({ plan }) => plan).filter((plan) => plan.kind === kind);
    const devices = [...new Set(plans.flatMap((plan) => plan.devices))];
    const changes = plans.flatMap((plan) => plan.changes);
    return traitsOf(kind).renewal?.requests(devices, changes, table) ?? [];
  });
}

// Brings the mirrors of an open transaction in line once more, right before its commit: a guest may have
// written to their sources since.
//
// Invariant: only copies are renewed. Where a changed image matters to any other action, the commit refuses it.

import { type DeviceTable, findDevice, type Workspace } from "../device/index.ts";
import { ImgtxError } from "../errors/index.ts";
import { describeChanges, describeDoubt, fingerprintAt } from "../format/index.ts";
import { runStatements } from "./engine.ts";
import {
  type Journal,
  lastSeen,
  liveStatements,
  type Statement,
  type TransactionState,
} from "./journal/index.ts";
import { undoFrom } from "./undo.ts";
import type { ActionRequest, ReopenRequest } from "./request.ts";
import { effectiveTable, type Work } from "./work.ts";

export async function renewMirrors(work: Work, journal: Journal): Promise<void> {
  const { workspace } = work;
  const statements = liveStatements(journal.state);
  if (!statements.some(({ plan }) => plan.renewable)) return;
  const changed = await findChanged(workspace, journal.state);
  if (changed.size === 0) return;
  // A doubt is a copy's alone: whatever else an image is used for, it holds what the device holds.
  const affected = statements.filter(({ plan }) =>
    plan.watched.some(({ image }) => (plan.renewable ? changed.has(image) : isKnownToBe(changed, image))),
  );
  if (affected.length === 0) return;
  const doubts = new Map([...changed].flatMap(([image, doubt]) => (doubt === null ? [] : [[image, doubt]])));
  if (!affected.every(({ plan }) => plan.renewable) || statements.some((one) => hasCopyAmong(one, changed))) {
    assertNoneLeft(statements, doubts);
    return;
  }
  // A reopened device has its mirror for its image: that is taken back first, and done again at the end.
  const reopened = affected.find(({ plan }) => plan.kind === "reopen");
  const later = reopened ? statements.filter(({ plan }) => plan.statement >= reopened.plan.statement) : [];
  if (!later.every(({ plan }) => plan.kind === "reopen" && plan.renewable)) {
    assertNoneLeft(statements, doubts);
    return;
  }
  const kept = reopened ? await undoFrom(workspace, journal, reopened.plan.statement) : [];
  for (const file of kept) work.options.onKept?.(file);
  const copied = affected.filter(({ plan }) => plan.kind === "mirror").flatMap(({ plan }) => plan.devices);
  await runStatements(work, [
    ...(copied.length > 0 ? [mirrorsOf([...new Set(copied)], await effectiveTable(work))] : []),
    ...later.flatMap(reopensOf),
  ]);
}

/** Whether somebody wrote to a copy itself: what came into it was meant for nobody else to find. */
function hasCopyAmong({ plan }: Statement, changed: Changed): boolean {
  const copies = [
    ...plan.newFiles.map(({ path }) => path),
    ...plan.changes.map(({ after }) => (plan.kind === "reopen" ? after?.image : after?.mirror?.image)),
  ];
  return copies.some((path) => path !== undefined && isKnownToBe(changed, path));
}

/**
 * E_CHANGED where a device would go over to a copy of what may have been written to since, and the copy can't be made
 * anew. The commit itself refuses what is known to have been.
 */
function assertNoneLeft(statements: readonly Statement[], doubts: ReadonlyMap<string, string>): void {
  for (const { plan } of statements.filter(({ plan }) => plan.kind === "reopen" && plan.renewable)) {
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
    const before = { ...fingerprint, headerSha256: null };
    if (!now || describeChanges(before, now).length > 0) changed.set(image, null);
    else {
      const doubt = isNew ? undefined : describeDoubt(before, now);
      if (doubt !== undefined) changed.set(image, doubt);
    }
  }
  return changed;
}

/** A bitmap that the transaction has made is made anew: it counts from what its image is now. */
function mirrorsOf(devices: readonly string[], table: DeviceTable): ActionRequest {
  return {
    kind: "mirror",
    targets: devices.map((device) => ({
      device,
      file: undefined,
      format: undefined,
      sync: undefined,
      compressed: false,
      options: {},
      relative: false,
      reuse: false,
      bitmap: (findDevice(table, device)?.mirror?.bitmap ?? null) !== null,
      verify: false,
    })),
  };
}

function reopensOf({ plan }: Statement): ReopenRequest[] {
  return plan.changes.flatMap(({ device, after }) =>
    after ? [{ kind: "reopen" as const, device, file: after.image, format: after.format, force: false }] : [],
  );
}

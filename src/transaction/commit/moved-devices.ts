// Devices whose table has moved, by a process that did not live to show it: a guest may have been started on what they
// have left. Where that is a mirror's source, what it wrote is brought along before the move is shown.
//
// Invariants
// - The view tells what guests were started on: the image that was left, and not the mirror, until it shows the move.
// - Only a mirror that nobody else can have written to since the move is written to. Where both were, content decides:
//   two that are alike need nothing, and two that differ wait.
// - Before that the table says durably that the mirror is written to, and afterwards the history says what was brought
//   along: it may be cut off anywhere.

import {
  type ChainEntry,
  type DeviceTable,
  filesOfEntry,
  findDevice,
  isViewPresent,
  readGeneration,
  readTable,
  renewGeneration,
  replaceTable,
  withLooks,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { describeChanges, describeDoubt, type Fingerprint } from "../../format/index.ts";
import type { TransactionState } from "../journal/index.ts";
import { type HowToSync, type StaleMirror, syncLate } from "./late-sync.ts";
import { type HeldLeft, holdLeft } from "./left-images.ts";
import { lookAt } from "./left-times.ts";

/** The time of modification that the table has of a mirror while that is synced anew: no file ever has it. */
const BEING_SYNCED = "";

interface HowToBring extends Pick<HowToSync, "waiting" | "onProgress" | "onNotice" | "isBrief"> {
  /** Leaves behind whatever was written. */
  readonly isForced: boolean;
  readonly underLock: <T>(work: () => Promise<T>) => Promise<T>;
}

/**
 * Has the devices hold what was written to the images that they have left, and holds those until the move is shown.
 * `madeAs`: the generation that the transaction has made.
 */
export async function holdMoved(
  workspace: Workspace,
  state: TransactionState,
  madeAs: number,
  how: HowToBring,
): Promise<HeldLeft | undefined> {
  const table = await readTable(workspace);
  const next = madeAs === table.generation ? table : await readGeneration(workspace, madeAs, table);
  const before = await readGeneration(workspace, madeAs - 1, next);
  if (!before || !next) return undefined;
  const isShown = await isViewPresent(workspace, table);
  const held = await holdLeft(workspace, state, {
    present: before,
    next,
    moved: { isShown },
    ...how,
  });
  try {
    for (const device of new Set(held.stale.map((one) => one.device))) {
      const left = held.stale.filter((one) => one.device === device);
      await bringAlong(workspace, state, { device, before, left, isShown }, how);
    }
    return held;
  } catch (error) {
    await held.release();
    throw error;
  }
}

interface Behind {
  readonly device: string;
  /** The generation that they are of. */
  readonly before: DeviceTable;
  /** Its images, and the mirror. */
  readonly left: readonly StaleMirror[];
  readonly isShown: boolean;
}

async function bringAlong(
  workspace: Workspace,
  state: TransactionState,
  { device, before, left, isShown }: Behind,
  how: HowToBring,
): Promise<void> {
  const lookFirst = async (stale: StaleMirror) => {
    const why = await sayWritten(workspace, stale, isShown);
    return async () => {
      if (why !== undefined) throw wereBothWritten(stale, why);
      await how.underLock(async () => await markMirror(workspace, stale));
    };
  };
  const looks = await syncLate(workspace, state, left, { ...how, present: before, lookFirst });
  await how.underLock(async () => {
    const table = await readTable(workspace);
    if (left.some((stale) => isBeingSynced(table, stale)))
      await replaceTable(workspace, renewed(table, device, looks));
    const now = new Map(left.map((one) => [one.image, one.now]));
    await renewGeneration(workspace, renewed(before, device, now));
  });
}

/** What shows that a guest may have written to the mirror, or to what stands on it, since the move. */
async function sayWritten(
  workspace: Workspace,
  { device, mirror }: StaleMirror,
  isShown: boolean,
): Promise<string | undefined> {
  for (const entry of chainDownTo(await readTable(workspace), device, mirror.path)) {
    if (entry.fingerprint.modifiedNs === BEING_SYNCED) continue;
    for (const one of filesOfEntry(entry)) {
      const now = await lookAt(workspace, one.image, one.fingerprint);
      if (!now) continue;
      const changes = describeChanges(one.fingerprint, now);
      if (changes.length > 0) return `${one.image}: ${changes.join(", ")}`;
      const doubt = isShown ? describeDoubt(one.fingerprint, now) : undefined;
      if (doubt !== undefined) return `${one.image}: ${doubt}`;
    }
  }
  return undefined;
}

function chainDownTo(table: DeviceTable, device: string, image: string): readonly ChainEntry[] {
  const chain = findDevice(table, device)?.chain ?? [];
  return chain.slice(0, chain.findIndex((entry) => entry.image === image) + 1);
}

async function markMirror(workspace: Workspace, { device, mirror }: StaleMirror): Promise<void> {
  const table = await readTable(workspace);
  const known = chainDownTo(table, device, mirror.path).at(-1)?.fingerprint;
  if (!known) throw new Error("a device that has gone over to a mirror stands on it");
  const marked = { ...known, modifiedNs: BEING_SYNCED };
  await replaceTable(workspace, renewed(table, device, new Map([[mirror.path, marked]])));
}

function isBeingSynced(table: DeviceTable, { device, mirror }: StaleMirror): boolean {
  return chainDownTo(table, device, mirror.path).at(-1)?.fingerprint.modifiedNs === BEING_SYNCED;
}

/** With what images of its chain look like now. */
function renewed(table: DeviceTable, device: string, looks: ReadonlyMap<string, Fingerprint>): DeviceTable {
  const devices = table.devices.map((one) => (one.name === device ? withLooks(one, looks) : one));
  return { ...table, devices };
}

function wereBothWritten({ device, image, changes }: StaleMirror, why: string): ImgtxError {
  const how = changes === undefined ? "may have written" : "wrote";
  const what = changes === undefined ? "" : ` (${changes})`;
  return new ImgtxError(
    "E_CHANGED",
    `somebody ${how} to it after the commit${what}, and '${device}' has left that behind: the two differ, and what it is on now may hold writes as well (${why})`,
    { image, device },
  );
}

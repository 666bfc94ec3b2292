// After the commit mark: the only way is forward. Called by the commit itself, and by recovery.
//
// Invariants
// - Idempotent: it may be cut off at any instant and called again.
// - The mark is durable, and the caller holds the journal. The workspace is locked while the table changes hands, and
//   need not be while images change: whoever else commits meanwhile moves the table on for other devices.
// - A generation gets its number when the table moves. Whether that has happened is told by the transaction's id, in
//   the table or in a generation after the one that the mark was made on.

import {
  type DeviceTable,
  isViewPresent,
  flushTableName,
  readGeneration,
  readingHistory,
  readTable,
  replaceTable,
  showView,
  underWorkspaceLock,
  withFingerprints,
  type Workspace,
  writeNextGeneration,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import type { Fingerprint, RedoLog } from "../../format/index.ts";
import type { LockWaiting } from "../../storage/index.ts";
import { mendTornFences } from "./change-header.ts";
import { closingTable, imagesKeptAnew, withLooksOfKept } from "./closing.ts";
import { nextTable } from "./committed-table.ts";
import { syncLate } from "./late-sync.ts";
import { holdLeft } from "./left-images.ts";
import { removeEmptied } from "./emptied.ts";
import { imagesLeft, imagesUsed, leavesUnfenced } from "./leaving.ts";
import { looksOfLeft, rememberLeft, timesOfLeft } from "./left-times.ts";
import { holdMoved } from "./moved-devices.ts";
import { lookAtKeptFences, liftLeft } from "./leaving-fences.ts";
import {
  imagesCopiedInto,
  imagesCopiedLate,
  isCopyPending,
  leaveCopies,
  NOT_COPIED_YET,
  removeCopiedOverlays,
  runCopies,
} from "./copies.ts";
import { applyRedo, removeRedoLogs } from "../images/apply-redo.ts";
import { removeFilesBeside } from "../images/files-beside.ts";
import { assertDisksThere } from "../images/planned-folders.ts";
import type { KeptFile, OnProgress, RunOptions } from "../requests/request.ts";
import {
  filesMade,
  type CommitRecord,
  type Journal,
  lastSeen,
  liveStatements,
  type TransactionState,
} from "../journal/index.ts";

export interface Finishing {
  /** Whether the caller holds QEMU's locks on the images. */
  readonly isLocked: boolean;
  /** How long to wait for those locks, where it does not. Default: not at all. */
  readonly waiting?: LockWaiting;
  readonly onProgress?: OnProgress | undefined;
  /** Holds copies to a rate. */
  readonly throttle?: RunOptions["throttle"];
  /** How long a copy goes on before the journal is told how far it is. */
  readonly markEveryMs?: number | undefined;
  /** What images that the transaction made look like with their names, where the caller knows. */
  readonly looks?: ReadonlyMap<string, Fingerprint>;
  /** The redo logs, by their paths, where the caller has opened them. */
  readonly logs?: ReadonlyMap<string, RedoLog>;
  /** Told of each image that is left as it is where it can't be changed as planned. Undefined: then nothing moves. */
  readonly onLeft?: ((file: KeptFile) => void) | undefined;
  /** Told what an operator has to know of what others did meanwhile, a line each. */
  readonly onNotice: ((line: string) => void) | undefined;
  /** Whether the caller has the workspace lock all the time, and leaves what takes long to others: E_UNFINISHED. */
  readonly isBrief?: boolean;
  /** Closes what the caller has open of an image that goes. Undefined: nothing. */
  readonly close?: ((image: string) => Promise<void>) | undefined;
  /** Does work under the workspace lock: the caller's, or one that is taken for it. */
  readonly underLock: <T>(work: () => Promise<T>) => Promise<T>;
}

/** For callers that hold the workspace lock all the time. */
export const HOLDS_LOCK: Finishing["underLock"] = async (work) => await work();

/** For those that don't: it is taken for moments, however long the work on images takes. */
export function lockForMoments(workspace: Workspace, waiting: LockWaiting): Finishing["underLock"] {
  return async (work) => await underWorkspaceLock(workspace, waiting, work);
}

/** All of it. */
export async function finishCommit(
  workspace: Workspace,
  journal: Journal,
  how: Finishing,
): Promise<DeviceTable> {
  const { state } = journal;
  if (!how.isLocked) {
    await mendTornFences(workspace.storage, state, imagesCopiedInto(state), how.waiting);
  }
  const table = await moveTable(workspace, journal, how);
  const used = imagesUsed(table, state);
  const isDue = (image: string): boolean => !used.has(image);
  const times = timesOfLeft(state, table);
  const redone = await applyRedo(workspace, journal, { ...how, isDue, hasMoved: true, times });
  const down: (() => Promise<void>)[] = [];
  const unsure = await liftLeft(workspace, state, { onDown: (renew) => down.push(renew) });
  const remember = async (): Promise<void> => {
    for (const { path, why } of unsure) how.onNotice?.(`left '${path}' as it is: ${why}`);
    await how.underLock(async () => await rememberClosing(workspace, journal, table, redone, unsure));
  };
  // Fences that an earlier process lifted are written once more after the copies: what waits for a disk is not written
  // anew by each command. Only then is it known of which nobody can tell.
  if (down.length === 0) await remember();
  const late = { table, present: table, when: "after it" } as const;
  const copied = await runCopies(workspace, journal, { ...late, ...how });
  for (const renew of down) await renew();
  if (down.length > 0) await remember();
  return await how.underLock(async () => await closeCommit(workspace, journal, { own: table, copied }, how));
}

/** The same for recovery. Where it waits, the journal tells how far it has come, and need not be written by the next command. */
export async function finishOrKeep(
  workspace: Workspace,
  journal: Journal,
  how: Finishing,
): Promise<DeviceTable> {
  try {
    return await finishCommit(workspace, journal, how);
  } catch (error) {
    if (error instanceof ImgtxError) await journal.secure();
    throw error;
  }
}

/** Where others have moved on by then, it stays unknown. */
async function rememberClosing(
  workspace: Workspace,
  { id, state }: Journal,
  table: DeviceTable,
  redone: ReadonlyMap<string, Fingerprint>,
  unsure: readonly KeptFile[],
): Promise<void> {
  if (table.transaction !== id) return;
  const closing = await readGeneration(workspace, table.generation - 1, table);
  if (closing) await rememberLeft(workspace, state, closing, redone, unsure);
}

/**
 * Moves the table on by what the transaction changes, where that is not done yet, and shows it. What it takes before
 * that, in redo logs and copies, is done.
 */
async function moveTable(workspace: Workspace, journal: Journal, how: Finishing): Promise<DeviceTable> {
  const { state } = journal;
  const { commit } = state;
  if (!commit) {
    throw new ImgtxError("E_INTERNAL", "the table would move without a commit mark", { image: journal.path });
  }
  const present = await readTable(workspace);
  const shown = await showIfMoved(workspace, journal, how);
  if (shown) return shown;
  const expected = nextTable(present, state, commit);
  // What is copied into is changed before that, also where the device goes on from there.
  const used = new Set([...imagesUsed(expected, state), ...imagesCopiedInto(state)]);
  const isForced = how.onLeft !== undefined;
  const held = how.isLocked
    ? undefined
    : await holdLeft(workspace, state, { present, next: expected, isForced, ...how });
  const stale = held?.stale ?? [];
  try {
    const written = held?.written ?? new Map<string, Fingerprint>();
    const kept = imagesKeptAnew(expected);
    if (!how.isLocked && !isForced) {
      const late = imagesCopiedLate(state, expected);
      await assertDisksThere(
        workspace.storage,
        state,
        [...used].filter((image) => !late.has(image)),
      );
    }
    const first = await applyRedo(workspace, journal, {
      ...how,
      kept,
      isDue: (image, { isLast }) => used.has(image) && isLast !== true,
    });
    const copied = await runCopies(workspace, journal, {
      table: expected,
      present,
      when: "before the table",
      syncedAnew: new Set(stale.map(({ mirror }) => mirror.path)),
      ...(held && { written: held.merged }),
      ...how,
    });
    const last = await applyRedo(workspace, journal, {
      ...how,
      kept,
      isDue: (image, { isLast }) => used.has(image) && isLast === true,
    });
    const redone = new Map([...first, ...copied, ...last]);
    const changed = new Map([
      ...(how.isLocked ? [] : await lookAtKeptFences(workspace, state)),
      ...written,
      ...redone,
      ...(await syncLate(workspace, state, stale, { ...how, present })),
    ]);
    const left = await looksOfLeft(workspace, state, expected, kept);
    return await moveOn(workspace, journal, { commit, changed, written, redone, left }, how);
  } finally {
    await held?.release();
  }
}

interface Change {
  readonly commit: CommitRecord;
  /** What images look like that the transaction, or somebody else, has changed since the mark. */
  readonly changed: Map<string, Fingerprint>;
  /** Those that somebody else wrote to, below their device: what the device was before has that in it. */
  readonly written: ReadonlyMap<string, Fingerprint>;
  /** Those that the transaction has changed in place: so a rollback will find them. */
  readonly redone: ReadonlyMap<string, Fingerprint>;
  /** What those will look like that it changes when the table has moved, and that snapshots keep. */
  readonly left: ReadonlyMap<string, Fingerprint>;
}

async function moveOn(
  workspace: Workspace,
  { state }: Journal,
  { commit, changed, written, redone, left }: Change,
  how: Finishing,
): Promise<DeviceTable> {
  return await how.underLock(async () => {
    const table = await readTable(workspace);
    const closing = closingTable(table, state, redone, written);
    const made = filesMade(state);
    const seen = new Map([...(how.looks ?? [])].filter(([image]) => made.has(image)));
    const kept = nextTable(table, state, commit, closing);
    const planned = withLooksOfKept(kept, closing, state, redone, new Map([...seen, ...left]));
    const late = imagesCopiedLate(state, planned);
    // Also where it is larger or smaller already: what it looks like is told when all is copied.
    for (const image of late)
      if (redone.has(image) || !changed.has(image)) changed.set(image, NOT_COPIED_YET);
    const before = lastSeen(state);
    const looks = new Map([...(how.looks ?? []), ...changed]);
    // What others wrote below the device is the device's, and has not been copied to any mirror.
    const next = withChangedImages(planned, looks, (image) =>
      written.has(image) ? NOT_COPIED_YET : before.get(image)?.fingerprint,
    );
    const isLater = written.size > 0;
    const told = isLater ? { ...next, summary: `${next.summary} (and what was written until then)` } : next;
    await writeNextGeneration(workspace, closing, told);
    return told;
  });
}

/**
 * Found moved, by a process that died before it knew the move to be durable: the journal must not go first. Undefined
 * where the table has not moved yet.
 */
export async function showIfMoved(
  workspace: Workspace,
  journal: Journal,
  how: Finishing,
): Promise<DeviceTable | undefined> {
  const madeAs = await findGenerationMade(workspace, journal, await readTable(workspace));
  if (madeAs === undefined) return undefined;
  const isForced = how.onLeft !== undefined;
  const moved = how.isLocked
    ? undefined
    : await holdMoved(workspace, journal.state, madeAs, { ...how, isForced });
  try {
    return await how.underLock(async () => {
      const table = await readTable(workspace);
      await flushTableName(workspace);
      if (!(await isViewPresent(workspace, table))) await showView(workspace, table);
      return table;
    });
  } finally {
    await moved?.release();
  }
}

/** The generation that the transaction has made, the table's or one between it and the mark. E_JOURNAL: can't be told. */
export async function findGenerationMade(
  workspace: Workspace,
  { id, path, state }: Pick<Journal, "id" | "path" | "state">,
  table: DeviceTable,
): Promise<number | undefined> {
  const { madeOn = 0 } = state.commit ?? {};
  if (table.generation < madeOn) {
    throw new ImgtxError(
      "E_JOURNAL",
      `the journal was committed at generation ${madeOn}, but the table is at ${table.generation}`,
      {
        image: path,
        hint: "the table was put back from an older copy: put back the journal folder of the same time",
      },
    );
  }
  if (table.generation > madeOn && table.transaction === id) return table.generation;
  const history = readingHistory(workspace, table);
  for (let number = table.generation - 1; number > madeOn; number -= 1) {
    const found = await history.file(number);
    if (found?.head.transaction === id) return number;
    if (found) continue;
    throw new ImgtxError("E_JOURNAL", `generation ${number} is not in the history: it may be its own`, {
      image: path,
      hint: "put back `.imgtx/history` from a copy",
    });
  }
  return undefined;
}

/**
 * Has the table know what was merged after it moved, and retires the journal. Returns the transaction's own table with
 * that: others may have moved on since.
 */
async function closeCommit(
  workspace: Workspace,
  journal: Journal,
  { own, copied }: { readonly own: DeviceTable; readonly copied: ReadonlyMap<string, Fingerprint> },
  how: Finishing,
): Promise<DeviceTable> {
  const before = lastSeen(journal.state);
  const withCopied = (table: DeviceTable): DeviceTable =>
    withChangedImages(table, copied, (image) =>
      isCopyPending(table, image) ? NOT_COPIED_YET : before.get(image)?.fingerprint,
    );
  const present = await readTable(workspace);
  if (copied.size > 0) await replaceTable(workspace, withCopied(present));
  await leaveCopies(workspace, journal.state, present);
  await removeCopiedOverlays(workspace, journal.state);
  const isOwn = own.transaction === journal.id;
  const closed = isOwn ? await readGeneration(workspace, own.generation - 1, own) : undefined;
  for (const { path, why } of await removeEmptied(workspace, journal, { own, closed, present }, how)) {
    how.onNotice?.(`left '${path}' as it is: ${why}`);
  }
  await removeRedoLogs(workspace, journal.state, how);
  const left = closed ? imagesLeft(closed, own, journal.state) : [];
  const givesUp = liveStatements(journal.state).some(({ plan }) => plan.givesUp && !plan.standing);
  if (closed && givesUp) await removeFilesBeside(workspace, closed, own);
  await journal.retire(leavesUnfenced(left, journal.state));
  return withCopied(own);
}

/** The table where nobody goes on with the transaction's copies: its mirrors count as written to. */
export function withCopiesForgotten(table: DeviceTable, state: TransactionState): DeviceTable {
  const images = imagesCopiedInto(state);
  return {
    ...table,
    devices: table.devices.map((device) => {
      const { mirror } = device;
      if (!mirror || !images.has(mirror.image)) return device;
      const [top, ...below] = mirror.chain;
      return top
        ? { ...device, mirror: { ...mirror, chain: [{ ...top, fingerprint: NOT_COPIED_YET }, ...below] } }
        : device;
    }),
  };
}

/** The table with what some of its images look like now, where it has them as they were before. */
export function withChangedImages(
  table: DeviceTable,
  changed: ReadonlyMap<string, Fingerprint>,
  beforeOf: (image: string) => Fingerprint | undefined,
): DeviceTable {
  const changes = new Map(
    [...changed].map(([image, now]) => [image, { before: beforeOf(image), now }] as const),
  );
  return { ...table, devices: table.devices.map((device) => withFingerprints(device, changes)) };
}

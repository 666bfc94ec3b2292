// The commit: re-check, mark, move the table.
//
// Invariants
// - Everything that may refuse runs before the mark, and so does all that needs space on the disk: the new
//   table lies beside its name, durably, and its view is built. After the mark there are renames, and
//   finishCommit where they fail: it is idempotent, and recovery calls it as well.
// - The workspace is locked from the checks to the mark, and to the move where that needs renames alone. Images that
//   change in between do so with the workspace free: others commit on their own devices meanwhile, in any order.

import {
  assertShown,
  type DeviceTable,
  discardNextGeneration,
  keepGeneration,
  lockWorkspace,
  moveToGeneration,
  readTable,
  stageGeneration,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError, settleAll } from "../../errors/index.ts";
import {
  type Fingerprint,
  holdImages,
  ImageLeases,
  type RedoLog,
  waitForLeases,
} from "../../format/index.ts";
import type { LockWaiting, Refusal, Reservation, StorageFile } from "../../storage/index.ts";
import { assertActiveLayersApart } from "../actions/plan/chain-entry.ts";
import {
  type CommitRecord,
  heldDevices,
  type Journal,
  lastSeen,
  liveStatements,
  readJournals,
  type TransactionState,
} from "../journal/index.ts";
import { assertNamesFree } from "./closing.ts";
import { finishCommit, type Finishing, HOLDS_LOCK, lockForMoments, withChangedImages } from "./finish.ts";
import { imagesLeft, type LeftImage, leavesUnfenced } from "./leaving.ts";
import { imagesToKeepFenced, raiseFences, liftLeft, takeFencesBack } from "./leaving-fences.ts";
import { rememberLeft } from "./left-times.ts";
import { imagesCopiedInto } from "./copies.ts";
import { reserveForRest } from "./copy-space.ts";
import { assertDevicesAsRead, imagesRedone, openRedo } from "../images/redo.ts";
import type { Once, OnProgress, RunOptions } from "../requests/request.ts";
import {
  assertNothingChanged,
  describeDoubts,
  findSettled,
  lookAtMade,
  openWatched,
  type OpenWatched,
} from "./watched-images.ts";
import { assertNotAppliedYet, commitRecord, tablesOf, withCommitted } from "./committed-table.ts";

/** What the command that commits has in hand already. */
export interface CommitInHand {
  /** Images that it has open, by path, and whether it holds QEMU's locks on them. It closes them. */
  readonly open: ReadonlyMap<string, { readonly file: StorageFile; readonly isLocked: boolean }>;
  /** Closes all that it has open of an image that has gone. */
  readonly close?: ((image: string) => Promise<void>) | undefined;
  /** What is to be durable before the mark, and is still under way. */
  readonly underWay: Promise<unknown>;
  /** Images whose change times it has moved a moment ago, and then looked at. */
  readonly just: ReadonlySet<string>;
  /** Told of copies that take long. */
  readonly onProgress?: OnProgress | undefined;
  /** Holds them to a rate. */
  readonly throttle?: RunOptions["throttle"];
  /** How long one goes on before the journal is told how far it is. */
  readonly markEveryMs?: number | undefined;
  /** The id that it was given, so that it is applied once: the mark has it. */
  readonly once?: Once | undefined;
  /** Told what an operator has to know of others, a line each. */
  readonly onNotice?: ((line: string) => void) | undefined;
}

const NOTHING_IN_HAND: CommitInHand = { open: new Map(), underWay: Promise.resolve(), just: new Set() };

/** Commits what the journal holds. The caller holds the journal, which is retired afterwards. */
export async function commitJournal(
  workspace: Workspace,
  journal: Journal,
  waiting: LockWaiting,
  inHand: Partial<CommitInHand>,
): Promise<DeviceTable> {
  return await checkThen(
    { workspace, journal, inHand: { ...NOTHING_IN_HAND, ...inHand } },
    waiting,
    markAndMove,
  );
}

/** Everything that a commit does before it writes: what it would be refused for is thrown. */
export async function rehearseCommit(
  workspace: Workspace,
  journal: Journal,
  waiting: LockWaiting,
): Promise<void> {
  await checkThen(
    { workspace, journal, inHand: NOTHING_IN_HAND, isRehearsal: true },
    waiting,
    async () => async () => undefined,
  );
}

interface Commit {
  readonly workspace: Workspace;
  readonly journal: Journal;
  readonly inHand: CommitInHand;
  readonly isRehearsal?: boolean;
  /** Redo logs, by their paths: all that they hold is checked once, before the mark, and applied from there. */
  readonly logs: ReadonlyMap<string, RedoLog>;
}

interface Move {
  readonly closing: DeviceTable;
  readonly record: CommitRecord;
  readonly next: DeviceTable;
  /** What the images that the transaction made look like, with their names, and those that it has frozen. */
  readonly looks: ReadonlyMap<string, Fingerprint>;
  readonly leases: ImageLeases;
  /** Closes what is open of an image. */
  readonly close: (image: string) => Promise<void>;
  /** What is left without a fence, open: see flushLeft. */
  readonly unfenced: readonly StorageFile[];
}

/**
 * Goes on to `then` with all images and the workspace locked, and nothing in the way of the commit; and to what
 * that returns with the workspace free again.
 */
async function checkThen<T>(
  commit: Omit<Commit, "logs">,
  waiting: LockWaiting,
  then: (commit: Commit, move: Move) => Promise<() => Promise<T>>,
): Promise<T> {
  const { workspace, journal, inHand, isRehearsal = false } = commit;
  const images = await openWatched(workspace, journal.state, inHand);
  const space: Reservation[] = [];
  const logs = new Map<string, RedoLog>();
  const release = async (): Promise<void> => {
    for (const one of space.splice(0)) await one.release();
  };
  try {
    const changing = new Set([...imagesChangedAtCommit(journal.state), ...imagesToKeepFenced(journal.state)]);
    const unlocked = images.filter(({ isLocked }) => !isLocked);
    await holdImages(
      workspace.storage,
      unlocked.map(({ file, watched: { device, image } }) => ({
        file,
        path: image,
        device: device ?? undefined,
        isWritten: changing.has(image),
      })),
      waiting,
    );
    const { allowPaths } = await readTable(workspace);
    await openRedo(workspace, journal.state, logs);
    await assertDevicesAsRead(workspace, journal.state);
    await reserveForRest(workspace, journal, { allowPaths, logs, isRehearsal }, space);
    const done = await waitForLeases(
      workspace.storage.host,
      waiting,
      async () => await enterCommit({ ...commit, logs }, images, waiting, then),
    );
    await release();
    const result = await done.rest();
    for (const line of await done.leases.findWhoWrote()) inHand.onNotice?.(line);
    return result;
  } finally {
    await release();
    for (const log of logs.values()) await log.close();
    for (const { file, isOwn } of images) if (isOwn) await file.close();
  }
}

interface Entered<T> {
  readonly rest: () => Promise<T>;
  readonly leases: ImageLeases;
}

/** What the workspace is locked for. A refusal: somebody has an image open that a device leaves. */
async function enterCommit<T>(
  commit: Commit,
  images: readonly OpenWatched[],
  waiting: LockWaiting,
  then: (commit: Commit, move: Move) => Promise<() => Promise<T>>,
): Promise<Entered<T> | Refusal> {
  const { workspace, journal } = commit;
  const { once, just } = commit.inHand;
  const lock = await lockWorkspace(workspace, waiting);
  let leases: ImageLeases | undefined;
  try {
    const table = await readTable(workspace);
    const looked = await assertNothingChanged(workspace, images, journal.state);
    assertNamesFree(table, journal.state);
    const others = await readJournals(workspace, journal.id);
    await assertNotAppliedYet(workspace, table, once, others);
    const settled = await findSettled(workspace, images, looked, just);
    const record = commitRecord(workspace, table, journal.state, { once, settled });
    const { state } = journal;
    const planned = tablesOf(table, journal, record);
    const made = await lookAtMade(workspace, planned.next, looked, images);
    assertShown(table, planned.next);
    await assertActiveLayersApart(workspace.storage, withCommitted(planned.next, others), heldDevices(state));
    const left = imagesLeft(table, planned.next, state);
    // A command by itself has read its images a moment ago, and holds them.
    if (!journal.state.begin.implicit) {
      for (const line of await describeDoubts(images, left)) commit.inHand.onNotice?.(line);
    }
    const looks = new Map([
      ...made,
      ...(commit.isRehearsal ? [] : await raiseFences(workspace, journal, left)),
    ]);
    leases = leasesOn(commit, left, images);
    const refusal = leases.take();
    if (refusal) throw new GivesWay(refusal);
    const seen = lastSeen(journal.state);
    // Anew where fences were raised: by now those are known that devices keep.
    const { closing, next: fenced } = journal.state === state ? planned : tablesOf(table, journal, record);
    const next = withChangedImages(fenced, looks, (image) => seen.get(image)?.fingerprint);
    const unfenced = findUnfenced(left, images, journal.state);
    const close = async (image: string): Promise<void> => {
      for (const { watched, file } of images) if (watched.image === image) await file.close();
      await commit.inHand.close?.(image);
    };
    const rest = await then(commit, { closing, record, next, looks, leases, close, unfenced });
    return { rest, leases };
  } catch (error) {
    leases?.drop();
    await lowerAfterFailure(workspace, journal, error);
    if (error instanceof GivesWay) return error.refusal;
    throw error;
  } finally {
    leases?.drop();
    await lock.close();
  }
}

/** What a commit leaves up when it comes to nothing. In doubt about the mark they stay up, until recovery knows. */
async function lowerAfterFailure(workspace: Workspace, journal: Journal, error: unknown): Promise<void> {
  const isInDoubt = error instanceof ImgtxError && error.code === "E_UNFINISHED";
  if (isInDoubt || journal.state.commit || journal.state.fences.length === 0) return;
  try {
    await takeFencesBack(workspace, journal);
  } catch (cause) {
    if (!(error instanceof ImgtxError) || !(cause instanceof ImgtxError)) throw cause;
    throw cause.reworded(`${error.message}; and then its fences could not be lifted: ${cause.message}`, {
      hint: "the next imgtx command lifts them",
      cause: new AggregateError([error, cause]),
    });
  }
}

/** Before the mark, and with nothing done that would have to stay: whoever waits for an image is let through. */
class GivesWay extends Error {
  override readonly name = "GivesWay";
  readonly refusal: Refusal;

  constructor(refusal: Refusal) {
    super("somebody waits to open an image");
    this.refusal = refusal;
  }
}

/** Not on what the commit itself opens for writing. */
function leasesOn(
  { workspace, journal }: Commit,
  left: readonly LeftImage[],
  images: readonly OpenWatched[],
): ImageLeases {
  const changing = imagesChangedAtCommit(journal.state);
  const leaving = new Map(left.map((one) => [one.image, one]));
  const leased = images.flatMap(({ watched: { image, isNew }, file }) => {
    const one = isNew || changing.has(image) ? undefined : leaving.get(image);
    return one ? [{ ...one, file }] : [];
  });
  return new ImageLeases(workspace.storage, leased);
}

/** Those that are fenced are durable with their fences. */
function findUnfenced(
  left: readonly LeftImage[],
  images: readonly OpenWatched[],
  { fences }: TransactionState,
): StorageFile[] {
  const fenced = new Set(fences.map(({ image }) => image));
  const unfenced = new Set(left.flatMap(({ image }) => (fenced.has(image) ? [] : [image])));
  return images.flatMap(({ watched, file }) => (unfenced.has(watched.image) ? [file] : []));
}

/**
 * A guest may have left what it wrote, or the time of that, to the page cache: after the mark a power cut would take from a
 * snapshot what it keeps, and it would count as changed for ever.
 */
async function flushLeft(files: readonly StorageFile[]): Promise<void> {
  await settleAll(files.map(async (file) => await file.flush("left image")));
}

async function markAndMove(
  { workspace, journal, inHand, logs }: Commit,
  { closing, record, next, looks, leases, close, unfenced }: Move,
): Promise<() => Promise<DeviceTable>> {
  const { onProgress, throttle, onNotice, markEveryMs } = inHand;
  const told = { onProgress, throttle, onNotice, markEveryMs };
  const held: Finishing = { isLocked: true, looks, logs, close, ...told, underLock: HOLDS_LOCK };
  // Files that go at the end, with a snapshot too.
  const removes = liveStatements(journal.state).some(
    ({ plan: { removes: files, givesUp = [] } }) => files.length + givesUp.length > 0,
  );
  const isChanging = removes || imagesChangedAtCommit(journal.state).size > 0;
  // What is staged lacks the fingerprints that changed images will have: it has shown that there is room. Changing
  // them may take hours, and needs nothing but the images: the workspace is free for others.
  const changeAndMove = () => {
    leases.dropEarly();
    const free = { ...held, underLock: lockForMoments(workspace, WAIT_FOR_GOOD) };
    return async () => await finishOrExplain(journal, () => finishCommit(workspace, journal, free));
  };
  try {
    await settleAll([inHand.underWay, stageGeneration(workspace, closing, next), flushLeft(unfenced)]);
    const waits = leases.whoWaits();
    if (waits) throw new GivesWay(waits);
    // The mark may become durable before the history has its name: until the table moves, recovery knows
    // how to write both anew.
    await settleAll([journal.appendForGood(record, "commit mark"), keepGeneration(workspace, closing, next)]);
  } catch (error) {
    if (journal.state.commit) {
      leases.dropEarly();
      if (isChanging) return changeAndMove();
      const finished = await finishOrExplain(journal, () => finishCommit(workspace, journal, held));
      return async () => finished;
    }
    if (!(error instanceof ImgtxError && error.code === "E_UNFINISHED")) {
      await discardAfterFailure(workspace, closing);
    }
    throw error;
  }
  if (isChanging) return changeAndMove();
  return await finishOrExplain(journal, async () => {
    await moveToGeneration(workspace, next);
    if (journal.state.fences.some(({ kept }) => !kept)) {
      // Else the fences would wait for this process's own leases.
      leases.dropEarly();
      const kept = await liftLeft(workspace, journal.state, {});
      for (const { path, why } of kept) inHand.onNotice?.(`left '${path}' as it is: ${why}`);
      await rememberLeft(workspace, journal.state, closing, new Map(), kept);
    }
    await journal.retire(leavesUnfenced(imagesLeft(closing, next, journal.state), journal.state));
    return async () => next;
  });
}

/** Giving up would have the next command copy once more. */
const WAIT_FOR_GOOD = { waitMs: Infinity, onWait: () => undefined };

async function discardAfterFailure(workspace: Workspace, present: DeviceTable): Promise<void> {
  try {
    await discardNextGeneration(workspace, present);
  } catch (cause) {
    // What stays is small, seen by nobody, and replaced by the next commit: the first failure counts.
    if (!(cause instanceof ImgtxError)) throw cause;
  }
}

async function finishOrExplain<T>(journal: Journal, finish: () => Promise<T>): Promise<T> {
  try {
    return await finish();
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new ImgtxError(
      "E_UNFINISHED",
      `the transaction is committed and durable, but not finished: ${why}`,
      {
        image: cause instanceof ImgtxError && cause.image !== undefined ? cause.image : journal.path,
        changed: true,
        hint: "the next imgtx command goes on with it; `imgtx recover` does only that",
        cause,
      },
    );
  }
}

function imagesChangedAtCommit(state: TransactionState): ReadonlySet<string> {
  return new Set([...imagesRedone(state), ...imagesCopiedInto(state)]);
}

// Applies redo logs to their images, after the commit mark, and removes them when the table has moved.
//
// Invariants
// - A log is applied from its start, as often as it takes, by the very file that was planned, and under the guard that the
//   change needs (format/staged). An image that the devices leave waits until the table has moved.
// - Recovery applies none that discards (redo.ts) to an image without a fence that somebody has written to since the
//   mark: what was written might go with what the log takes away, or into a snapshot of before.
// - Where no fence tells that a log was applied, the journal does, durably, before anybody else may open the image: after
//   that record the image is not looked at any more. Such logs come first, while the other images are as before. It does
//   so too of what waited until the table had moved: what is written to that afterwards keeps its time.
// - Logs go when the table has moved, durably, and before the journal that knows them by name.

import type { Workspace } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import {
  applyLog,
  describeDoubt,
  type Fingerprint,
  type Guard,
  isFileFenced,
  mayBeSameFile,
  RedoLog,
  renewApplied,
  settleFingerprint,
  surveyImage,
  takeFingerprint,
  isReplaced,
} from "../../format/index.ts";
import type { LockWaiting, Storage, StorageFile } from "../../storage/index.ts";
import {
  fenceBytesOf,
  type Journal,
  logsOf,
  type PreparedRedo,
  type TransactionState,
  volumesFilled,
} from "../journal/index.ts";
import type { KeptFile } from "../requests/request.ts";
import { AS_IMAGE } from "./devices.ts";
import { lockWriter, openIfFree, openUnlessGone } from "./open-free.ts";
import { diskIsAway, foldersOf, isDiskThere, isElsewhere } from "./planned-folders.ts";
import { baseOf, findWrites, inOrder, isRecorded, takeSpace } from "./redo.ts";
import { removeFinished } from "./removal.ts";

export interface HowToApply {
  /** Whether the caller holds QEMU's locks on the images, and nobody has written to them since the mark. */
  readonly isLocked: boolean;
  /** How long to wait for them, where it does not. */
  readonly waiting?: LockWaiting | undefined;
  /** Which images it is about. */
  readonly isDue: (image: string, redo: PreparedRedo) => boolean;
  /** The logs, by their paths, where the caller has opened them. */
  readonly logs?: ReadonlyMap<string, RedoLog>;
  /** Whether the table has moved: a log that is not there any more was applied then. */
  readonly hasMoved?: boolean;
  /** Images that snapshots keep, and nobody writes to: see applyOne. */
  readonly kept?: ReadonlySet<string>;
  /** Times of modification that images get whose logs say none, as records of snapshots have them: see left-times.ts. */
  readonly times?: ReadonlyMap<string, string>;
  /** Told of images that are left as they are. Undefined: that is an error. */
  readonly onLeft?: ((file: KeptFile) => void) | undefined;
  readonly onNotice?: ((line: string) => void) | undefined;
}

/** Applies the logs, durably. Returns what the images look like then, but for those that somebody may have written to. */
export async function applyRedo(
  { storage }: Workspace,
  journal: Journal,
  given: HowToApply,
): Promise<ReadonlyMap<string, Fingerprint>> {
  const { state } = journal;
  const looks = new Map<string, Fingerprint>();
  const filled = filledBy(state);
  // Nobody's device is on a volume that gets its first image: that is no guest's yet, as what snapshots keep is not.
  const how = { ...given, kept: new Set([...(given.kept ?? []), ...filled]) };
  const ready: Ready[] = [];
  const applyAll = async (): Promise<void> => {
    for (let one = ready.shift(); one; one = ready.shift()) {
      const { image } = one.redo;
      try {
        const hasHeader = one.base.headerSha256 !== null || filled.has(image);
        const isToldOf = isRecorded(one.redo, state) || how.times?.has(image) === true;
        const look = await applyOne(storage, { ...one, hasHeader }, isToldOf, how);
        if (look) looks.set(image, look);
        if (isToldOf) await journal.append({ type: "applied", image }, "applied");
      } finally {
        await one.close();
      }
    }
  };
  try {
    for (const redo of inOrder(state)) {
      if (!how.isDue(redo.image, redo)) continue;
      if (state.applied.has(redo.image)) {
        const look = await lookAtApplied(storage, state, redo, how);
        if (look) looks.set(redo.image, look);
        continue;
      }
      try {
        const one = await openOne(storage, state, redo, how);
        if (one) ready.push(one);
      } catch (error) {
        if (!how.onLeft || !(error instanceof ImgtxError) || !LEFT_BY_FORCE.has(error.code)) throw error;
        how.onLeft({ path: redo.image, why: error.message });
      }
      // Else all of them are looked at first: what waits writes nothing, however often it is tried.
      if (how.isLocked) await applyAll();
    }
    await applyAll();
    return looks;
  } finally {
    for (const one of ready) await one.close();
  }
}

/** What an image looks like that the journal says is changed, and that snapshots keep: whoever did that has died since. */
async function lookAtApplied(
  storage: Storage,
  state: TransactionState,
  redo: PreparedRedo,
  how: HowToApply,
): Promise<Fingerprint | undefined> {
  if (how.kept?.has(redo.image) !== true) return undefined;
  const base = baseOf(state, redo);
  const seen = await openUnlessGone(storage, redo.image);
  try {
    if (!seen || !mayBeSameFile(base, await seen.stat())) return undefined;
    how.onNotice?.(sayDoubt(redo.image));
    const hasHeader = base.headerSha256 !== null || filledBy(state).has(redo.image);
    return await settleFingerprint(storage.host, seen, await takeFingerprint(seen, hasHeader));
  } finally {
    await seen?.close();
  }
}

function filledBy({ statements }: TransactionState): ReadonlySet<string> {
  return new Set(statements.flatMap(({ plan }) => volumesFilled(plan)));
}

function sayDoubt(image: string): string {
  return `whether somebody wrote to ${image} after imgtx changed it can't be told, since imgtx was stopped right then`;
}

const LEFT_BY_FORCE: ReadonlySet<string> = new Set(["E_CHANGED", "E_NOT_FOUND", "E_CORRUPT"]);

/** An image whose log may be applied, open for that and locked. */
interface Ready {
  readonly redo: PreparedRedo;
  readonly base: Fingerprint;
  readonly log: RedoLog;
  readonly guard: Guard;
  /** Undefined where it is applied, and somebody has the image open. */
  readonly file: StorageFile | undefined;
  readonly seen: StorageFile;
  readonly isApplied: boolean;
  /** The time of modification that it gets. Undefined: that of the writes. */
  readonly modifiedNs: string | undefined;
  close(): Promise<void>;
}

/** Undefined where nothing is to be done. */
async function openOne(
  storage: Storage,
  state: TransactionState,
  redo: PreparedRedo,
  how: HowToApply,
): Promise<Ready | undefined> {
  const { image } = redo;
  const base = baseOf(state, redo);
  if (await isElsewhere(storage, image, { expected: base, folders: foldersOf(state) }))
    throw diskIsAway(image, "it is still to be changed");
  const seen = await openUnlessGone(storage, image);
  if (!seen && how.hasMoved !== true) throw isGone(image);
  if (!seen) return undefined;
  const opened: { close(): Promise<void> }[] = [seen];
  const close = async (): Promise<void> => {
    for (const one of opened.splice(0).toReversed()) await one.close();
  };
  let isReady = false;
  try {
    const known = how.logs?.get(redo.log);
    const log = known ?? (await openLog(storage, redo, how.hasMoved === true));
    if (!log) return undefined;
    if (!known) opened.push(log);
    const guard = guardOf(state, redo);
    if (!mayBeSameFile(base, await seen.stat())) throw isReplaced(image, "run `imgtx recover`");
    // Under a fence that stays all may be done already: it was raised before the mark.
    const isFresh = how.isLocked && keptFenceOf(guard) === undefined;
    const found = isFresh ? "untouched" : await surveyOrRefuse(log, seen, guard);
    if (found === "used" && (await isFileFenced(seen))) throw writtenSince(image, 0);
    if (found === "used") {
      how.onNotice?.(`${image} was written to since imgtx changed it, and is left as it is`);
      return undefined;
    }
    const isApplied = found === "applied";
    const file = isApplied
      ? await openApplied(storage, image, how)
      : await storage.openFile(image, "write", AS_IMAGE);
    if (file) opened.push(file);
    if (file && !isApplied && !how.isLocked) {
      await lockWriter(storage, file, how.waiting);
      // Only now: whoever had it open may have written until then.
      const mayLose = guard.kind === "digests" && redo.discards === true && found === "untouched";
      if (mayLose) await assertUnwritten(file, { redo, base }, how.onNotice);
    }
    const time = how.times?.get(image);
    const isGuarded = isApplied || how.isLocked || guard.kind === "fence";
    const keepsTime = time !== undefined && !isGuarded && (await isWritten(seen, { redo, base, found }, how));
    const modifiedNs = redo.modifiedNs ?? (keepsTime ? undefined : time);
    isReady = true;
    return { redo, base, log, guard, file, seen, isApplied, modifiedNs, close };
  } finally {
    if (!isReady) await close();
  }
}

/** Whether somebody has: what a snapshot keeps must not have that in it, and its time tells. A doubt is said. */
async function isWritten(
  file: StorageFile,
  { redo: { image }, base, found }: Pick<Ready, "redo" | "base"> & { readonly found: string },
  { onNotice }: HowToApply,
): Promise<boolean> {
  const isPartly = found !== "untouched";
  const changes = isPartly ? [] : findWrites(base, await takeFingerprint(file, base.headerSha256 !== null));
  if (isPartly) onNotice?.(sayDoubt(image));
  if (changes.length > 0)
    onNotice?.(
      `${image} was written to after the commit, and what a snapshot keeps of it has changed: ${changes.join(", ")}`,
    );
  return changes.length > 0;
}

/** Whether an image is as it was at the mark, where the log is to be asked: it may have been written to elsewhere. */
export async function isUntouched(
  storage: Storage,
  state: TransactionState,
  redo: PreparedRedo,
): Promise<boolean> {
  if (state.applied.has(redo.image)) return false;
  return (await surveyRedo(storage, state, redo)) === "untouched";
}

/** How far an image's log is applied, by what both hold. Undefined where one of them is not there. */
export async function surveyRedo(
  storage: Storage,
  state: TransactionState,
  redo: PreparedRedo,
): Promise<"untouched" | "partly" | "applied" | "used" | "foreign" | undefined> {
  const file = await openUnlessGone(storage, redo.image);
  const log = file && (await openLog(storage, redo, true));
  try {
    return file && log ? (await surveyImage(log, file, guardOf(state, redo))).state : undefined;
  } finally {
    await log?.close();
    await file?.close();
  }
}

/** E_CHANGED where somebody has written to it since the mark. A doubt is said. */
async function assertUnwritten(
  file: StorageFile,
  { redo, base }: Pick<Ready, "redo" | "base">,
  onNotice: HowToApply["onNotice"],
): Promise<void> {
  const { image, sizeAfter, changedSectors, freedPages } = redo;
  // Of a raw disk that becomes smaller.
  if (changedSectors + freedPages === 0 && (await file.seekData(sizeAfter)) === undefined) return;
  const now = await takeFingerprint(file, base.headerSha256 !== null);
  const changes = findWrites(base, now);
  if (changes.length > 0) {
    throw new ImgtxError(
      "E_CHANGED",
      `somebody wrote to it after the commit (${changes.join(", ")}), and changing it now might lose that`,
      { image, hint: "find out who wrote to it; what stands there was left as it is" },
    );
  }
  const doubt = describeDoubt(base, now);
  if (doubt === undefined) return;
  onNotice?.(
    `whether somebody wrote to ${image} after the commit can't be told from its times (${doubt}): changing it might have lost that`,
  );
}

/** To be written once more, where nobody else has it open. */
async function openApplied(
  storage: Storage,
  image: string,
  { isLocked }: HowToApply,
): Promise<StorageFile | undefined> {
  return isLocked ? undefined : await openIfFree(storage, image);
}

async function applyOne(
  storage: Storage,
  { redo, hasHeader, log, guard, file, seen, isApplied, modifiedNs }: Ready & { readonly hasHeader: boolean },
  isToldOf: boolean,
  { kept, times, onNotice }: Pick<HowToApply, "kept" | "times" | "onNotice">,
): Promise<Fingerprint | undefined> {
  const look = async (of: StorageFile): Promise<Fingerprint> =>
    await settleFingerprint(storage.host, of, await takeFingerprint(of, hasHeader));
  if (isApplied) {
    // Whoever applied it may have died before it had its time, and a snapshot would be lost for nothing.
    const lacksTime = times?.has(redo.image) === true && (await seen.stat()).modifiedNs !== modifiedNs;
    if (file && lacksTime && modifiedNs !== undefined) {
      await file.setModified(modifiedNs);
      onNotice?.(sayDoubt(redo.image));
    }
    if (file) await renewApplied(log, file);
    else if (isToldOf) await seen.flush("redo log: applied");
    // Whoever applied it has died since. From then on a guest may have opened the image, and what it looks like now
    // must not pass for what imgtx made of it. Of one that snapshots keep it does, or they would be lost for nothing.
    if (keptFenceOf(guard) !== undefined) return await look(seen);
    if (kept?.has(redo.image) !== true) return undefined;
    onNotice?.(sayDoubt(redo.image));
    return await look(seen);
  }
  if (!file) throw new Error("an image that is to be changed is open for writing");
  for (const range of redo.preallocated ?? []) await takeSpace(file, range, redo.sizeAfter);
  await applyLog(log, file, guard, modifiedNs);
  return await look(file);
}

async function openLog(
  storage: Storage,
  redo: PreparedRedo,
  hasMoved: boolean,
): Promise<RedoLog | undefined> {
  if (!(await storage.statLink(redo.log))) {
    if (hasMoved) return undefined;
    throw new ImgtxError(
      "E_CORRUPT",
      `its redo log has gone, '${redo.log}', and with it what is to be changed`,
      {
        image: redo.image,
        hint: "put the file back",
      },
    );
  }
  return await RedoLog.open(storage, redo.log, redo.end, "read");
}

async function surveyOrRefuse(
  log: RedoLog,
  file: StorageFile,
  guard: Guard,
): Promise<"untouched" | "partly" | "applied" | "used"> {
  const survey = await surveyImage(log, file, guard);
  if (survey.state !== "foreign") return survey.state;
  throw writtenSince(file.path, survey.offset);
}

function isGone(image: string): ImgtxError {
  return new ImgtxError("E_NOT_FOUND", "it is not there, and is still to be changed", {
    image,
    hint: "mount its disk, or put the file back",
  });
}

function writtenSince(image: string, offset: number): ImgtxError {
  return new ImgtxError("E_CHANGED", "somebody has written to it where imgtx was to change it", {
    image,
    offset,
    hint: "find out who wrote to it; what stands there was left as it is",
  });
}

/** The fence that stays over what the log leaves. */
function keptFenceOf(guard: Guard) {
  return guard.kind === "fence" ? guard.kept : undefined;
}

function guardOf({ fences }: TransactionState, { image, guardedBy, isFenced }: PreparedRedo): Guard {
  if (guardedBy !== "fence") return { kind: guardedBy };
  const known = fences.find((one) => one.image === image);
  // A log that was begun under the fence says by itself what comes without it.
  const raised = isFenced ? undefined : known?.raised;
  if (!raised && !isFenced) throw new Error("an image that is changed under a fence has one before the mark");
  const between = isFenced ? undefined : known?.between;
  const [fence, stays] = [raised, known?.kept ?? between].map((one) => (one ? fenceBytesOf(one) : undefined));
  return { kind: "fence", fence, kept: stays };
}

/** The table has moved: what was applied is not needed any more. E_NOT_FOUND where the disk of one is away. */
export async function removeRedoLogs(
  { storage }: Workspace,
  state: TransactionState,
  { onLeft }: Pick<HowToApply, "onLeft">,
): Promise<void> {
  const logs = new Set(state.statements.flatMap(({ plan }) => logsOf(plan)));
  const [there, away]: [string[], string[]] = [[], []];
  for (const log of logs) ((await isDiskThere(storage, log, foldersOf(state))) ? there : away).push(log);
  await removeFinished(storage, there, "redo log gone");
  for (const log of away) {
    const error = diskIsAway(log, "it is still to be removed");
    if (!onLeft) throw error;
    onLeft({ path: log, why: error.message });
  }
}

// Changes of images in place: what a statement changes goes into a redo log beside the image, which the commit carries
// out after its mark.
//
// Invariants
// - The plan names each log before it is made. The log is durable before the statement counts as prepared; the image
//   itself is not touched before the commit mark.
// - A log holds on what its image was when it was begun. Where that has changed since, nothing is written by it: a
//   statement that copies anew begins a log of its own, and the one before is only still to be removed.
// - After the mark a log is applied from its start, as often as it takes, by the very file that was planned, and under
//   the guard that the change needs (format/staged). An image that the devices leave waits until the table has moved.
// - Logs go when the table has moved, durably, and before the journal that knows them by name.

import { posix } from "node:path";
import type { Workspace } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import {
  applyLog,
  type ChainLink,
  describeChanges,
  type Fingerprint,
  fingerprintAt,
  type Guard,
  isFileFenced,
  mayBeSameFile,
  planFileFence,
  RedoLog,
  renewApplied,
  sectorsOfFence,
  settleFingerprint,
  StagedStorage,
  surveyImage,
  takeFingerprint,
} from "../../format/index.ts";
import type { LockWaiting, Reservation, Storage, StorageFile } from "../../storage/index.ts";
import {
  fenceBytesOf,
  lastSeen,
  liveStatements,
  type PlanRecord,
  type PreparedRedo,
  redoOf,
  type TransactionState,
} from "../journal/index.ts";
import { lockWriter, openIfFree, openUnlessGone, replacedSince } from "./open-free.ts";
import { diskIsAway, foldersOf, isDiskThere, isElsewhere } from "./planned-folders.ts";
import { removeFinished } from "./removal.ts";
import type { KeptFile } from "../request.ts";

/** What a disk writes wholly or not at all. */
const SECTOR_BYTES = 512;

/** A change of an image that is there, as an action plans it. */
export interface ImageChange {
  /** As the plan opened it. */
  readonly link: ChainLink;
  /** The time of modification that goes with what it leaves. Default: that of the writes. */
  readonly modifiedNs?: string | null;
  /** Writes the change. The file shows the image as the statements before leave it. */
  write(file: StorageFile): Promise<void>;
}

/** The images as the statements of the transaction leave them. The caller closes it. access: to the logs. */
export async function openStaged(
  storage: Storage,
  state: TransactionState | undefined,
  access: "read" | "write",
): Promise<StagedStorage> {
  const staged = new StagedStorage(storage);
  if (!state) return staged;
  try {
    for (const redo of redoOf(state).values()) {
      // Where the image has gone, or changed since, the log says nothing of what is there now: the commit will say so.
      if (!(await isBaseUnchanged(storage, state, redo))) continue;
      await staged.resume(redo.image, { log: posix.basename(redo.log), end: redo.end }, access);
    }
    return staged;
  } catch (error) {
    await staged.close();
    throw error;
  }
}

/** What the log's image was when it was begun. */
function baseOf(state: TransactionState, { image, log }: PreparedRedo): Fingerprint {
  const first = liveStatements(state).find(({ prepared }) => prepared?.redo.some((one) => one.log === log));
  const base = first?.plan.watched.find((one) => one.image === image);
  if (!base) throw new Error("an image with a redo log is watched");
  return base.fingerprint;
}

async function isBaseUnchanged(
  storage: Storage,
  state: TransactionState,
  redo: PreparedRedo,
): Promise<boolean> {
  const now = await fingerprintAt(storage, redo.image, undefined);
  const before = { ...baseOf(state, redo), headerSha256: null };
  return now !== undefined && describeChanges(before, now).length === 0;
}

/** Writes the statement's changes into their logs, durably. What the plan record keeps of them is in the same order. */
export async function stageChanges(
  staged: StagedStorage,
  transaction: string,
  record: PlanRecord,
  { changes, before }: { changes: readonly ImageChange[]; before: TransactionState },
): Promise<PreparedRedo[]> {
  const earlier = redoOf(before);
  const traits = new Map<string, Pick<PreparedRedo, "guardedBy" | "isFenced" | "modifiedNs">>();
  for (const [index, change] of changes.entries()) {
    const { link } = change;
    const planned = record.redo[index];
    if (!planned) throw new Error("each change of an image was planned");
    const { image, log } = planned;
    // Version 2 of qcow2 and raw have no place for a fence.
    const guardedBy = link.header && link.header.version > 2 ? "fence" : "digests";
    if (staged.logOf(link.stat) === undefined) {
      await staged.stage(image, { transaction, log: posix.basename(log), guardedBy });
    }
    const file = await staged.openFile(image, "write");
    try {
      await change.write(file);
      const isFenced = guardedBy === "fence" && (await isFileFenced(file.onDisk ?? file));
      if (guardedBy === "fence") await includeFences(staged, file, transaction);
      const known = earlier.get(image);
      const isTimeKnown = known?.log !== log || known.modifiedNs !== null;
      const modifiedNs = isTimeKnown ? (change.modifiedNs ?? null) : null;
      traits.set(log, { guardedBy, isFenced, modifiedNs });
    } finally {
      await file.close();
    }
  }
  const sealed = changes.length === 0 ? [] : await staged.seal();
  const byPath = new Map(sealed.map((one) => [posix.join(posix.dirname(one.image), one.log), one]));
  return record.redo.map(({ image, log }) => {
    const [one, found] = [byPath.get(log), traits.get(log)];
    if (!one || !found) throw new Error("each log that was written is sealed");
    return { ...one, image, log, ...found };
  });
}

/** Where a fence is while the log is applied, and where one may be that stays. */
async function includeFences(staged: StagedStorage, file: StorageFile, transaction: string): Promise<void> {
  const fences = [
    await planFileFence(file.onDisk ?? file, transaction),
    await planFileFence(file, transaction),
  ];
  const lengths = fences.map((fence) => sectorsOfFence(fence).lengthBytes);
  await staged.include(file.path, 0, Math.max(...lengths));
}

/** Images that are changed by redo logs after the commit mark. */
export function imagesRedone(state: TransactionState): ReadonlySet<string> {
  return new Set(redoOf(state).keys());
}

/** Those of them that need a fence meanwhile, and have none. */
export function imagesToFence(state: TransactionState): string[] {
  return [...redoOf(state).values()].flatMap(({ image, guardedBy, isFenced }) =>
    guardedBy === "fence" && !isFenced ? [image] : [],
  );
}

// The caller closes the logs, also where this fails.
/** Opens the logs, checked, before the mark. E_CHANGED where an image is not what its log is about; E_CORRUPT for damage. */
export async function openRedo(
  { storage }: Workspace,
  state: TransactionState,
  opened: Map<string, RedoLog>,
): Promise<void> {
  const seen = lastSeen(state);
  for (const redo of redoOf(state).values()) {
    const { image } = redo;
    const now = seen.get(image);
    if (!now || describeChanges(baseOf(state, redo), now.fingerprint).length > 0) {
      throw new ImgtxError("E_CHANGED", "the image has changed since the transaction began to change it", {
        image,
        hint: "`imgtx txn abort` takes the transaction back; then begin again",
      });
    }
    opened.set(redo.log, await RedoLog.open(storage, redo.log, redo.end, "read"));
  }
}

/** Takes the space that applying the logs needs, before the mark. The caller gives it back, also where this fails. */
export async function reserveForRedo(
  { storage }: Workspace,
  state: TransactionState,
  taken: Reservation[],
): Promise<void> {
  for (const { image, changedSectors } of redoOf(state).values()) {
    taken.push(await storage.reserveSpace(posix.dirname(image), changedSectors * SECTOR_BYTES));
  }
}

export interface HowToApply {
  /** Whether the caller holds QEMU's locks on the images, and nobody has written to them since the mark. */
  readonly isLocked: boolean;
  /** How long to wait for them, where it does not. */
  readonly waiting?: LockWaiting | undefined;
  /** Which images it is about. */
  readonly isDue: (image: string) => boolean;
  /** The logs, by their paths, where the caller has opened them. */
  readonly logs?: ReadonlyMap<string, RedoLog>;
  /** Whether the table has moved: a log that is not there any more was applied then. */
  readonly hasMoved?: boolean;
  /** Told of images that are left as they are. Undefined: that is an error. */
  readonly onLeft?: ((file: KeptFile) => void) | undefined;
  readonly onNotice?: ((line: string) => void) | undefined;
}

/** Applies the logs, durably. Returns what the images look like then, but for those that somebody may have written to. */
export async function applyRedo(
  { storage }: Workspace,
  state: TransactionState,
  how: HowToApply,
): Promise<ReadonlyMap<string, Fingerprint>> {
  const looks = new Map<string, Fingerprint>();
  const ready: Ready[] = [];
  const applyAll = async (): Promise<void> => {
    for (const one of ready.splice(0)) {
      try {
        const look = await applyOne(storage, one);
        if (look) looks.set(one.redo.image, look);
      } finally {
        await one.close();
      }
    }
  };
  try {
    for (const redo of redoOf(state).values()) {
      if (!how.isDue(redo.image)) continue;
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
  const seen = await openUnlessGone(storage, image, "read");
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
    if (!mayBeSameFile(base, await seen.stat())) throw replacedSince(image);
    // Under a fence that stays all may be done already: it was raised before the mark.
    const isFresh = how.isLocked && keptFenceOf(guard) === undefined;
    const found = isFresh ? "untouched" : await surveyOrRefuse(log, seen, guard);
    if (found === "used" && (await isFileFenced(seen))) throw writtenSince(image, 0);
    if (found === "used") {
      how.onNotice?.(`${image} was written to since imgtx changed it, and is left as it is`);
      return undefined;
    }
    const isApplied = found === "applied";
    const file = isApplied ? await openApplied(storage, image, how) : await storage.openFile(image, "write");
    if (file) opened.push(file);
    if (file && !isApplied && !how.isLocked) await lockWriter(storage, file, how.waiting);
    isReady = true;
    return { redo, base, log, guard, file, seen, isApplied, close };
  } finally {
    if (!isReady) await close();
  }
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
  { redo, base, log, guard, file, seen, isApplied }: Ready,
): Promise<Fingerprint | undefined> {
  const look = async (of: StorageFile): Promise<Fingerprint> =>
    await settleFingerprint(storage.host, of, await takeFingerprint(of, base.headerSha256 !== null));
  if (isApplied) {
    if (file) await renewApplied(log, file);
    // Whoever applied it has died since. From then on a guest may have opened the image, and what it looks like now
    // must not pass for what imgtx made of it.
    return keptFenceOf(guard) === undefined ? undefined : await look(seen);
  }
  if (!file) throw new Error("an image that is to be changed is open for writing");
  await applyLog(log, file, guard, redo.modifiedNs ?? undefined);
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
  if (guardedBy === "digests") return { kind: "digests" };
  const { raised, kept } = fences.find((one) => one.image === image) ?? {};
  if (!raised && !isFenced) throw new Error("an image that is changed under a fence has one before the mark");
  const [fence, stays] = [raised, kept].map((one) => (one ? fenceBytesOf(one) : undefined));
  return { kind: "fence", fence, kept: stays };
}

/** The table has moved: what was applied is not needed any more. E_NOT_FOUND where the disk of one is away. */
export async function removeRedoLogs(
  { storage }: Workspace,
  state: TransactionState,
  { onLeft }: Pick<HowToApply, "onLeft">,
): Promise<void> {
  const logs = new Set(state.statements.flatMap(({ plan }) => plan.redo.map(({ log }) => log)));
  const [there, away]: [string[], string[]] = [[], []];
  for (const log of logs) ((await isDiskThere(storage, log, foldersOf(state))) ? there : away).push(log);
  await removeFinished(storage, there, "redo log gone");
  for (const log of away) {
    const error = diskIsAway(log, "it is still to be removed");
    if (!onLeft) throw error;
    onLeft({ path: log, why: error.message });
  }
}

// Changes of images in place: what a statement changes goes into a redo log beside the image, which the commit carries
// out after its mark. That of a block device lies beside the journal: what is made in /dev is gone at the next start.
//
// Invariants
// - The plan names each log before it is made. The log is durable before the statement counts as prepared; the image
//   itself is not touched before the commit mark.
// - A log holds on what its image was when it was begun. Where that has changed since, nothing is written by it: a
//   statement that copies anew begins a log of its own, and the one before is only still to be removed.
// - After the mark it is applied: apply-redo.ts.

import { posix } from "node:path";
import type { Workspace } from "../../device/index.ts";
import { elseClosed, ImgtxError, whileOpen } from "../../errors/index.ts";
import {
  type ChainLink,
  describeChanges,
  describeUnreadChanges,
  type DeviceReads,
  endOfWrites,
  type Fingerprint,
  fingerprintAt,
  inSmallerVolume,
  isInOverlay,
  isAsRead,
  isDeviceIdentity,
  isFileFenced,
  planFileFence,
  type Preallocated,
  RedoLog,
  sectorsOfFence,
  type ObserveFile,
  StagedStorage,
} from "../../format/index.ts";
import type { Reservation, Storage, StorageFile } from "../../storage/index.ts";
import { AS_IMAGE, isDeviceAt } from "./devices.ts";
import {
  copiesOf,
  filesRemoved,
  lastSeen,
  lateLogsOf,
  liveStatements,
  type PlanRecord,
  type PreparedRedo,
  redoOf,
  type TransactionState,
} from "../journal/index.ts";
import { SECTOR_BYTES } from "../../units/index.ts";

/** A change of an image that is there, as an action plans it. */
export interface ImageChange {
  /** As the plan opened it. */
  readonly link: ChainLink;
  /** The time of modification that goes with what it leaves. Default: that of the writes. */
  readonly modifiedNs?: string | null;
  /** Whether it is carried out when all is copied, and not before. */
  readonly isLast?: boolean;
  /** Whether it may come before what earlier statements copy into the image: it leaves the same then. Default: no. */
  readonly precedesCopies?: boolean;
  /**
   * Whether what is written between the commit mark and its application could be lost with what it takes away, or come
   * into what it keeps of before: see apply-redo.ts. Default: no.
   */
  readonly discards?: boolean;
  /** Whether it is the data file of an image that is changed after it, and only gets holes: see guard.ts. Default: no. */
  readonly isOwned?: boolean;
  /** Whether it writes a new image over what a block device, opened as raw, has. Default: no. */
  readonly makesImage?: boolean;
  /**
   * Writes the change. The file shows the image as the statements before leave it. transaction: its id, which is the one
   * that planned it, or that of an earlier one where a copy that was cut off goes on. Returns what gets its blocks in
   * advance when the log is applied: a log has no blocks.
   */
  write(file: StorageFile, transaction: string): Promise<Preallocated | void>;
}

/**
 * The images as the statements of the transaction leave them. The caller closes it. access: to the logs; for writing, a
 * device that is not as it was when its log was begun is E_CHANGED. only: the images that it is about, where it is not
 * about all. observe: see StagedStorage.
 */
export async function openStaged(
  storage: Storage,
  state: TransactionState | undefined,
  access: "read" | "write",
  { only, observe }: { readonly only?: ReadonlySet<string>; readonly observe?: ObserveFile | undefined } = {},
): Promise<StagedStorage> {
  const staged = new StagedStorage(storage, observe);
  if (!state) return staged;
  return await elseClosed(staged, async () => {
    for (const redo of redoOf(state).values()) {
      if (only && !only.has(redo.image)) continue;
      if (!(await isBaseUnchanged(storage, state, redo))) {
        // A device may be as it was once more by the commit, and what is planned now would have left out what the log has.
        const isForGood =
          access === "read" || isRenewed(state, redo) || !(await isDeviceAt(storage, redo.image));
        if (!isForGood) throw changedSince(redo.image);
        // Else the log says nothing of what is there now: the commit will say so.
        continue;
      }
      await staged.resume(redo.image, { ...namesOf(redo), end: redo.end }, access);
    }
    return staged;
  });
}

/** Whether the log is one of a copy, which is made anew where somebody has written to what it is about. */
function isRenewed(state: TransactionState, { log }: PreparedRedo): boolean {
  return liveStatements(state).some(({ plan, prepared }) => {
    return plan.renewable && prepared?.redo.some((one) => one.log === log) === true;
  });
}

/** What the log's image was when it was begun. */
export function baseOf(state: TransactionState, { image, log }: PreparedRedo): Fingerprint {
  const first = liveStatements(state).find(
    ({ plan, prepared }) =>
      prepared?.redo.some((one) => one.log === log) || lateLogsOf(plan).some((one) => one.log === log),
  );
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
  if (now === undefined || isCutOff(now, redo)) return false;
  const base = baseOf(state, redo);
  if (describeUnreadChanges(base, inSmallerVolume(base, now)).length > 0) return false;
  // Compared for the last time before the mark: from then on fences and logs are written to it.
  if (state.commit) return true;
  const reads = readsThatCount(state).filter(({ image }) => image === redo.image);
  return (await findWritten(storage, reads)) === undefined;
}

/** Whether an image is not as it was when its log was begun. A volume may have become larger: what was on it is there. */
function isChanged(base: Fingerprint, now: Fingerprint): boolean {
  return describeChanges(base, inSmallerVolume(base, now)).length > 0;
}

/** Whether it is a volume that became larger, and smaller again, since a statement changed what it got. */
function isCutOff(
  now: Pick<Fingerprint, "sizeBytes" | "fileSystemId">,
  { sizeAfter }: Pick<PreparedRedo, "sizeAfter">,
): boolean {
  return isDeviceIdentity(now) && now.sizeBytes < sizeAfter;
}

/** What was read of block devices for what the commit is to do: not for the redo log of a copy that was made anew. */
function readsThatCount(state: TransactionState): DeviceReads[] {
  const present = redoOf(state);
  return liveStatements(state).flatMap(({ plan, prepared }) =>
    (prepared?.reads ?? []).filter(({ image }) => {
      const log = plan.redo.find((one) => one.image === image)?.log;
      return !plan.renewable || log === undefined || present.get(image)?.log === log;
    }),
  );
}

/** The first of the devices that is not as it was read. */
async function findWritten(storage: Storage, reads: readonly DeviceReads[]): Promise<string | undefined> {
  for (const one of reads) {
    const file = await storage.openFile(one.image, "read", AS_IMAGE);
    try {
      if (!(await isAsRead(file, one))) return one.image;
    } finally {
      await file.close();
    }
  }
  return undefined;
}

/**
 * Before the mark, with the images locked. E_CHANGED where somebody has written to what a statement has read of a block
 * device; E_REFUSED where one that is to be changed is in other use by now.
 */
export async function assertDevicesAsRead({ storage }: Workspace, state: TransactionState): Promise<void> {
  for (const redo of redoOf(state).values()) {
    const { image } = redo;
    if (!(await isDeviceAt(storage, image))) continue;
    // The kernel says whether it is mounted, or part of another device.
    const stat = await whileOpen(await storage.openFile(image, "write", AS_IMAGE), (file) => file.stat());
    if (isCutOff(stat, redo)) throw changedSince(image);
  }
  const image = await findWritten(storage, readsThatCount(state));
  if (image !== undefined) throw changedSince(image);
}

function changedSince(image: string): ImgtxError {
  return new ImgtxError("E_CHANGED", "the image has changed since the transaction began to change it", {
    image,
    hint: "`imgtx txn abort` takes the transaction back; then begin again",
  });
}

type LogTraits = Pick<PreparedRedo, "guardedBy" | "isFenced" | "modifiedNs" | "discards" | "preallocated">;

/** Writes the statement's changes into their logs, durably. What the plan record keeps of them is in the same order. */
export async function stageChanges(
  staged: StagedStorage,
  transaction: string,
  record: PlanRecord,
  { changes, before }: { changes: readonly ImageChange[]; before: TransactionState },
): Promise<PreparedRedo[]> {
  const earlier = redoOf(before);
  const traits = new Map<string, LogTraits>();
  for (const [index, change] of changes.entries()) {
    const { link } = change;
    const planned = record.redo[index];
    if (!planned) throw new Error("each change of an image was planned");
    const { image, log } = planned;
    const known = earlier.get(image);
    const guardedBy = known?.log === log ? known.guardedBy : guardFor(change);
    if (staged.logOf(link.stat) === undefined) {
      await staged.stage(image, { transaction, ...namesOf(planned), guardedBy });
    }
    const file = await staged.whileChanging(async () => await staged.openFile(image, "write", AS_IMAGE));
    await whileOpen(file, async () => {
      const taken = await staged.whileChanging(async () => await change.write(file, transaction));
      const isFenced = guardedBy === "fence" && (await isFileFenced(file.onDisk ?? file));
      if (guardedBy === "fence") await includeFences(staged, file, transaction);
      const isTimeKnown = known?.log !== log || known.modifiedNs !== null;
      const modifiedNs = isTimeKnown ? (change.modifiedNs ?? null) : null;
      const discards = change.discards === true || (known?.log === log && known.discards === true);
      const before = known?.log === log ? (known.preallocated ?? []) : [];
      const preallocated = taken ? [...before, taken] : before;
      traits.set(log, {
        guardedBy,
        isFenced,
        modifiedNs,
        ...(discards && { discards }),
        ...(preallocated.length > 0 && { preallocated }),
      });
    });
  }
  const sealed = changes.length === 0 ? [] : await staged.seal();
  const byName = new Map(sealed.map((one) => [one.log, one]));
  return record.redo.map((planned) => {
    const [one, found] = [byName.get(namesOf(planned).log), traits.get(planned.log)];
    if (!one || !found) throw new Error("each log that was written is sealed");
    return { ...one, ...planned, ...found };
  });
}

/** Of a log, as a staged storage is told where it lies. */
export function namesOf({ log }: Pick<PreparedRedo, "log">): {
  readonly log: string;
  readonly folder: string;
} {
  return { log: posix.basename(log), folder: posix.dirname(log) };
}

/** By the image on the disk, as the log was begun. Version 2 of qcow2 and raw have no place for a fence. */
function guardFor({ link: { header }, isOwned }: ImageChange): PreparedRedo["guardedBy"] {
  if (isOwned) return "owner";
  return header && header.version > 2 ? "fence" : "digests";
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
    const base = baseOf(state, redo);
    // Which of the two was looked at first, as by a copy before the change, does not matter.
    const isSame = now && !(isChanged(base, now.fingerprint) && isChanged(now.fingerprint, base));
    if (!isSame) throw changedSince(image);
    opened.set(redo.log, await RedoLog.open(storage, redo.log, redo.end, "read"));
  }
}

/**
 * E_NO_PERMISSION, E_READ_ONLY: where an image has no fence, nothing else opens it for writing before the mark. A rehearsal
 * does not in an overlay file system, where the first who does has all of the image copied into its upper layer.
 */
export async function assertWritable(
  storage: Storage,
  image: string,
  { isRehearsal }: { readonly isRehearsal: boolean },
): Promise<void> {
  const stat = isRehearsal ? await storage.stat(image) : undefined;
  if (stat && isInOverlay(stat)) return;
  await (await storage.openFile(image, "write", AS_IMAGE)).close();
}

/**
 * Takes the space that applying the logs needs, before the mark. The caller gives it back, also where this fails. E_IO
 * where an image may not become as large, or this process may not write as far into it; the errors of assertWritable.
 */
export async function reserveForRedo(
  { storage }: Workspace,
  state: TransactionState,
  { logs, isRehearsal }: { readonly logs: ReadonlyMap<string, RedoLog>; readonly isRehearsal: boolean },
  taken: Reservation[],
): Promise<void> {
  for (const { image: path, log, changedSectors, preallocated = [] } of inOrder(state)) {
    await assertWritable(storage, path, { isRehearsal });
    const inAdvance = preallocated.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    // A block device has its space: what it has no room for did not get into the log.
    if (await isDeviceAt(storage, path)) continue;
    const opened = logs.get(log);
    if (!opened) throw new Error("all logs are open before the mark");
    const written = { path, endBytes: endOfWrites(opened) };
    const lengthBytes = changedSectors * SECTOR_BYTES + inAdvance;
    taken.push(await storage.reserveSpace(posix.dirname(path), lengthBytes, written));
  }
}

/**
 * Whether the journal says that the log was applied: without a fence what a guest writes from then on is else taken for
 * a stranger's write to an image that is still to be changed. A size alone can't be mistaken. So is what a copy changes
 * after it.
 */
export function isRecorded(
  { image, log, guardedBy, changedSectors, freedPages }: PreparedRedo,
  state: TransactionState,
): boolean {
  if (guardedBy !== "fence" && changedSectors + freedPages > 0) return true;
  const isLate = state.staged.some((one) => one.log === log);
  return !isLate && copiesOf(state).some(({ into }) => into === image);
}

/** What shows that somebody has written to it since the log was begun, a few words each. */
export function findWrites(base: Fingerprint, now: Fingerprint): string[] {
  const changes = describeChanges(base, now);
  // What only changed its change time may have written, and put the other one back.
  const isMoved =
    base.bootId === now.bootId && base.changedNs !== undefined && base.changedNs !== now.changedNs;
  return isMoved ? [...changes, "its change time"] : changes;
}

/** What a guest's write may stop comes first: then all others are as before. What goes at the end is not changed any more. */
export function inOrder(state: TransactionState): PreparedRedo[] {
  const gone = filesRemoved(state);
  return [...redoOf(state).values()]
    .filter(({ image }) => !gone.has(image))
    .toSorted((a, b) => Number(isRecorded(b, state)) - Number(isRecorded(a, state)));
}

const ZEROS_BYTES = 4 * 1024 * 1024;

/** Blocks for a range of the file, up to the size that it gets. What it has there stays, so it may be done again. */
export async function takeSpace(
  file: StorageFile,
  { start, lengthBytes, isFull }: Preallocated,
  sizeAfter: number,
): Promise<void> {
  const end = Math.min(start + lengthBytes, sizeAfter);
  if (end <= start) return;
  if (!isFull) {
    await file.allocate({ start, lengthBytes: end - start });
    return;
  }
  const zeros = new Uint8Array(Math.min(ZEROS_BYTES, end - start));
  for (let at = start; at < end; ) {
    const { sizeBytes } = await file.stat();
    const hole = at < sizeBytes ? await file.seekHole(at) : at;
    const data = hole < sizeBytes ? await file.seekData(hole) : undefined;
    const stop = Math.min(end, data ?? end, hole + zeros.length);
    if (hole < stop) await file.write(zeros.subarray(0, stop - hole), hole);
    at = Math.max(stop, hole);
  }
}

// Images that devices are about to leave, as recovery finds them after the commit mark: the host was started again,
// and a guest perhaps with it, before any command of imgtx ran.
//
// Invariants
// - Where the transaction's fence is up nobody has written. Else the image is compared with what the journal saw last,
//   and its locks are asked: whoever has it open for writing is waited for, and named.
// - What was written to an image that the device leaves is never left behind without a word: where the device goes to
//   its mirror, that is synced anew first (late-sync.ts), and after the move before that is shown; else the move waits.
// - A doubt is decided by content where that can be, at a mirror, and said in a line where it can't.
// - Of what is merged into the image that the device goes to, what was written comes along: all of it is merged once more.
// - What was written to an image that stays below the device is the device's. The snapshot is later than its commit then,
//   and says so.
// - What is compared is locked, and nobody opens it for writing, until the table has moved.

import { type DeviceTable, filesOfEntry, findDevice, type Workspace } from "../../device/index.ts";
import { elseClosed, ImgtxError } from "../../errors/index.ts";
import {
  describeChanges,
  describeDoubt,
  type Fingerprint,
  holdImages,
  ImageLeases,
  isFileFenced,
  mayBeSameFile,
  takeFingerprint,
  waitForLeases,
} from "../../format/index.ts";
import type { LockWaiting, StorageFile } from "../../storage/index.ts";
import { lastSeen, redoOf, type TransactionState } from "../journal/index.ts";
import { imagesLeft, type LeftImage } from "./leaving.ts";
import { isFenceUp } from "./leaving-fences.ts";
import { findMirrorTaken, type StaleMirror } from "./late-sync.ts";
import { filesMerged, imagesCopiedInto } from "./copies.ts";
import { isUntouched } from "../images/apply-redo.ts";
import { openUnlessGone } from "../images/open-free.ts";

export interface HowToHold {
  readonly present: DeviceTable;
  readonly next: DeviceTable;
  readonly waiting?: LockWaiting | undefined;
  /** Moves on whatever was written. */
  readonly isForced?: boolean | undefined;
  /** Where the table has moved: whether the view shows that. Else a guest may have been started on what was left. */
  readonly moved?: { readonly isShown: boolean };
  readonly onNotice?: ((line: string) => void) | undefined;
}

const NO_WAIT: LockWaiting = { waitMs: 0, onWait: () => undefined };

interface OpenLeft extends LeftImage {
  readonly file: StorageFile;
  /** Where its device goes, as a copy of it. */
  mirror: StaleMirror["mirror"] | undefined;
  /** Whether it is changed in place before the table moves, by an open file of its own. */
  isChanging: boolean;
  /** Undefined: the file is another one, in the place of what the journal saw. */
  readonly seen: Fingerprint | undefined;
}

export interface HeldLeft {
  /** Images that stay below their devices and were written to after the commit, as they are now. */
  readonly written: ReadonlyMap<string, Fingerprint>;
  /** Images whose mirrors lack what was written to them, or may lack it. */
  readonly stale: readonly StaleMirror[];
  /** Files that are merged into what the device goes to, and that were written to, or may have been. */
  readonly merged: ReadonlySet<string>;
  release(): Promise<void>;
}

/**
 * Locks what the devices leave. E_LOCKED where somebody has it open for writing, E_CHANGED where somebody has written to
 * it, E_NOT_FOUND where that can't be told.
 */
export async function holdLeft(
  { storage }: Workspace,
  state: TransactionState,
  how: HowToHold,
): Promise<HeldLeft> {
  const { waiting = NO_WAIT } = how;
  const open: OpenLeft[] = [];
  const release = async () => {
    for (const { file } of open) await file.close();
  };
  try {
    await openAll(storage, state, how, open);
    await holdImages(
      storage,
      open.map(({ file, image, device }) => ({ file, path: image, device })),
      waiting,
    );
    const leases = new ImageLeases(
      storage,
      open.filter(({ isChanging }) => !isChanging),
    );
    await waitForLeases(storage.host, waiting, async () => await Promise.resolve(leases.take() ?? leases));
    // A copy may take hours, and a guest that starts would hang in its open.
    if (imagesCopiedInto(state).size > 0) leases.dropEarly();
    const written = new Map<string, Fingerprint>();
    const stale: StaleMirror[] = [];
    const merged = new Set<string>();
    const files = filesMerged(state);
    for (const left of open) {
      if (files.has(left.image) && !how.moved && left.seen) {
        if (await isWrittenTo(left)) merged.add(left.image);
        continue;
      }
      const judged = await judge(left, how);
      if (judged?.isWritten === true) written.set(left.image, judged.now);
      if (judged?.stale) stale.push(judged.stale);
    }
    for (const left of open.filter(({ isChanging }) => isChanging)) {
      await left.file.close();
      open.splice(open.indexOf(left), 1);
    }
    // The same holds of a comparison.
    if (stale.length > 0) leases.dropEarly();
    return { written, stale, merged, release };
  } catch (error) {
    await release();
    throw error;
  }
}

/** Opens what may have been written to, and may be left behind. The caller closes it, also where this fails. */
async function openAll(
  storage: Workspace["storage"],
  state: TransactionState,
  how: HowToHold,
  open: OpenLeft[],
): Promise<void> {
  const { present, next } = how;
  const redone = redoOf(state);
  const copied = imagesCopiedInto(state);
  const fenced = new Set(state.fences.map(({ image }) => image));
  for (const left of imagesLeft(present, next, state)) {
    // A device that is frozen where it is leaves nothing.
    if (left.isFrozen) continue;
    const redo = redone.get(left.image);
    // Its fence is up, or the log applied: then nothing tells what was written from what imgtx wrote.
    if (redo && (redo.guardedBy === "fence" || !(await isUntouched(storage, state, redo)))) continue;
    // The same of what is copied into.
    if (copied.has(left.image) && !how.moved) {
      if (!fenced.has(left.image)) how.onNotice?.(sayDoubt(left, "imgtx copies into it"));
      continue;
    }
    // A fence was up until the move was durable, and the view with it. Until that shows the move, a guest is started on what
    // stays below its device, and its snapshot is later than its commit.
    if (fenced.has(left.image) && how.moved) continue;
    if (how.moved?.isShown === true && left.stays) {
      if (!redo && !copied.has(left.image)) await sayIfWritten(storage, left, state, how);
      continue;
    }
    const found = await openLeft(storage, left, state, how);
    const before = findDevice(present, left.device);
    if (!found) continue;
    open.push(found);
    found.isChanging = redo !== undefined && left.stays;
    // It is as the mirror once it is changed, and that it is when the table has moved.
    const mirror = before && !redo && findMirrorTaken(state, next, before);
    if (!mirror) continue;
    const isFenced = await isFencedAt(storage, mirror.path);
    // Under any other fence than the one that a frozen device keeps there nothing is written: a person decides.
    const isOurs = state.fences.some(({ image, kept }) => image === mirror.path && kept !== null);
    if (isFenced === isOurs) found.mirror = { ...mirror, isFenced };
  }
}

/** Whoever showed the move may have died before he could say it. Once it is shown, nobody has to be kept from the image. */
async function sayIfWritten(
  storage: Workspace["storage"],
  left: LeftImage,
  state: TransactionState,
  { onNotice }: HowToHold,
): Promise<void> {
  const seen = lastSeen(state).get(left.image);
  if (!seen || seen.isNew) return;
  const file = await openUnlessGone(storage, left.image);
  try {
    if (!file || !mayBeSameFile(seen.fingerprint, await file.stat())) return;
    const now = await takeFingerprint(file, seen.fingerprint.headerSha256 !== null);
    const changes = describeChanges(seen.fingerprint, now).join(", ");
    if (changes !== "") onNotice?.(sayKept(left, changes));
  } finally {
    await file?.close();
  }
}

/** Undefined where nobody can have written to it, and where what was written is the device's in any case. */
async function openLeft(
  storage: Workspace["storage"],
  left: LeftImage,
  state: TransactionState,
  { moved, present }: HowToHold,
): Promise<OpenLeft | undefined> {
  const seen = lastSeen(state).get(left.image);
  if (!seen || seen.isNew) return undefined;
  // Whoever moved the table may have found a write by then, and brought it along: the closing generation knows. What stays
  // below the device needs nothing, but that it is said, by who lives to say it.
  const expected = (moved && !left.stays ? fingerprintIn(present, left) : undefined) ?? seen.fingerprint;
  const file = await openUnlessGone(storage, left.image);
  if (!file) {
    if (left.stays || moved) return undefined;
    throw new ImgtxError(
      "E_NOT_FOUND",
      `it is not there, so nobody can tell whether '${left.device}' wrote to it after the commit`,
      { image: left.image, device: left.device, hint: "mount its disk, or put the file back" },
    );
  }
  return await elseClosed(file, async () => {
    const isSame = mayBeSameFile(expected, await file.stat());
    if (isSame && (await isFenceUp(file, left.image, state))) {
      await file.close();
      return undefined;
    }
    return { ...left, file, mirror: undefined, isChanging: false, seen: isSame ? expected : undefined };
  });
}

async function isFencedAt(storage: Workspace["storage"], image: string): Promise<boolean> {
  const file = await openUnlessGone(storage, image);
  try {
    return file !== undefined && (await isFileFenced(file));
  } finally {
    await file?.close();
  }
}

function fingerprintIn(table: DeviceTable, { device, image }: LeftImage): Fingerprint | undefined {
  return findDevice(table, device)
    ?.chain.flatMap(filesOfEntry)
    .find((entry) => entry.image === image)?.fingerprint;
}

interface Judged {
  readonly now: Fingerprint;
  /** Whether it is known to have been written to, and what the device was before has that in it. */
  readonly isWritten: boolean;
  readonly stale?: StaleMirror;
}

/** Also where that can't be told. */
async function isWrittenTo({ file, seen }: OpenLeft): Promise<boolean> {
  if (!seen) return true;
  const now = await takeFingerprint(file, seen.headerSha256 !== null);
  return describeChanges(seen, now).length > 0 || describeDoubt(seen, now) !== undefined;
}

/** Undefined where nothing was written that anybody has to know of, or it was said. */
async function judge(left: OpenLeft, how: HowToHold): Promise<Judged | undefined> {
  const { device, image, stays, file, seen, mirror } = left;
  const { isForced, moved, onNotice } = how;
  const now = await takeFingerprint(file, seen !== undefined && seen.headerSha256 !== null);
  const changes = seen ? describeChanges(seen, now).join(", ") : "replaced by another file";
  const doubt = seen && changes === "" ? describeDoubt(seen, now) : undefined;
  if (changes === "" && doubt === undefined) return undefined;
  // Who was started since the move is shown is on the mirror.
  const isBehind = changes === "" && moved?.isShown === true;
  if (mirror && !stays && !isBehind && isForced !== true) {
    const stale = { device, image, file, now, mirror, changes: changes === "" ? undefined : changes };
    return { now, isWritten: changes !== "", stale };
  }
  if (doubt !== undefined) {
    onNotice?.(sayDoubt(left, doubt));
    return undefined;
  }
  if (stays) {
    onNotice?.(sayKept(left, changes));
    return { now, isWritten: true };
  }
  if (!isForced) {
    throw new ImgtxError(
      "E_CHANGED",
      `somebody wrote to it after the commit (${changes}), and '${device}' ${moved ? "has left" : "would leave"} that behind`,
      { image, device },
    );
  }
  onNotice?.(
    `what was written to ${image} after the commit stays there, and is not on '${device}': ${changes}`,
  );
  return undefined;
}

function sayKept({ device, image, isInShell }: LeftImage, changes: string): string {
  return isInShell
    ? `what was written to ${image} after the commit is marked in no bitmap of '${device}': ${changes}`
    : `the snapshot of '${device}' holds what was written to ${image} after its commit too: ${changes}`;
}

function sayDoubt({ device, image, stays, isInShell }: LeftImage, doubt: string): string {
  const then = isInShell
    ? `that would be marked in no bitmap of '${device}'`
    : stays
      ? `the snapshot of '${device}' would hold that too`
      : `that would stay there, and not be on '${device}'`;
  return `whether somebody wrote to ${image} after the commit can't be told from its times (${doubt}): ${then}`;
}

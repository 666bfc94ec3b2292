// Patches: a few bytes of an existing image that a statement changes in place, such as the fence in its header.
//
// Invariants
// - The plan record, durable first, holds the bytes before and after. So a torn write can be told from a
//   stranger's, and either side of it can be written.
// - `prepare` patches are written after the plan and a record that announces them, and taken back by undo
//   (undo-patches.ts); `commit` patches are written after the commit mark, and repeated by recovery, also where the
//   image has their bytes: a failed flush leaves them in the page cache alone. Both may be cut off and called again.
// - `commit` patches of images that the devices leave are written when the table has moved: they lift a fence.
// - Written is only the very file that was planned, by inode and birth time, and only where each byte is what
//   it was before or what it is to be.
// - The time of modification goes back with the bytes. Where the bytes are back already, and the time is not one
//   that imgtx knows, somebody may have written since: then it stays.
//
// The patches of one image are written in their order and flushed together: between the commit mark and that
// flush a crash may leave any mixture of them, until recovery.

import type { Workspace } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import {
  type BytePatch,
  type Fingerprint,
  holdImages,
  isFileFenced,
  isSameFile,
  liftsFence,
  mayBeSameFile,
  settleFingerprint,
  takeFingerprint,
} from "../../format/index.ts";
import type { LockWaiting, Storage, StorageFile } from "../../storage/index.ts";
import type { KeptFile } from "../request.ts";
import { diskIsAway, foldersOf, isElsewhere } from "./planned-folders.ts";
import {
  type ImagePatch,
  lastSeen,
  liveStatements,
  type PlanRecord,
  type PreparedFile,
  type TransactionState,
} from "../journal/index.ts";

/** What a disk writes wholly or not at all. */
export const SECTOR_BYTES = 512;

const NO_WAIT = { waitMs: 0, onWait: () => undefined };

/** A patch as plans and journals have it. */
export function patchRecordOf(
  image: string,
  { offset, before, after }: BytePatch,
  how: Pick<ImagePatch, "modifiedNs" | "when">,
): ImagePatch {
  return { image, offset, before: toBase64(before), after: toBase64(after), ...how };
}

/** Images that are changed behind the commit mark. */
export function imagesPatchedAtCommit(state: TransactionState): ReadonlySet<string> {
  return new Set(patchesAtCommit(state).map(({ image }) => image));
}

interface PatchedFile {
  readonly file: StorageFile;
  readonly prepared: PreparedFile;
}

/** Writes the statement's `prepare` patches. The files it returns are not flushed yet; the caller closes them. */
export async function writePreparePatches(
  storage: Storage,
  record: PlanRecord,
  keep: (file: StorageFile) => void,
): Promise<PatchedFile[]> {
  const patched: PatchedFile[] = [];
  for (const [image, patches] of patchesByImage(record.patches, "prepare")) {
    const watched = expectedOf(record, image);
    const file = await storage.openFile(image, "write");
    keep(file);
    const stat = await file.stat();
    const isPlanned =
      isSameFile(watched, stat) &&
      watched.modifiedNs === stat.modifiedNs &&
      watched.sizeBytes === stat.sizeBytes;
    if (!isPlanned || (await stateOf(file, patches)) !== "before") throw changedSince(image, "it was read");
    await writeSides(file, patches, "after");
    const fingerprint = await takeFingerprint(file, watched.headerSha256 !== null);
    patched.push({ file, prepared: { path: image, fingerprint, contentSha256: null } });
  }
  return patched;
}

/** E_CHANGED, before the mark, where an image does not have the bytes that its `commit` patches are made for. */
export async function assertPatchesFit(
  state: TransactionState,
  fileOf: (image: string) => StorageFile | undefined,
): Promise<void> {
  for (const [image, patches] of patchesByImage(patchesAtCommit(state), "commit")) {
    const file = fileOf(image);
    if (!file) throw new Error("an image that is patched is watched");
    if ((await stateOf(file, patches)) !== "before") {
      throw changedSince(image, "the transaction read it");
    }
  }
}

interface CommitPatching {
  /** Whether the caller holds QEMU's locks on the images. */
  readonly isLocked: boolean;
  /** How long to wait for them, where it does not. */
  readonly waiting?: LockWaiting | undefined;
  /** Which images it is about. */
  readonly isDue: (image: string) => boolean;
  /** Told of images that are gone, or another's by now, and are left so. Undefined: that is an error. */
  readonly onLeft?: ((file: KeptFile) => void) | undefined;
  readonly onNotice?: ((line: string) => void) | undefined;
}

/**
 * Writes the `commit` patches after the mark, durably. Returns the fingerprints that the images then have, but for those
 * that somebody may have written to since.
 */
export async function writeCommitPatches(
  workspace: Workspace,
  state: TransactionState,
  how: CommitPatching,
): Promise<ReadonlyMap<string, Fingerprint>> {
  const fingerprints = new Map<string, Fingerprint>();
  for (const [image, patches] of patchesByImage(patchesAtCommit(state), "commit")) {
    if (!how.isDue(image)) continue;
    try {
      const fingerprint = await patchAtCommit(workspace.storage, state, { image, patches }, how);
      if (fingerprint) fingerprints.set(image, fingerprint);
    } catch (error) {
      if (!how.onLeft || !(error instanceof ImgtxError) || !LEFT_BY_FORCE.has(error.code)) throw error;
      how.onLeft({ path: image, why: error.message });
    }
  }
  return fingerprints;
}

const LEFT_BY_FORCE: ReadonlySet<string> = new Set(["E_CHANGED", "E_NOT_FOUND"]);

async function patchAtCommit(
  storage: Storage,
  state: TransactionState,
  { image, patches }: { readonly image: string; readonly patches: readonly ImagePatch[] },
  { isLocked, waiting, onNotice }: CommitPatching,
): Promise<Fingerprint | undefined> {
  const expected = lastSeen(state).get(image)?.fingerprint;
  if (!expected) throw new Error("an image that is patched is watched");
  if (await isElsewhere(storage, image, { expected, folders: foldersOf(state) }))
    throw diskIsAway(image, "its header is still to be changed");
  if (!isLocked && (await isLetGo(storage, image, patches))) {
    onNotice?.(`${image} was written to since imgtx changed its header, and is left as it is`);
    return undefined;
  }
  const knownTimes = [expected.modifiedNs];
  const lock = isLocked ? undefined : async (file: StorageFile) => await lockWriter(storage, file, waiting);
  let fingerprint: Fingerprint | undefined;
  const settling = { storage, image, patches, side: "after", expected, knownTimes, lock } as const;
  await settleImage(settling, async (file, found) => {
    await file.flush("patched image");
    // Whoever wrote the patches has died since. From then on a guest may have opened the image, and what it looks like
    // now must not pass for what imgtx made of it: a mirror would be in sync with writes that it never got.
    if (found === "after" && !isLocked) return;
    const now = await takeFingerprint(file, expected.headerSha256 !== null);
    fingerprint = await settleFingerprint(storage.host, file, now);
  });
  return fingerprint;
}

/**
 * Whether the patches were all written by a process that died, and the image has gone on since: the write that lifts the
 * fence is the last one. What stands there now is others' work, also where it is as it was before.
 */
async function isLetGo(storage: Storage, image: string, patches: readonly ImagePatch[]): Promise<boolean> {
  // One over the end of the sector may have been torn there.
  const isLifted = patches.some((patch) => {
    const after = fromBase64(patch.after);
    const end = patch.offset + after.length;
    return end <= SECTOR_BYTES && liftsFence({ ...patch, before: fromBase64(patch.before), after });
  });
  const file = isLifted ? await openUnlessGone(storage, image, "read") : undefined;
  if (!file) return false;
  try {
    if ((await isFileFenced(file)) || (await stateOf(file, patches)) === "after") return false;
    // Seen in the page cache, and the journal that would lift the fence once more goes.
    await file.flush("patched image");
    return true;
  } finally {
    await file.close();
  }
}

interface Settling {
  readonly storage: Storage;
  readonly image: string;
  readonly patches: readonly ImagePatch[];
  /** Which bytes the image is to have. */
  readonly side: "before" | "after";
  readonly expected: Fingerprint;
  /** Times of modification with which nobody but imgtx has written. */
  readonly knownTimes: readonly string[];
  readonly lock?: ((file: StorageFile) => Promise<void>) | undefined;
}

/** Brings one image to a side of its patches, and its time with it. An image that is gone has nothing to settle. */
export async function settleImage(
  settling: Settling,
  then: (file: StorageFile, found: PatchState) => Promise<void>,
): Promise<void> {
  const { storage, image, patches, side, expected, knownTimes, lock } = settling;
  const modifiedNs = patches.findLast((patch) => patch.modifiedNs !== null)?.modifiedNs ?? null;
  // For reading first: where nothing is to be written, no right to write is needed.
  let file = await openUnlessGone(storage, image, "read");
  if (!file) return;
  try {
    const stat = await file.stat();
    const found = await stateOf(file, patches);
    // Where a mount has made up another inode number, what the patches are made for is the proof: a fence has a name.
    const isOurs = isSameFile(expected, stat) || (found !== "foreign" && mayBeSameFile(expected, stat));
    if (!isOurs) {
      if (found === side) return;
      // A copy of it, or it by another inode number: to pass it over would leave a fence up, or a change by halves.
      throw replacedSince(image);
    }
    if (found === "foreign") throw changedSince(image, "imgtx changed its header");
    const isTimeKnown = knownTimes.includes(stat.modifiedNs) && stat.modifiedNs !== modifiedNs;
    const mustDate = modifiedNs !== null && (found !== side || isTimeKnown);
    const isRight = found === side;
    const free = isRight && !mustDate ? await openIfRight(storage, image, patches, side) : undefined;
    if (free || !isRight || mustDate) {
      await file.close();
      file = free ?? (await storage.openFile(image, "write"));
      if (!free) await lock?.(file);
    }
    if (free || !isRight || mustDate) await writeInOrder(file, patches, side);
    if (mustDate) await file.setModified(modifiedNs);
    else if (free) await file.setModified(stat.modifiedNs);
    await then(file, found);
  } finally {
    await file.close();
  }
}

/**
 * For bytes that are right already: they may be in the page cache alone, behind a failed flush, and are written once
 * more where nobody has the image open by now, or had it since they were read.
 */
async function openIfRight(
  storage: Storage,
  image: string,
  patches: readonly ImagePatch[],
  side: "before" | "after",
): Promise<StorageFile | undefined> {
  const file = await openIfFree(storage, image);
  if (!file) return undefined;
  try {
    if ((await stateOf(file, patches)) === side) return file;
  } catch (error) {
    await file.close();
    throw error;
  }
  await file.close();
  return undefined;
}

/** Undefined where somebody has it, or it must not be written to: what is right there already is left to the disk. */
export async function openIfFree(storage: Storage, image: string): Promise<StorageFile | undefined> {
  let file: StorageFile | undefined;
  try {
    file = await storage.openFile(image, "write");
    await lockWriter(storage, file);
    return file;
  } catch (error) {
    await file?.close();
    if (error instanceof ImgtxError && OUT_OF_REACH.has(error.code)) return undefined;
    throw error;
  }
}

export const OUT_OF_REACH: ReadonlySet<string> = new Set(["E_LOCKED", "E_NO_PERMISSION", "E_READ_ONLY"]);

/** Nobody may have the image open while recovery writes to it. Closing the file gives the locks back. */
export async function lockWriter(
  storage: Storage,
  file: StorageFile,
  waiting: LockWaiting = NO_WAIT,
): Promise<void> {
  await holdImages(storage, [{ file, isWritten: true }], waiting);
}

export async function openUnlessGone(
  storage: Storage,
  image: string,
  access: "read" | "write",
): Promise<StorageFile | undefined> {
  try {
    return await storage.openFile(image, access);
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_NOT_FOUND") return undefined;
    throw error;
  }
}

type PatchState = "before" | "after" | "mixed" | "foreign";

/** Which side of the patches an image has; "mixed" is what a torn write leaves, "foreign" what nobody of us wrote. */
export async function stateOf(file: StorageFile, patches: readonly ImagePatch[]): Promise<PatchState> {
  let [isBefore, isAfter] = [true, true];
  for (const patch of patches) {
    const [before, after] = [fromBase64(patch.before), fromBase64(patch.after)];
    const bytes = new Uint8Array(after.length);
    const now = bytes.subarray(0, await file.read(bytes, patch.offset));
    isBefore &&= Buffer.compare(now, before) === 0;
    isAfter &&= Buffer.compare(now, after) === 0;
    // Room behind the former end of the file may hold anything until the data arrives.
    const known = now.subarray(0, before.length);
    if (now.length < before.length) return "foreign";
    if (known.some((byte, at) => byte !== before[at] && byte !== after[at])) return "foreign";
  }
  if (isBefore) return "before";
  return isAfter ? "after" : "mixed";
}

/** The first sector, which has the fence, last: until then nobody opens what is changed by halves. */
async function writeInOrder(
  file: StorageFile,
  patches: readonly ImagePatch[],
  side: "before" | "after",
): Promise<void> {
  const inFirst = patches.filter(({ offset }) => offset < SECTOR_BYTES);
  const others = patches.filter(({ offset }) => offset >= SECTOR_BYTES);
  if (side === "after" && inFirst.length > 0 && others.length > 0) {
    await writeSides(file, others, side);
    await file.flush("patched image, still fenced");
    await writeSides(file, inFirst, side);
  } else await writeSides(file, patches, side);
}

export async function writeSides(
  file: StorageFile,
  patches: readonly ImagePatch[],
  side: "before" | "after",
): Promise<void> {
  for (const patch of patches) await file.write(fromBase64(patch[side]), patch.offset);
}

export function patchesAtCommit(state: TransactionState): ImagePatch[] {
  return liveStatements(state).flatMap(({ plan }) => plan.patches.filter(({ when }) => when === "commit"));
}

export function expectedOf(plan: PlanRecord, image: string): Fingerprint {
  const watched = plan.watched.find((one) => one.image === image);
  if (!watched) throw new Error("an image that is patched is watched");
  return watched.fingerprint;
}

export function patchesByImage(
  patches: readonly ImagePatch[],
  when: ImagePatch["when"],
): Map<string, ImagePatch[]> {
  const images = new Map<string, ImagePatch[]>();
  for (const patch of patches) {
    if (patch.when === when) images.set(patch.image, [...(images.get(patch.image) ?? []), patch]);
  }
  return images;
}

export function replacedSince(image: string): ImgtxError {
  return new ImgtxError("E_CHANGED", "another file stands there than the one that imgtx was to change", {
    image,
    hint: "put back the file that was there, then run `imgtx recover`",
  });
}

function changedSince(image: string, when: string): ImgtxError {
  return new ImgtxError("E_CHANGED", `somebody has changed the header of the image since ${when}`, {
    image,
    hint: "find out who wrote to it; put its header back from a copy, then run the command again",
  });
}

function toBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
}

export function fromBase64(text: string): Buffer {
  return Buffer.from(text, "base64");
}

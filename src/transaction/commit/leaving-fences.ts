// Fences from just before the commit mark on. Of images that devices leave, until the table has moved: a guest that is
// started in between, after a crash, must not write to what its device is about to leave. Of images that are changed in
// place, until their redo logs are applied. And of devices that are frozen, which keep theirs.
//
// Invariants
// - Durable in the journal before they are written, and durable in the images before the mark.
// - Lifted when the move is durable, and before the journal goes: afterwards nobody would know of them. Without a
//   mark they are lifted by whoever takes the transaction back, or by recovery where it stays open.
// - The time of modification goes back with the bytes. Where the bytes are back already, whoever lifted the fence may have
//   died before that, and somebody may have written since: on what a device writes to the time stays. Of what no device
//   writes to any more it goes back, or a snapshot that keeps the image would be lost for nothing; and that is said.
// - Taken back is only what the journal says was raised, in the very file, and where each byte is one of a fence with the
//   transaction's id in its name. A header that somebody has changed under it stays, and is named. Where the header had
//   no room for a name, the record has to do.
// - Images without a place for a fence (raw, version 2, not to be written to) have none: see left-images.ts.
// - Not for what stays below the device: a snapshot has no fence.
//
// No locks are taken for what is fenced: that can be open only in readers of imgtx's own, which have read its header.

import { readTable, type Workspace } from "../../device/index.ts";
import { settleAll, whileOpen } from "../../errors/index.ts";
import {
  describeContentChanges,
  digestHead,
  type Fingerprint,
  isDeviceIdentity,
  mayBeSameFile,
  planFileFence,
  type StagedStorage,
  takeFingerprint,
} from "../../format/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import {
  changesOf,
  type CommitFence,
  fenceBytesOf,
  fencesToRaise,
  filesRemoved,
  type Journal,
  lastSeen,
  liveStatements,
  storeFence,
  type StoredFence,
  type TransactionState,
} from "../journal/index.ts";
import { imagesMergedInto, targetsToFence } from "./copies.ts";
import type { LeftImage } from "./leaving.ts";
import { AS_IMAGE } from "../images/devices.ts";
import { openIfFree, openUnlessGone, openUnlessOutOfReach } from "../images/open-free.ts";
import { diskIsAway, foldersOf, isDiskThere } from "../images/planned-folders.ts";
import { imagesRedone, imagesToFence, openStaged } from "../images/redo.ts";
import type { KeptFile } from "../requests/request.ts";

interface Raised {
  readonly file: StorageFile;
  readonly fence: CommitFence;
}

/** Images whose devices are frozen by the transaction, and that get a fence which stays. */
export function imagesToKeepFenced(state: TransactionState): ReadonlySet<string> {
  return new Set(fencesToRaise(changesOf(state)).map(({ image }) => image));
}

/** Images that are copied into when their redo logs are applied: a fence stays up in between. */
function imagesCopiedLater(state: TransactionState): ReadonlySet<string> {
  const redone = imagesRedone(state);
  return new Set(targetsToFence(state).filter((image) => redone.has(image)));
}

/**
 * Raises the fences, durably, of what can be fenced. The caller holds QEMU's locks on the images, and no lease yet.
 * Returns what images look like that nothing else is done to.
 */
export async function raiseFences(
  { storage }: Workspace,
  journal: Journal,
  left: readonly LeftImage[],
): Promise<ReadonlyMap<string, Fingerprint>> {
  const { state } = journal;
  const raised: Raised[] = [];
  // What an image will be is asked of those alone that keep their fence.
  const asks = imagesToKeepFenced(state).size + imagesCopiedLater(state).size > 0;
  const staged = await openStaged(storage, asks ? state : undefined, "read");
  try {
    await planFences({ storage, staged }, state, left, raised);
    if (raised.length === 0) return new Map();
    await journal.append({ type: "fencing", fences: raised.map(({ fence }) => fence) }, "fences");
    for (const { file, fence } of raised) {
      if (!fence.raised) continue;
      await writeSide(file, fence.raised, "after");
      if (fence.modifiedNs !== null) await file.setModified(fence.modifiedNs);
      file.beginFlush();
    }
    const written = raised.filter(({ fence }) => fence.raised);
    await settleAll(
      written.map(async ({ file, fence }) => {
        await file.flush(fence.kept ? "fence that stays" : "fence of a left image");
      }),
    );
    return await lookAtKept(state, raised);
  } finally {
    for (const { file } of raised) await file.close();
    await staged.close();
  }
}

async function planFences(
  { storage, staged }: { readonly storage: Workspace["storage"]; readonly staged: StagedStorage },
  state: TransactionState,
  left: readonly LeftImage[],
  raised: Raised[],
): Promise<void> {
  const seen = lastSeen(state);
  const kept = imagesToKeepFenced(state);
  const later = imagesCopiedLater(state);
  const half = new Set(imagesToFence(state));
  const merged = imagesMergedInto(state);
  const purposeOf = (image: string) =>
    half.has(image) ? "change" : merged.has(image) ? "merging" : "stillness";
  const changing = new Set([...half, ...targetsToFence(state), ...kept]);
  const leaving = left.flatMap(({ image, stays }) => (stays ? [] : [image]));
  // Nothing else tells there that nobody has written to what goes.
  const going = [...filesRemoved(state)].filter((image) =>
    isDeviceIdentity(seen.get(image)?.fingerprint ?? {}),
  );
  for (const image of new Set([...changing, ...leaving, ...going])) {
    const watched = seen.get(image);
    if (!watched || (watched.isNew && !changing.has(image))) continue;
    const file = changing.has(image)
      ? await storage.openFile(image, "write", AS_IMAGE)
      : watched.fingerprint.headerSha256 !== null && (await openUnlessOutOfReach(storage, image));
    if (!file) continue;
    try {
      const fence = await planFileFence(file, state.begin.id, purposeOf(image), merged.get(image));
      const stays = kept.has(image) ? await planKept(staged, image, state.begin.id) : null;
      const over = fence && later.has(image) ? await planKept(staged, image, state.begin.id) : null;
      if (fence || stays) {
        const { modifiedNs } = watched.fingerprint;
        raised.push({
          file,
          fence: {
            image,
            raised: fence ? storeFence(fence) : null,
            modifiedNs,
            kept: stays,
            ...(over && { between: { offset: over.offset, before: over.before, after: over.after } }),
          },
        });
        continue;
      }
    } catch (error) {
      await file.close();
      throw error;
    }
    await file.close();
  }
}

/** The fence that stays, over the header as the transaction's redo logs leave it. */
async function planKept(staged: StagedStorage, image: string, owner: string): Promise<CommitFence["kept"]> {
  return await whileOpen(await staged.openFile(image, "read", AS_IMAGE), async (file) => {
    const fence = await planFileFence(file, owner);
    if (!fence) throw new Error("an image that is to be fenced has no fence");
    return { ...storeFence(fence), unfencedSha256: await digestHead(file) };
  });
}

async function lookAtKept(
  state: TransactionState,
  raised: readonly Raised[],
): Promise<ReadonlyMap<string, Fingerprint>> {
  const redone = imagesRedone(state);
  const looks = new Map<string, Fingerprint>();
  for (const { file, fence } of raised) {
    if (fence.kept && !redone.has(fence.image)) looks.set(fence.image, await takeFingerprint(file, true));
  }
  return looks;
}

/** What recovery finds of images whose fences stay, and that nothing else was done to. */
export async function lookAtKeptFences(
  { storage }: Workspace,
  state: TransactionState,
): Promise<ReadonlyMap<string, Fingerprint>> {
  const redone = imagesRedone(state);
  const looks = new Map<string, Fingerprint>();
  for (const { image, kept } of state.fences) {
    if (!kept || redone.has(image)) continue;
    const file = await openUnlessGone(storage, image);
    if (!file) continue;
    try {
      if ((await stateOf(file, kept)) === "after") looks.set(image, await takeFingerprint(file, true));
    } finally {
      await file.close();
    }
  }
  return looks;
}

export interface HowToLower {
  /** Told of images that can't be seen, since their disk is not there. Default: that is an error. */
  readonly onAway?: (image: string) => void;
  /**
   * Gets the work on images whose fence is down already, which has time until the journal goes: then what waits for a
   * disk is not written to by each command. Default: it is done when all others are lifted.
   */
  readonly onDown?: (work: () => Promise<void>) => void;
}

/** Lifts all of them, durably: the commit came to nothing. Returns what it left as it is. */
export async function lowerFences(
  workspace: Workspace,
  state: TransactionState,
  how: HowToLower = {},
): Promise<KeptFile[]> {
  return await lowerEach(workspace, state, state.fences, how);
}

/** When the table has moved, durably: lifts those that no redo log has lifted, and that no device keeps. */
export async function liftLeft(
  workspace: Workspace,
  state: TransactionState,
  how: HowToLower,
): Promise<KeptFile[]> {
  // Of what is changed in place the fence comes down with the last of it, and what is to be removed goes with it.
  const gone = liveStatements(state).flatMap(({ plan }) => plan.removes);
  const changed = new Set([...imagesRedone(state), ...targetsToFence(state), ...gone]);
  const left = state.fences.filter(({ image, kept }) => !kept && !changed.has(image));
  return await lowerEach(workspace, state, left, how);
}

/** The same before the mark, for a transaction that stays open: the journal says that none is up. */
export async function takeFencesBack(workspace: Workspace, journal: Journal): Promise<KeptFile[]> {
  const kept = await lowerFences(workspace, journal.state);
  await journal.append({ type: "fencing", fences: [] }, "fences lifted");
  return kept;
}

/** Whether the image is kept from everybody by a fence of the transaction's, as far as its header tells. */
export async function isFenceUp(
  file: StorageFile,
  image: string,
  { fences }: TransactionState,
): Promise<boolean> {
  const raised = fences.find((one) => one.image === image)?.raised;
  return raised ? (await stateOf(file, raised)) === "after" : false;
}

async function lowerEach(
  workspace: Workspace,
  state: TransactionState,
  fences: readonly CommitFence[],
  { onAway, onDown }: HowToLower,
): Promise<KeptFile[]> {
  const { storage } = workspace;
  const keptFiles: KeptFile[] = [];
  const seen = lastSeen(state);
  const down: (() => Promise<void>)[] = [];
  for (const { image, raised, modifiedNs } of fences) {
    if (!raised) continue;
    const { fingerprint: expected, isNew } = seen.get(image) ?? {};
    if (!expected) throw new Error("an image that is fenced is watched");
    const found = await findFence(storage, image, raised, expected);
    if (found === "absent" || found === "replaced") {
      if (await isAway(storage, state, image, found)) {
        if (!onAway) throw diskIsAway(image, "its fence is still to be lifted");
        onAway(image);
      } else if (found === "replaced") keptFiles.push({ path: image, why: LEFT.replaced });
      continue;
    }
    if (found === "foreign") {
      keptFiles.push({ path: image, why: LEFT.foreign });
      continue;
    }
    const lower = async () => {
      const isInDoubt = await lowerOne(workspace, { image, raised, modifiedNs, expected });
      if (isInDoubt) keptFiles.push({ path: image, why: LEFT.doubted });
    };
    // Whoever lifted one that is down may have died before that was durable. It has time until all others are seen to; but
    // what the transaction made goes then.
    if (found !== "before") await lower();
    else if (onDown && !isNew) onDown(lower);
    else down.push(lower);
  }
  for (const lower of down) await lower();
  return keptFiles;
}

const LEFT = {
  replaced: "another file has its name; a fence that imgtx set in the one that was there stays in that",
  doubted:
    "whether somebody wrote to it after its fence was lifted can't be told, since imgtx was stopped right then; it has its time back",
  foreign: "somebody has changed its header since imgtx fenced it: what stands there now is left as it is",
} as const;

/** Of a folder that the journal has not marked nothing is known: a file that is not there is waited for. */
async function isAway(
  storage: Workspace["storage"],
  state: TransactionState,
  image: string,
  found: "absent" | "replaced",
): Promise<boolean> {
  const folders = foldersOf(state);
  const isMarked = folders.some(({ path }) => image.startsWith(`${path}/`));
  return isMarked ? !(await isDiskThere(storage, image, folders)) : found === "absent";
}

async function findFence(
  storage: Workspace["storage"],
  image: string,
  raised: StoredFence,
  expected: Fingerprint,
): Promise<FenceState | "absent" | "replaced"> {
  const file = await openUnlessGone(storage, image);
  if (!file) return "absent";
  try {
    return mayBeSameFile(expected, await file.stat()) ? await stateOf(file, raised) : "replaced";
  } finally {
    await file.close();
  }
}

interface Lowering {
  readonly image: string;
  readonly raised: StoredFence;
  readonly modifiedNs: string | null;
  /** What it is without the fence. */
  readonly expected: Fingerprint;
}

/** Whether it has got a time back that may hide a write. */
async function lowerOne(workspace: Workspace, lowering: Lowering): Promise<boolean> {
  const { storage } = workspace;
  const { image, raised, modifiedNs } = lowering;
  let file = await storage.openFile(image, "read", AS_IMAGE);
  try {
    const isDown = (await stateOf(file, raised)) === "before";
    const isInDoubt = isDown && (await lacksTime(workspace, file, lowering));
    const time = isDown && !isInDoubt ? (await file.stat()).modifiedNs : modifiedNs;
    const open = isDown ? await openIfFree(storage, image) : await storage.openFile(image, "write", AS_IMAGE);
    // What is down may be so in the page cache alone: it is written once more, unless somebody was faster.
    const isFree = open !== undefined && (!isDown || (await stateOf(open, raised)) === "before");
    if (open) {
      await file.close();
      file = open;
    }
    if (isFree) {
      await writeSide(file, raised, "before");
      if (time !== null) await file.setModified(time);
    }
    await file.flush("fence lifted");
    return isFree && isInDoubt;
  } finally {
    await file.close();
  }
}

/** Of one that is down: whether it has another time alone, and no device writes to it. */
async function lacksTime(
  workspace: Workspace,
  file: StorageFile,
  { image, modifiedNs, expected }: Lowering,
): Promise<boolean> {
  const now = await takeFingerprint(file, expected.headerSha256 !== null);
  if (modifiedNs === null || now.modifiedNs === modifiedNs) return false;
  if (describeContentChanges({ ...expected, modifiedNs: now.modifiedNs }, now).length > 0) return false;
  const { devices } = await readTable(workspace);
  return devices.every(({ chain: [top] }) => top?.image !== image);
}

/** "mixed" is what a torn write leaves, "foreign" what nobody of us wrote. */
type FenceState = "before" | "after" | "mixed" | "foreign";

async function stateOf(file: StorageFile, fence: StoredFence): Promise<FenceState> {
  const { offset, before, after } = fenceBytesOf(fence);
  const now = new Uint8Array(after.length);
  if ((await file.read(now, offset)) < now.length) return "foreign";
  if (Buffer.compare(now, before) === 0) return "before";
  if (Buffer.compare(now, after) === 0) return "after";
  return now.every((byte, at) => byte === before[at] || byte === after[at]) ? "mixed" : "foreign";
}

async function writeSide(file: StorageFile, fence: StoredFence, side: "before" | "after"): Promise<void> {
  const bytes = fenceBytesOf(fence);
  await file.write(bytes[side], bytes.offset);
}

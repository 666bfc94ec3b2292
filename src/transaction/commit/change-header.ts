// What is changed in an image when all is copied into it: its fence comes down; and where its header is to name a new
// backing image, or it gets an internal snapshot, by a redo log that is made then, since copying changes what it is about.
//
// Invariants
// - A fence comes down by what the journal has of it, and only where its two sides differ: copying may have changed the
//   rest of the header. So recovery mends what a write leaves that ended amid it, before anybody reads that header.
// - The log is durable, and the journal says so, before the image changes. From there recovery applies it as any other.
// - It replaces what stands there under the fence, and leaves the header without one: with its last sector the image is
//   open to guests, on either backing image the same to them.
// - A log without its record is nobody's yet: it is begun anew.

import { whileOpen } from "../../errors/index.ts";
import type { Workspace } from "../../device/index.ts";
import {
  addSnapshot,
  changeBacking,
  type CopyUp,
  type FenceBytes,
  findFenceStanding,
  isFileFenced,
  liftFileFence,
  mayBeSameFile,
  readOwnBacking,
  removeRedoLog,
  StagedStorage,
  writeStanding,
} from "../../format/index.ts";
import type { LockWaiting, Storage, StorageFile } from "../../storage/index.ts";
import { applyRedo, type HowToApply } from "../images/apply-redo.ts";
import { AS_IMAGE } from "../images/devices.ts";
import { lockWriter, openUnlessGone } from "../images/open-free.ts";
import { namesOf } from "../images/redo.ts";
import {
  type Copy,
  fenceBytesOf,
  type Journal,
  lastSeen,
  type PreparedRedo,
  type TransactionState,
  type UpStep,
} from "../journal/index.ts";

/** Of a step that copies up. */
export type CopyUpStep = Copy & { readonly up: UpStep };

export function isUp(copy: Copy): copy is CopyUpStep {
  return copy.up !== undefined;
}

export function copyUpOf(
  { into: path, up: { onto, until, leavesOutEqual, isCompressed } }: CopyUpStep,
  isFenced: boolean | undefined,
): CopyUp {
  return { into: { path, isFenced }, onto: until ?? onto ?? undefined, leavesOutEqual, isCompressed };
}

/** Whether what it is to stand on comes to be only with all copies: until then it shows what it showed as it stands. */
export function waitsForCopies({ up }: Copy): boolean {
  return up?.until !== undefined;
}

/** The log that is made when all is copied. */
export function lateLogOf({ up, late }: Copy): string | undefined {
  return up?.log ?? late?.log;
}

/** Whether it is made, durably: from there on nothing is copied into the image any more. */
export function isLateLogMade({ staged }: TransactionState, copy: Copy): boolean {
  const log = lateLogOf(copy);
  return log !== undefined && staged.some((one) => one.log === log);
}

/** Whether the image, open for reading, is as the log leaves it, and nobody is kept from it. */
export async function isChanged(file: StorageFile, copy: Copy, state: TransactionState): Promise<boolean> {
  const { into, up, late } = copy;
  if (await isFileFenced(file)) return false;
  if (late) return state.fences.some(({ image }) => image === into) || state.applied.has(into);
  if (!up) return true;
  const present = await readOwnBacking(file);
  return present?.name === up.onto?.name && present?.format === up.onto?.format;
}

/** Makes the log where it is not made yet, and applies it. */
export async function changeWhenCopied(
  workspace: Workspace,
  journal: Journal,
  copy: Copy,
  how: Pick<HowToApply, "onNotice">,
): Promise<void> {
  const { into, statement } = copy;
  if (!isLateLogMade(journal.state, copy)) {
    const redo = await stageChange(workspace.storage, journal.id, copy);
    await journal.append({ type: "staged", statement, redo }, "header staged");
  }
  // The copy holds the locks, through another open file.
  await applyRedo(workspace, journal, { isLocked: true, isDue: (image) => image === into, ...how });
}

/** Takes the fence off what all is copied into, durably. */
export async function liftCopied(file: StorageFile, image: string, state: TransactionState): Promise<void> {
  const fence = fenceOverCopy(state, image);
  const standing = fence && (await findFenceStanding(file, fence));
  if (fence && (standing === "up" || standing === "torn")) {
    await writeStanding(file, fence, "down");
    await file.flush(LIFTED);
  } else await liftFileFence(file, LIFTED);
}

const LIFTED = "fence of a copy lifted";

/**
 * Mends headers whose fence was being lifted when the power failed, durably. While the bit is up nobody can have opened the
 * image, and all of the fence is raised again; else somebody may have, and it counts as let go.
 */
export async function mendTornFences(
  storage: Storage,
  state: TransactionState,
  images: Iterable<string>,
  waiting?: LockWaiting,
): Promise<void> {
  const seen = lastSeen(state);
  for (const image of images) {
    const [fence, expected] = [fenceOverCopy(state, image), seen.get(image)?.fingerprint];
    const file = fence && expected && (await openUnlessGone(storage, image));
    if (!file) continue;
    try {
      if (!mayBeSameFile(expected, await file.stat()) || (await findFenceStanding(file, fence)) !== "torn")
        continue;
      await whileOpen(await storage.openFile(image, "write", AS_IMAGE), async (open) => {
        await lockWriter(storage, open, waiting);
        await writeStanding(open, fence, (await isFileFenced(open)) ? "up" : "down");
        await open.flush(LIFTED);
      });
    } finally {
      await file.close();
    }
  }
}

/** The one that is up while the image is copied into, as the journal has it. */
function fenceOverCopy({ fences }: TransactionState, image: string): FenceBytes | undefined {
  const known = fences.find((one) => one.image === image);
  const stored = known?.between ?? known?.raised;
  return stored ? fenceBytesOf(stored) : undefined;
}

async function stageChange(storage: Storage, transaction: string, copy: Copy): Promise<PreparedRedo> {
  const { into, up, late } = copy;
  const log = lateLogOf(copy);
  if (log === undefined) throw new Error("only what is changed at the end has a log of it");
  await removeRedoLog(storage, log);
  return await whileOpen(new StagedStorage(storage), async (staged) => {
    const file = await storage.openFile(into, "read", AS_IMAGE);
    const isFenced = await isFileFenced(file);
    await file.close();
    // Version 2 has no place for a fence.
    const guardedBy = isFenced ? "fence" : "digests";
    await staged.stage(into, { transaction, ...namesOf({ log }), guardedBy });
    await whileOpen(await staged.openFile(into, "write", AS_IMAGE), async (image) => {
      if (isFenced) await liftFileFence(image, "fence in the log");
      if (up) await changeBacking(image, up.onto ?? undefined);
      if (late?.backing) await changeBacking(image, late.backing);
      if (late?.snapshot) await addSnapshot(image, late.snapshot);
    });
    const [sealed] = await staged.seal();
    if (!sealed) throw new Error("a log that was written is sealed");
    return { ...sealed, image: into, log, guardedBy, isFenced, modifiedNs: null };
  });
}

// The header of an image that was copied up into names its new backing image: by a redo log that is made when all is
// copied, since copying may change the header too.
//
// Invariants
// - The log is durable, and the journal says so, before the image changes. From there recovery applies it as any other.
// - It replaces what stands there under the fence, and leaves the header without one: with its last sector the image is
//   open to guests, on either backing image the same to them.
// - A log without its record is nobody's yet: it is begun anew.

import { posix } from "node:path";
import type { Workspace } from "../../device/index.ts";
import {
  changeBacking,
  type CopyUp,
  isFileFenced,
  liftFileFence,
  readOwnBacking,
  removeRedoLog,
  StagedStorage,
} from "../../format/index.ts";
import type { Storage, StorageFile } from "../../storage/index.ts";
import { applyRedo, type HowToApply } from "../images/apply-redo.ts";
import { type Copy, type Journal, type PreparedRedo, redoOf, type UpStep } from "../journal/index.ts";

/** Of a step that copies up, what changes the header. */
export type CopyUpStep = Copy & { readonly up: UpStep };

export function isUp(copy: Copy): copy is CopyUpStep {
  return copy.up !== undefined;
}

export function copyUpOf(
  { into: path, up: { onto, leavesOutEqual, isCompressed } }: CopyUpStep,
  isFenced: boolean | undefined,
): CopyUp {
  return { into: { path, isFenced }, onto: onto ?? undefined, leavesOutEqual, isCompressed };
}

/** Whether the image, open for reading, names it already, and has no fence. */
export async function standsOnIt(file: StorageFile, { up: { onto } }: CopyUpStep): Promise<boolean> {
  if (await isFileFenced(file)) return false;
  const present = await readOwnBacking(file);
  return present?.name === onto?.name && present?.format === onto?.format;
}

/** Makes the log where it is not made yet, and applies it. */
export async function changeHeader(
  workspace: Workspace,
  journal: Journal,
  copy: CopyUpStep,
  how: Pick<HowToApply, "onNotice">,
): Promise<void> {
  const { into, statement, up } = copy;
  if (redoOf(journal.state).get(into)?.log !== up.log) {
    const redo = await stageHeader(workspace.storage, journal.id, copy);
    await journal.append({ type: "staged", statement, redo }, "header staged");
  }
  // The copy holds the locks, through another open file.
  await applyRedo(workspace, journal, { isLocked: true, isDue: (image) => image === into, ...how });
}

async function stageHeader(
  storage: Storage,
  transaction: string,
  { into, up: { onto, log } }: CopyUpStep,
): Promise<PreparedRedo> {
  await removeRedoLog(storage, log);
  const staged = new StagedStorage(storage);
  try {
    const file = await storage.openFile(into, "read");
    const isFenced = await isFileFenced(file);
    await file.close();
    // Version 2 has no place for a fence.
    const guardedBy = isFenced ? "fence" : "digests";
    await staged.stage(into, { transaction, log: posix.basename(log), guardedBy });
    const image = await staged.openFile(into, "write");
    try {
      if (isFenced) await liftFileFence(image, "fence in the log");
      await changeBacking(image, onto ?? undefined);
    } finally {
      await image.close();
    }
    const [sealed] = await staged.seal();
    if (!sealed) throw new Error("a log that was written is sealed");
    return { ...sealed, image: into, log, guardedBy, isFenced, modifiedNs: null };
  } finally {
    await staged.close();
  }
}

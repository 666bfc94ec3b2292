// Takes back what a statement wrote into images that were there before.
//
// Invariants
// - Only a statement that announced its patches has anything to take back. A copy that was parked has not: by then
//   the image is the guest's again, and equal bytes are somebody else's.
// - A fence is taken back where it is this transaction's own: its bytes have the transaction's id in them. Where the
//   header had no room for a name, the announcement has to do.
// - `commit` patches are in an image only where the journal has lost its commit mark. They go back only under this
//   transaction's own fence: nobody else can have written since. With the first sector, which lifts the fence, all
//   of them are there, and the image is whole.
// - What is somebody else's stays, and is named.
//
// Undo takes no locks for what is fenced: that can be open only in readers of imgtx's own, which have read its
// header.

import { type Fingerprint, mayBeSameFile } from "../../format/index.ts";
import type { Storage, StorageFile } from "../../storage/index.ts";
import type { ImagePatch, Statement } from "../journal/index.ts";
import { expectedOf, openUnlessGone, patchesByImage, SECTOR_BYTES, settleImage, stateOf } from "./patches.ts";
import { isDiskThere } from "./planned-folders.ts";
import type { KeptFile } from "../request.ts";

export interface UndoingPatches {
  /** Told of images that can't be seen, since their disk is not there. */
  readonly onAway: (image: string) => void;
  /**
   * Gets the work on images whose fence is down already, which has time until the journal goes: then what waits for a
   * disk is not written to by each command. Default: it is done at once.
   */
  readonly onDown?: (work: () => Promise<void>) => void;
}

/** Returns what it left as it is. */
export async function undoPatches(
  storage: Storage,
  { plan, prepared, patching, undone }: Statement,
  { onAway, onDown }: UndoingPatches,
): Promise<KeptFile[]> {
  const kept: KeptFile[] = [];
  if (!patching || undone) return kept;
  for (const [image, fence] of patchesByImage(plan.patches, "prepare")) {
    const written = prepared?.files.find(({ path }) => path === image)?.fingerprint;
    const knownTimes = written === undefined ? [] : [written.modifiedNs];
    const expected = expectedOf(plan, image);
    const later = patchesByImage(plan.patches, "commit").get(image) ?? [];
    const found = await findPatched(storage, image, { fence, later, expected });
    const isUnseen = found === "absent" || found === "gone";
    if (isUnseen && !(await isDiskThere(storage, image, plan.folders))) {
      onAway(image);
      continue;
    }
    if (found === "absent" || found === "whole") continue;
    if (found in LEFT) {
      kept.push({ path: image, why: LEFT[found as keyof typeof LEFT] });
      continue;
    }
    const side = "before" as const;
    if (found === "begun") {
      await settleImage({ storage, image, patches: later, side, expected, knownTimes }, async (file) => {
        await file.flush("patches behind a lost mark taken back");
      });
    }
    const takeBack = async () =>
      await settleImage({ storage, image, patches: fence, side, expected, knownTimes }, async (file) => {
        await file.flush("patch taken back");
      });
    // Whoever lifted a fence that is down may have died before that was durable.
    if (found === "down" && onDown) onDown(takeBack);
    else await takeBack();
  }
  return kept;
}

const LEFT = {
  gone: "another file has its name; a fence that imgtx set in the one that was there stays in that",
  foreign: "somebody has changed its header since imgtx fenced it: what stands there now is left as it is",
  spoiled:
    "somebody has changed it under its fence, which stays: look with `imgtx img check`, then lift it with " +
    "`imgtx unfreeze --force`",
} as const;

/**
 * What an image has of the patches of a statement that is undone:
 * absent: it is not there; down: its fence is not set (any more); up: its fence, and nothing else;
 * begun: `commit` patches under it; whole: all of them, and no fence;
 * or what is not to be touched, see LEFT.
 */
type Found = "absent" | "down" | "up" | "begun" | "whole" | keyof typeof LEFT;

interface Patched {
  readonly fence: readonly ImagePatch[];
  readonly later: readonly ImagePatch[];
  readonly expected: Fingerprint;
}

async function findPatched(storage: Storage, image: string, patched: Patched): Promise<Found> {
  const file = await openUnlessGone(storage, image, "read");
  if (!file) return "absent";
  try {
    return mayBeSameFile(patched.expected, await file.stat()) ? await readPatched(file, patched) : "gone";
  } finally {
    await file.close();
  }
}

async function readPatched(file: StorageFile, { fence, later }: Patched): Promise<Found> {
  const first = later.filter(({ offset }) => offset < SECTOR_BYTES);
  if (first.length > 0 && (await stateOf(file, first)) === "after") return "whole";
  const ofFence = await stateOf(file, fence);
  if (ofFence === "before") return "down";
  if (ofFence === "foreign") return "foreign";
  const ofLater = await stateOf(file, later);
  if (ofLater === "foreign") return "spoiled";
  return later.length === 0 || ofLater === "before" ? "up" : "begun";
}

// Fences from just before the commit mark on. Of images that devices leave, until the table has moved: a guest that is
// started in between, after a crash, must not write to what its device is about to leave. And of images that are changed
// in place, until their redo logs are applied, which lifts the fence with the last sector.
//
// Invariants
// - Durable in the journal before they are written, and durable in the images before the mark.
// - Lifted when the move is durable, and before the journal goes: afterwards nobody would know of them. Without a
//   mark they are lifted by whoever takes the transaction back, or by recovery where it stays open.
// - Each has the transaction's id in its name. A header that somebody has changed under it stays, and is named.
// - Images without a place for a fence (raw, version 2, not to be written to) have none: see left-images.ts.
// - Not for what stays below the device. Snapshots take no flush more.

import type { Workspace } from "../../device/index.ts";
import { ImgtxError, settleAll } from "../../errors/index.ts";
import { mayBeSameFile, planFileFence } from "../../format/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import {
  type ImagePatch,
  type Journal,
  lastSeen,
  type SeenImage,
  type TransactionState,
} from "../journal/index.ts";
import type { LeftImage } from "./leaving.ts";
import {
  imagesPatchedAtCommit,
  openUnlessGone,
  OUT_OF_REACH,
  patchesAtCommit,
  patchesByImage,
  patchRecordOf,
  settleImage,
  stateOf,
  writeSides,
} from "../images/patches.ts";
import { imagesRedone, imagesToFence } from "../images/redo.ts";
import type { KeptFile } from "../request.ts";
import type { UndoingPatches } from "../images/undo-patches.ts";

interface Fenced {
  readonly file: StorageFile;
  readonly patch: ImagePatch;
}

/** Fences what can be fenced of them, durably. The caller holds QEMU's locks on them, and no lease yet. */
export async function raiseFences(
  { storage }: Workspace,
  journal: Journal,
  left: readonly LeftImage[],
): Promise<void> {
  const { state } = journal;
  const seen = lastSeen(state);
  const patched = imagesPatchedAtCommit(state);
  const changed = imagesToFence(state);
  const leaving = left.flatMap(({ image, stays }) => (stays || patched.has(image) ? [] : [image]));
  const opened: StorageFile[] = [];
  const fenced: Fenced[] = [];
  try {
    for (const image of new Set([...changed, ...leaving])) {
      const watched = seen.get(image);
      if (!watched || watched.isNew) continue;
      const file = changed.includes(image)
        ? await storage.openFile(image, "write")
        : await openToFence({ storage }, watched);
      if (!file) continue;
      opened.push(file);
      const fence = await planFileFence(file, state.begin.id);
      const { modifiedNs } = watched.fingerprint;
      if (fence) fenced.push({ file, patch: patchRecordOf(image, fence, { modifiedNs, when: "prepare" }) });
    }
    if (fenced.length === 0) return;
    await journal.append({ type: "fencing", patches: fenced.map(({ patch }) => patch) }, "fences");
    for (const { file, patch } of fenced) {
      await writeSides(file, [patch], "after");
      if (patch.modifiedNs !== null) await file.setModified(patch.modifiedNs);
      file.beginFlush();
    }
    await settleAll(fenced.map(async ({ file }) => await file.flush("fence of a left image")));
  } finally {
    for (const file of opened) await file.close();
  }
}

/** Undefined for what is no qcow2 image, or must not be written to. */
async function openToFence(
  { storage }: Pick<Workspace, "storage">,
  { image, fingerprint }: SeenImage,
): Promise<StorageFile | undefined> {
  if (fingerprint.headerSha256 === null) return undefined;
  try {
    return await storage.openFile(image, "write");
  } catch (error) {
    if (error instanceof ImgtxError && OUT_OF_REACH.has(error.code)) return undefined;
    throw error;
  }
}

/**
 * Lifts them, durably. Returns what it left as it is. E_NOT_FOUND where an image is away: its fence would stay when
 * it comes back.
 */
export async function lowerFences(
  workspace: Workspace,
  state: TransactionState,
  onDown?: UndoingPatches["onDown"],
): Promise<KeptFile[]> {
  return await settleAllOf(workspace, state, patchesByImage(state.fences, "prepare"), "before", onDown);
}

/**
 * When the table has moved, durably: lifts the fences, and writes what the transaction's patches make of images that its
 * devices have left, which are fences of frozen devices that moved along.
 */
export async function settleLeft(
  workspace: Workspace,
  state: TransactionState,
  used: ReadonlySet<string>,
): Promise<KeptFile[]> {
  const patches = [...patchesByImage(patchesAtCommit(state), "commit")];
  const left = new Map(patches.filter(([image]) => !used.has(image)));
  const redone = imagesRedone(state);
  const fences = state.fences.filter(({ image }) => !redone.has(image));
  return [
    ...(await settleAllOf(workspace, state, left, "after")),
    ...(await settleAllOf(workspace, state, patchesByImage(fences, "prepare"), "before")),
  ];
}

async function settleAllOf(
  { storage }: Workspace,
  state: TransactionState,
  images: ReadonlyMap<string, readonly ImagePatch[]>,
  side: "before" | "after",
  onDown?: UndoingPatches["onDown"],
): Promise<KeptFile[]> {
  const kept: KeptFile[] = [];
  const seen = lastSeen(state);
  for (const [image, patches] of images) {
    const expected = seen.get(image)?.fingerprint;
    if (!expected) throw new Error("an image that is fenced is watched");
    const found = await readFence({ storage }, image, { patches, expected });
    if (found === "foreign") {
      kept.push({
        path: image,
        why: "somebody has changed its header since imgtx fenced it: what stands there now is left as it is",
      });
    }
    if (found !== "ours" && found !== "down") continue;
    const knownTimes = side === "after" ? [expected.modifiedNs] : [];
    const settle = async (): Promise<void> =>
      await settleImage({ storage, image, patches, side, expected, knownTimes }, async (file) => {
        await file.flush("fence of a left image lifted");
      });
    if (found === "down" && onDown) onDown(settle);
    else await settle();
  }
  return kept;
}

/** The same before the mark, for a transaction that stays open: the journal says that none is up. */
export async function takeFencesBack(workspace: Workspace, journal: Journal): Promise<KeptFile[]> {
  const kept = await lowerFences(workspace, journal.state);
  await journal.append({ type: "fencing", patches: [] }, "fences lifted");
  return kept;
}

/** Whether the image is kept from everybody by a fence of the transaction's, as far as its header tells. */
export async function isFenceUp(
  file: StorageFile,
  image: string,
  { fences }: TransactionState,
): Promise<boolean> {
  const patches = patchesByImage(fences, "prepare").get(image);
  return patches !== undefined && (await stateOf(file, patches)) === "after";
}

async function readFence(
  { storage }: Pick<Workspace, "storage">,
  image: string,
  { patches, expected }: { patches: readonly ImagePatch[]; expected: SeenImage["fingerprint"] },
): Promise<"foreign" | "replaced" | "ours" | "down"> {
  const file = await openUnlessGone(storage, image, "read");
  if (!file) {
    throw new ImgtxError("E_NOT_FOUND", "it is not there, and its fence is still to be lifted", {
      image,
      hint: "mount its disk, or put the file back",
    });
  }
  try {
    if (!mayBeSameFile(expected, await file.stat())) return "replaced";
    const state = await stateOf(file, patches);
    if (state === "foreign") return "foreign";
    return state === "before" ? "down" : "ours";
  } finally {
    await file.close();
  }
}

// Merges: new guest data of an existing image, which a statement makes as an overlay beside it and the commit
// merges into it.
//
// Invariants
// - Before the commit mark the image is only read; undo removes the overlay.
// - Behind the mark the overlay is merged, durably: what it has does not depend on what the image holds, so
//   recovery repeats a merge from its start.
// - An image that a device of the new table is on is merged into before the table moves. One that is only a
//   mirror waits until it has moved and nobody waits for the workspace any more: that may take hours. Until
//   then the table takes the mirror for one that somebody has written to.
// - What recovery finds otherwise than the plan did was begun to be merged into, or somebody else wrote to it: nothing
//   tells the two apart but content. A device goes over to it only where it reads as the device does; what stays a mirror
//   is compared from end to end when it is synced next.
// - Written is only the very file that was planned: by its identity, or where a device is to be on it, by what it holds.
//   One that has gone is left so, but for one that a device is to be on, or whose disk is not there: those may come back,
//   and are waited for. A mirror that can't be merged into any more is given up by recovery: it stays one that somebody
//   has written to.
// - The overlay goes when the table has moved, durably, and before the journal that knows it by name.

import type { DeviceTable, Workspace } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import {
  beforeItsName,
  type Fingerprint,
  type GateOptions,
  type ImageFormat,
  measureMergeSpace,
  mergeChangesOverlay,
  settleCutOff,
  isSameFile,
} from "../../format/index.ts";
import { NOT_MADE_YET, lastSeen, liveStatements, type TransactionState } from "../journal/index.ts";
import { progressOf } from "../actions/plan/action.ts";
import type { LockWaiting, Reservation, StorageFile } from "../../storage/index.ts";
import type { KeptFile, OnProgress } from "../request.ts";
import { diskIsAway, foldersOf, isDiskThere } from "../images/planned-folders.ts";
import { isProvedByContent, mayBeTouched } from "./merge-proof.ts";
import { lockWriter, openUnlessGone } from "../images/open-free.ts";
import { removeFinished } from "../images/removal.ts";

interface Merge {
  readonly image: string;
  readonly format: ImageFormat;
  readonly overlay: string;
}

/** In the order of the statements: a later overlay stands on the one before. */
function mergesOf(state: TransactionState): Merge[] {
  return liveStatements(state).flatMap(({ plan }) =>
    plan.newFiles.flatMap(({ path, staging, mergesAs }) =>
      mergesAs === null ? [] : [{ image: path, format: mergesAs, overlay: staging }],
    ),
  );
}

/**
 * Takes the space that the merges need, before the mark: a full disk is found while there is a way back. The caller
 * gives it back right before they begin, and also where this fails.
 */
export async function reserveForMerges(
  { storage, root }: Workspace,
  state: TransactionState,
  allowPaths: readonly string[],
  taken: Reservation[],
): Promise<void> {
  const gate = { workspaceRoot: root, allowPaths: [...allowPaths, ...lastSeen(state).keys()] };
  for (const { image, format, overlay } of mergesOf(state)) {
    // One that has gone is told of by who looks for it.
    if (!(await storage.statLink(overlay))) continue;
    const space = await measureMergeSpace(storage, { path: overlay, image: { path: image, format } }, gate);
    if (space) taken.push(await reserveFor(storage, { image, overlay, ...space }));
  }
}

/** E_NO_SPACE tells what is needed in all: undone, the overlay has to find room again. */
async function reserveFor(
  storage: Workspace["storage"],
  {
    image,
    overlay,
    folder,
    lengthBytes,
  }: { image: string; overlay: string; folder: string; lengthBytes: number },
): Promise<Reservation> {
  try {
    return await storage.reserveSpace(folder, lengthBytes);
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code !== "E_NO_SPACE") throw error;
    const overlayBytes = (await storage.statLink(overlay))?.allocatedBytes ?? 0;
    const message =
      `the changes of '${image}' need ${overlayBytes + lengthBytes} bytes in '${folder}' in all: ` +
      `${overlayBytes} for the overlay that is made first, and ${lengthBytes} free to merge it`;
    throw error.reworded(message);
  }
}

/** How much the merges have to do, at most: what their overlays take on the disk. */
export async function measureMerges(storage: Workspace["storage"], state: TransactionState): Promise<number> {
  const overlays = await Promise.all(
    mergesOf(state).map(async ({ overlay }) => await storage.statLink(overlay)),
  );
  return overlays.reduce((sum, stat) => sum + (stat?.allocatedBytes ?? 0), 0);
}

/** Images that get new content behind the commit mark. */
export function imagesMergedAtCommit(state: TransactionState): ReadonlySet<string> {
  return new Set(mergesOf(state).map(({ image }) => image));
}

/** Where the content of an image is found as the transaction will leave it; undefined: in the image itself. */
export function findPendingOverlay(state: TransactionState, image: string): string | undefined {
  return mergesOf(state).findLast((merge) => merge.image === image)?.overlay;
}

/** Images to merge into that the table, as the transaction makes it, names as a device's own mirror and nowhere else. */
export function imagesMergedLate(state: TransactionState, table: DeviceTable): ReadonlySet<string> {
  const named = table.devices.flatMap(({ chain, mirror }) =>
    [...chain, ...(mirror?.chain ?? []), ...(mirror?.source ?? [])].map(({ image }) => image),
  );
  const tops = table.devices.map(({ mirror }) => mirror?.image);
  const isLate = (image: string): boolean =>
    tops.includes(image) && named.filter((one) => one === image).length === 1;
  return new Set([...imagesMergedAtCommit(state)].filter(isLate));
}

/** What the table has of a mirror that is still to be merged into: no image ever looks so. */
export const NOT_MERGED_YET = NOT_MADE_YET;

/** Whether the table waits for a merge into the image: else it knows what that has made of it. */
export function isMergePending(table: DeviceTable, image: string): boolean {
  return table.devices.some(({ mirror }) => {
    const [top] = mirror?.chain ?? [];
    return top?.image === image && isSameFile(top.fingerprint, NOT_MERGED_YET);
  });
}

/** Mirrors that the commit was to bring in line, and that were given up: they had gone, or were spoiled, by then. */
export function imagesGivenUp(state: TransactionState, table: DeviceTable): string[] {
  return [...imagesMergedAtCommit(state)].filter((image) => isMergePending(table, image));
}

interface MergeChoice {
  /** As the transaction makes it, or as it is behind the move. */
  readonly table: DeviceTable;
  readonly when: "before the table" | "behind it";
  /** As it is now. */
  readonly present: DeviceTable;
  /** Whether the caller holds QEMU's locks on the images. */
  readonly isLocked: boolean;
  /** How long to wait for them, where it does not. */
  readonly waiting?: LockWaiting | undefined;
  readonly onProgress?: OnProgress | undefined;
  /** Mirrors that are synced anew after it, by content. */
  readonly syncedAnew?: ReadonlySet<string>;
  /** Whether what takes long is left to others: E_UNFINISHED then. */
  readonly isBrief?: boolean | undefined;
  /** Told of each image that a device goes over to whatever others wrote to it. Undefined: then it waits. */
  readonly onLeft?: ((file: KeptFile) => void) | undefined;
  readonly onNotice?: ((line: string) => void) | undefined;
}

/** Merges what is due into its images, durably. Returns the fingerprints that they then have. */
export async function writeMerges(
  workspace: Workspace,
  state: TransactionState,
  how: MergeChoice,
): Promise<ReadonlyMap<string, Fingerprint>> {
  const { storage, root } = workspace;
  const { table, when, isLocked, onProgress, onNotice } = how;
  const fingerprints = new Map<string, Fingerprint>();
  const seen = lastSeen(state);
  const late = imagesMergedLate(state, table);
  const isDue = (image: string): boolean =>
    when === "behind it" ? isMergePending(table, image) : !late.has(image);
  // What was opened for the plan is trusted behind it, whatever was allowed for that one command.
  const gate = { workspaceRoot: root, allowPaths: [...table.allowPaths, ...seen.keys()] };
  const judged = new Map<string, Judged>();
  const givenUp = new Set(when === "behind it" ? await findIncomplete(storage, state) : []);
  for (const merge of mergesOf(state)) {
    const { image, format, overlay } = merge;
    if (!isDue(image) || givenUp.has(image)) continue;
    const file = await openTarget(storage, state, { merge, table });
    if (!file) continue;
    try {
      const found = judged.get(image) ?? (await judge(workspace, state, { merge, file }, { ...how, gate }));
      judged.set(image, found);
      if (found === "another") continue;
      if (found === "touched" && format === "qcow2")
        await settleCutOff(storage, file, { gate, signal: undefined });
      const target = { path: image, format };
      const changed = await mergeChangesOverlay(
        storage,
        { path: overlay, image: target },
        { gate, onProgress: progressOf({ onProgress }, `merging into ${image}`) },
      );
      // What it looks like without its change time leaves a doubt: it is compared when it is synced next.
      const isUnsure = found === "touched" && !isOfDevice(table, image);
      for (const [path, look] of changed) fingerprints.set(path, isUnsure ? beforeItsName(look) : look);
    } catch (error) {
      // The command itself has to say so. Recovery must not hold up everybody for a copy that is none any more.
      if (when !== "behind it" || isLocked || !isUnfit(error)) throw error;
      givenUp.add(image);
      fingerprints.delete(image);
    } finally {
      await file.close();
    }
  }
  for (const [image, found] of judged) {
    if (found === "touched" && fingerprints.has(image) && late.has(image))
      onNotice?.(
        `${image} is compared from end to end when it is synced next: it was being synced, and ${UNTOLD}`,
      );
  }
  return fingerprints;
}

const UNTOLD = "whether anybody else wrote to it can't be told";

/** The image, for reading. Undefined where it has gone, and is not needed any more. */
async function openTarget(
  storage: Workspace["storage"],
  state: TransactionState,
  { merge: { image, overlay }, table }: { readonly merge: Merge; readonly table: DeviceTable },
): Promise<StorageFile | undefined> {
  const file = await openUnlessGone(storage, image, "read");
  if (file) return file;
  if (isOfDevice(table, image)) throw isAway(image, overlay);
  if (!(await isDiskThere(storage, image, foldersOf(state)))) {
    throw diskIsAway(image, `'${overlay}' is still to be merged into it`);
  }
  return undefined;
}

/** "touched": it is not as the transaction saw it last, or may not be. "another": it is left alone. */
type Judged = "as planned" | "touched" | "another";

interface Target {
  readonly merge: Merge;
  readonly file: StorageFile;
}

/** Locks the image where the caller has not. Throws where a device would go over to what is not a copy of it. */
async function judge(
  { storage }: Workspace,
  state: TransactionState,
  { merge: { image, overlay }, file }: Target,
  {
    table,
    present,
    isLocked,
    waiting,
    syncedAnew,
    onProgress,
    onLeft,
    isBrief,
    gate,
  }: MergeChoice & {
    readonly gate: GateOptions;
  },
): Promise<Judged> {
  const seen = lastSeen(state);
  const expected = seen.get(image)?.fingerprint;
  if (!expected) throw new Error("an image that is merged into is watched");
  const isPlanned = isSameFile(expected, await file.stat());
  const isDevices = isOfDevice(table, image);
  if (!isPlanned && !isDevices) return "another";
  if (isLocked && isPlanned) return "as planned";
  if (!isLocked) await lockWriter(storage, file, waiting);
  const isTouched = !isPlanned || (await mayBeTouched(storage, { image, file, table, seen }));
  if (!isTouched) return "as planned";
  const isSynced = isPlanned && syncedAnew?.has(image) === true;
  if (!isDevices || isSynced) return "touched";
  const pending = { image, overlay: findPendingOverlay(state, image) ?? overlay, table, present };
  if (await isProvedByContent(storage, gate, pending, { onProgress, isBrief })) return "touched";
  if (!isPlanned) throw isAnother(image, overlay);
  if (!onLeft) throw isWrittenTo(image, overlay);
  onLeft({ path: image, why: `it does not hold what the device held: ${UNTOLD}` });
  return "touched";
}

function isOfDevice({ devices }: DeviceTable, image: string): boolean {
  return devices.some(({ chain }) => chain.some((entry) => entry.image === image));
}

/** Its disk may not be mounted yet: found later, the device would have what it was before, or a half of each. */
function isAway(image: string, overlay: string): ImgtxError {
  return new ImgtxError("E_NOT_FOUND", `it is not there, and '${overlay}' is still to be merged into it`, {
    image,
    hint: "mount its disk, or put the file back; another file in its place is taken as it is",
  });
}

/** A half of each is worse than waiting; what it lacks is in the overlay alone, or in no file at all. */
function isAnother(image: string, overlay: string): ImgtxError {
  const message =
    `another file stands there than the one that '${overlay}' is still to be merged into, and with that ` +
    "it would not hold what the device holds";
  return new ImgtxError("E_REFUSED", message, {
    image,
    hint: "put back the file that was there, or a copy of it",
  });
}

/** What is right in it, the transaction's own overlay and the device say; what others want with the rest, they alone. */
function isWrittenTo(image: string, overlay: string): ImgtxError {
  const message =
    `somebody wrote to it after the commit, while '${overlay}' was being merged into it, and with that it does ` +
    "not hold what the device holds";
  return new ImgtxError("E_CHANGED", message, { image });
}

const UNFIT_CODES = new Set(["E_CORRUPT", "E_REFUSED", "E_UNSUPPORTED", "E_OUTSIDE"]);

/** Whether somebody has made another image of it since the plan was made, into which nothing can be merged. */
function isUnfit(error: unknown): boolean {
  return error instanceof ImgtxError && UNFIT_CODES.has(error.code);
}

/**
 * Images for which somebody has removed an overlay behind the commit mark. With the others alone they would pass
 * for what they are not: a mirror stays one that nobody knows.
 */
async function findIncomplete(
  storage: Workspace["storage"],
  state: TransactionState,
): Promise<ReadonlySet<string>> {
  const incomplete = new Set<string>();
  for (const { image, overlay } of mergesOf(state)) {
    if (await storage.statLink(overlay)) continue;
    if (await isDiskThere(storage, overlay, foldersOf(state))) incomplete.add(image);
  }
  return incomplete;
}

/** Overlays that nobody will know of any more when the transaction has ended: the disk that they are on is not there. */
export async function findOverlaysAway({ storage }: Workspace, state: TransactionState): Promise<string[]> {
  const left: string[] = [];
  for (const { overlay } of mergesOf(state)) {
    // One that is seen is removed, also from a folder that was copied to another disk.
    if (await storage.statLink(overlay)) continue;
    if (!(await isDiskThere(storage, overlay, foldersOf(state)))) left.push(overlay);
  }
  return left;
}

/** The table has moved: what was merged is not needed any more. */
export async function removeMergedOverlays({ storage }: Workspace, state: TransactionState): Promise<void> {
  const overlays = mergesOf(state).map(({ overlay }) => overlay);
  await removeFinished(storage, overlays, "merged overlay gone");
}

/** E_CHANGED, before the mark, where an overlay that is to be merged has gone. */
export async function assertOverlaysThere({ storage }: Workspace, state: TransactionState): Promise<void> {
  for (const { image, overlay } of mergesOf(state)) {
    if (await storage.statLink(overlay)) continue;
    throw new ImgtxError("E_CHANGED", `what was made for it has gone: '${overlay}'`, {
      image,
      hint: "`imgtx txn abort` takes the transaction back; then begin again",
    });
  }
}

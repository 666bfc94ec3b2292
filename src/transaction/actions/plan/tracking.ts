// The persistent bitmap by which QEMU marks what a guest writes to a mirrored device: made, emptied and removed
// in the source, together with the copy that it counts from.
//
// Invariants
// - The source is not touched before the commit mark: the change is written into its redo log (redo.ts).
// - A bitmap is believed only where no write can have passed it by; else both are compared. So each time that a mirror
//   is brought in sync the bitmap is made anew, and with it a witness: a second bitmap, whose name has the transaction's
//   id in it, so that nobody had it before, and which the mirror keeps. An older state of the image has an older witness; a program that clears, disables or merges
//   the bitmap leaves the two different; and a mark at the end of the disk, which no guest takes away, goes with a part
//   of the disk that is cut off, or when all bitmaps are cleared.
// - What marks nothing is not relied on at all: internal snapshots that are there already may be applied (QEMU refuses
//   that while a bitmap is enabled, and takes it when all are disabled for a moment), and an external data file may be
//   written to by its own name.

import type { MirrorEntry } from "../../../device/index.ts";
import { ImgtxError, withPlace } from "../../../errors/index.ts";
import {
  type BitmapStep,
  type Chain,
  type ChainLink,
  readBitmapDirectory,
  readDirtyRanges,
  readWitnessedRanges,
  isSameFile,
} from "../../../format/index.ts";
import type { GuestRange } from "../../../units/index.ts";
import { planBitmapChange } from "./in-place.ts";
import { activeLayer } from "./chain-entry.ts";
import type { PlanContext } from "./action.ts";
import type { ImageChange } from "../../images/redo.ts";
import type { Fault } from "../../notes/note-words.ts";
import type { Note } from "../../notes/notes.ts";

type TrackingContext = Pick<PlanContext, "transaction">;

/** A bitmap that marks what is written from this commit on, and what it takes to have it. */
export interface Tracking extends Pick<MirrorEntry, "bitmap" | "witness"> {
  readonly redo: readonly ImageChange[];
  readonly notes: readonly Note[];
}

const NO_TRACKING: Tracking = { bitmap: null, witness: undefined, redo: [], notes: [] };

/** The bitmap that a mirror has, and its witness: they may have another name of the device, which it had then. */
type Kept = Pick<MirrorEntry, "bitmap" | "witness">;

interface BitmapChoice {
  readonly before: Kept | null;
  readonly isWanted: boolean;
}

/** The bitmap for a mirror that is brought in sync: made anew where it has one, or where one is asked for. */
export async function planTracking(
  device: string,
  present: Chain,
  { before, isWanted }: BitmapChoice,
  context: TrackingContext,
): Promise<Tracking> {
  return await withPlace(
    { device },
    async () => await planBitmap(device, present, { before, isWanted }, context),
  );
}

async function planBitmap(
  device: string,
  present: Chain,
  { before, isWanted }: BitmapChoice,
  context: TrackingContext,
): Promise<Tracking> {
  const top = activeLayer(present);
  const known = before?.bitmap ?? null;
  if (known === null && !isWanted) return NO_TRACKING;
  if (top.header?.isFenced) {
    // It goes on marking from an earlier moment on, and a state from between would have its witness too.
    if (!isWanted) return { ...NO_TRACKING, bitmap: known };
    throw new ImgtxError("E_REFUSED", "it is frozen, and a bitmap is written into its image", {
      device,
      image: top.path,
      hint: `\`imgtx unfreeze ${device}\` first, or leave --bitmap out`,
    });
  }
  const unmarked = findUnmarkedWriters(top);
  if (unmarked !== undefined) {
    const note = { code: "no bitmap", image: top.path, unmarked } as const;
    return { ...NO_TRACKING, notes: [note], redo: await planUntracking(device, present, before) };
  }
  const bitmap = bitmapNameOf(device);
  if (!isWanted) {
    const found = await readDirtyRanges(top, known ?? bitmap);
    if (found.kind === "unusable") {
      return { ...NO_TRACKING, notes: [{ code: "bitmap given up" }] };
    }
  }
  const removed = await removeOwn(device, top, before);
  const stepsIn = (transaction: string): readonly BitmapStep[] => [
    ...removed,
    { kind: "add", name: bitmap },
    { kind: "add", name: witnessOf(device, transaction), marksEnd: true },
  ];
  const isNew = known === null;
  return {
    bitmap,
    witness: witnessOf(device, context.transaction),
    redo: [await planBitmapChange(top, stepsIn(context.transaction), stepsIn)],
    notes: isNew ? [{ code: "bitmap kept", image: top.path, bitmap }] : [],
  };
}

function bitmapNameOf(device: string): string {
  return `imgtx-mirror-${device}`;
}

/** No name of a device holds a colon: its own bitmap can't be taken for a witness of another one's. */
function witnessOf(device: string, transaction: string): string {
  return `imgtx-witness-${device}:${transaction}`;
}

function isOwnBitmap(device: string, name: string, kept: Kept | null): boolean {
  const isKept = name === kept?.bitmap || name === kept?.witness;
  return isKept || name === bitmapNameOf(device) || name.startsWith(witnessOf(device, ""));
}

/** What may change the disk's content without a mark in any bitmap. */
function findUnmarkedWriters({
  header,
  dataFile,
}: ChainLink): "data file" | "internal snapshots" | undefined {
  if (dataFile) return "data file";
  if (header !== undefined && header.nbSnapshots > 0) return "internal snapshots";
  return undefined;
}

/** Takes the bitmap of a mirror away that is given up, with its witness. Nothing where there is none. */
export async function planUntracking(
  device: string,
  present: Chain,
  kept: Kept | null,
): Promise<readonly ImageChange[]> {
  const top = activeLayer(present);
  const found = await readDirtyRanges(top, kept?.bitmap ?? bitmapNameOf(device));
  if (found.kind !== "valid" || top.header?.isFenced) return [];
  return [await planBitmapChange(top, await removeOwn(device, top, kept))];
}

async function removeOwn(device: string, top: ChainLink, kept: Kept | null): Promise<BitmapStep[]> {
  const names = (await readBitmapDirectory(top)).map(({ name }) => name);
  return names.filter((name) => isOwnBitmap(device, name, kept)).map((name) => ({ kind: "remove", name }));
}

/**
 * What the mirror's bitmap marks, where that is all that can have been written since; why not, where the images
 * have to be compared.
 */
export async function readMarked(mirror: MirrorEntry, present: Chain): Promise<readonly GuestRange[] | Note> {
  const top = activeLayer(present);
  const [source] = mirror.source;
  const { bitmap: name, witness } = mirror;
  if (name === null || !source) return notReliedOn(mirror, "not kept");
  if (source.image !== top.path || !isSameFile(source.fingerprint, top.fingerprint)) {
    return notReliedOn(mirror, "other layer");
  }
  if (witness === undefined) return notReliedOn(mirror, "not renewed");
  const found = await readWitnessedRanges(top, { name, witness });
  return "fault" in found ? { code: "bitmap not relied on", ...found } : found;
}

export function notReliedOn({ bitmap }: MirrorEntry, fault: Fault): Note {
  return { code: "bitmap not relied on", bitmap: bitmap ?? "", witness: null, fault };
}

// The persistent bitmap by which QEMU marks what a guest writes to a mirrored device: made, emptied and removed
// in the source, together with the copy that it counts from.
//
// Invariants
// - Its pages are spread over the image, and no order of their writes leaves the image whole. So the image is
//   fenced before the commit mark, and the first sector, which has the fence, is written last and by itself.
// - A bitmap is believed only where format says that no write can have passed it by; else both are compared.

import type { MirrorEntry } from "../device/index.ts";
import { ImgtxError } from "../errors/index.ts";
import {
  type Chain,
  type ChainLink,
  planBitmapAdd,
  planBitmapClear,
  planBitmapRemove,
  readDirtyRanges,
} from "../format/index.ts";
import type { ByteRange } from "../storage/index.ts";
import { activeLayer, isSameFile } from "./chain-entry.ts";
import type { PlanContext } from "./action.ts";
import { planFencePatch } from "./fencing.ts";
import type { ImagePatch } from "./journal/index.ts";
import { patchRecordOf, SECTOR_BYTES } from "./patches.ts";

type FenceOwner = Pick<PlanContext, "transaction">;

type BytePatches = Awaited<ReturnType<typeof planBitmapAdd>>;

/** A bitmap that marks what is written from this commit on, and what it takes to have it. */
export interface Tracking {
  readonly bitmap: string | null;
  readonly patches: readonly ImagePatch[];
  readonly notes: readonly string[];
}

const NO_TRACKING: Tracking = { bitmap: null, patches: [], notes: [] };

interface BitmapChoice {
  /** The one that the mirror has. */
  readonly before: string | null;
  readonly isWanted: boolean;
}

/** The bitmap for a mirror that is brought in line: the one that it has, emptied, or a new one where asked for. */
export async function planTracking(
  device: string,
  present: Chain,
  { before, isWanted }: BitmapChoice,
  owner: FenceOwner,
): Promise<Tracking> {
  try {
    return await planBitmap(device, present, { before, isWanted }, owner);
  } catch (error) {
    throw error instanceof ImgtxError ? error.with({ device }) : error;
  }
}

async function planBitmap(
  device: string,
  present: Chain,
  { before, isWanted }: BitmapChoice,
  owner: FenceOwner,
): Promise<Tracking> {
  const top = activeLayer(present);
  if (before === null && !isWanted) return NO_TRACKING;
  if (top.header?.isFenced) {
    if (!isWanted) return { bitmap: before, patches: [], notes: [] };
    throw new ImgtxError("E_REFUSED", "it is frozen, and a bitmap is written into its image", {
      device,
      image: top.path,
      hint: `\`imgtx unfreeze ${device}\` first, or leave --bitmap out`,
    });
  }
  const name = before ?? `imgtx-mirror-${device}`;
  const found = await readDirtyRanges(top, name);
  if (found.kind === "valid") {
    const patches = await fenced(top, await planBitmapClear(top, { name }), owner);
    return { bitmap: name, patches, notes: [] };
  }
  if (!isWanted) {
    return { ...NO_TRACKING, notes: [`${found.why}: make another one with --bitmap`] };
  }
  const patches = await fenced(top, await planBitmapAdd(top, { name }), owner);
  return {
    bitmap: name,
    patches,
    notes: [`bitmap '${name}' in ${top.path} marks what is written from now on`],
  };
}

/** Takes the bitmap of a mirror away that is given up. Nothing where there is none. */
export async function planUntracking(
  present: Chain,
  bitmap: string,
  owner: FenceOwner,
): Promise<readonly ImagePatch[]> {
  const top = activeLayer(present);
  const found = await readDirtyRanges(top, bitmap);
  if (found.kind !== "valid" || top.header?.isFenced) return [];
  return await fenced(top, await planBitmapRemove(top, { name: bitmap }), owner);
}

/**
 * What the mirror's bitmap marks, where that is all that can have been written since; undefined where the
 * images have to be compared, with the reason.
 */
export async function readMarked(
  mirror: MirrorEntry,
  present: Chain,
): Promise<readonly ByteRange[] | string> {
  const top = activeLayer(present);
  const [source] = mirror.source;
  if (mirror.bitmap === null || !source) return "no bitmap was kept";
  if (source.image !== top.path || !isSameFile(source.fingerprint, top.fingerprint)) {
    return "the active layer is another image now";
  }
  const found = await readDirtyRanges(top, mirror.bitmap);
  if (found.kind === "unusable") return found.why;
  const ranges: ByteRange[] = [];
  for await (const range of found.ranges) ranges.push(range);
  return ranges;
}

/** The same change of an image that is fenced meanwhile: the fence goes with the last write. */
async function fenced(
  link: ChainLink,
  { writes, sizeBytes }: BytePatches,
  owner: FenceOwner,
): Promise<ImagePatch[]> {
  const { path } = link;
  if (writes.length === 0) return [];
  const planned = await planFencePatch(link, owner);
  if (!planned) throw new Error("an image with bitmaps has a place for a fence");
  const { fence } = planned;
  const end = fence.offset + fence.after.length;
  const inHeader = writes.filter(({ offset }) => offset < end);
  const others = writes.filter(({ offset }) => offset >= end);
  const headerEnd = Math.max(end, ...inHeader.map(({ offset, after }) => offset + after.length));
  const start = Math.min(fence.offset, ...inHeader.map(({ offset }) => offset));
  const plain = await readRange(link, start, headerEnd);
  const before = plain.slice();
  before.set(fence.after, fence.offset - start);
  const after = plain.slice();
  for (const write of inHeader) after.set(write.after, write.offset - start);
  const grown = await growth(link, writes, sizeBytes);
  const record = (offset: number, from: Uint8Array, to: Uint8Array): ImagePatch =>
    patchRecordOf(path, { offset, before: from, after: to }, { modifiedNs: null, when: "commit" });
  const cut = Math.max(0, Math.min(SECTOR_BYTES - start, plain.length));
  return [
    planned.patch,
    ...[...others, ...grown].map((write) => record(write.offset, write.before, write.after)),
    ...(cut < plain.length ? [record(start + cut, before.subarray(cut), after.subarray(cut))] : []),
    record(start, before.subarray(0, cut), after.subarray(0, cut)),
  ];
}

/** The last byte of a file that is to be longer than its writes make it. */
async function growth(
  { file }: ChainLink,
  writes: BytePatches["writes"],
  sizeBytes: number,
): Promise<BytePatches["writes"]> {
  const end = Math.max(
    (await file.stat()).sizeBytes,
    ...writes.map(({ offset, after }) => offset + after.length),
  );
  if (end >= sizeBytes) return [];
  return [{ offset: sizeBytes - 1, before: new Uint8Array(0), after: new Uint8Array(1) }];
}

async function readRange({ file }: ChainLink, start: number, end: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(end - start);
  await file.read(bytes, start);
  return bytes;
}

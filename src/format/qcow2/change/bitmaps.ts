// Changes the persistent bitmaps of a qcow2 image, by one step after another: as `qemu-img bitmap` takes them.
//
// Invariants
// - The file that is written to is no image on the disk: it is one that is staged, or one that nobody can find yet.
//   No order of these writes would leave an image whole.
// - Other bitmaps stay as they are, extra data that imgtx does not know included.
// - An extension without its autoclear bit says nothing: its bitmaps are neither listed nor taken up again. The
//   next change drops it, as QEMU does, and leaves its clusters to a check: whoever cleared the bit may have
//   given them to somebody else.
// - One that is inconsistent can be removed, and nothing else, as with QEMU: what it would have to mark is not known.
// - One with extra data that nobody here knows, and that is not said to be compatible, is not changed at all.
// - What is refused is told by judgeBitmaps alone; changeBitmaps asks it first.

import { ImgtxError, withPlace } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import { type ChainLink, type Qcow2Link, readLink } from "../../chain/chain-link.ts";
import { requireWritable } from "../../open/open-for-writing.ts";
import { escapeName, quoteName, shellQuote } from "../../quote-name.ts";
import { requireFit } from "../check/check-bitmaps.ts";
import { requireCounted } from "../check/require-counted.ts";
import {
  type BitmapEntry,
  countBitmapTableEntries,
  encodeBitmapDirectory,
  encodeBitmapTableEntryAt,
  measureBitmap,
} from "../codec/bitmap.ts";
import { decodeHeaderCluster } from "../codec/header-cluster.ts";
import { encodeName } from "../codec/header-extension.ts";
import {
  BITMAP_BYTES_MAX,
  BITMAP_DIRECTORY_BYTES_MAX,
  BITMAP_GRANULARITY_BITS_MAX,
  BITMAP_GRANULARITY_BITS_MIN,
  BITMAP_NAME_BYTES_MAX,
  BITMAPS_MAX,
  TABLE_ENTRY_BYTES,
} from "../codec/limits.ts";
import type { GuestRange } from "../../../units/index.ts";
import { hasStaleBitmaps } from "../read/image-info.ts";
import { findMarkedRanges, readBitmapDirectory } from "../read/qcow2-bitmaps.ts";
import { markRanges } from "./bitmap-bits.ts";
import { BitmapSpace, requireBitmaps, requireRoomForBitmaps, type SpaceOptions } from "./bitmap-space.ts";

/** UTF-8 has no bytes for it. */
const LONE_SURROGATE = /\p{Surrogate}/u;
const DEFAULT_GRANULARITY_BYTES_MIN = 4096;
const DEFAULT_GRANULARITY_BYTES_MAX = 65_536;

/** What tells whether an image can have a bitmap. */
type Subject = Pick<Qcow2Link, "header" | "path" | "virtualSizeBytes">;

interface AddStep {
  readonly kind: "add";
  readonly name: string;
  /** A power of two; without it, what QEMU takes. */
  readonly granularityBytes?: number | undefined;
  /** Whether QEMU leaves it as it is. Default: false, it marks what is written from then on. */
  readonly isDisabled?: boolean;
  /** Whether it marks the end of the disk from the start; else nothing. */
  readonly marksEnd?: boolean;
}

interface MergeStep {
  readonly kind: "merge";
  readonly name: string;
  /** The name of the other one, whose marks it gets beside its own. */
  readonly from: string;
  /** Where the other one is; undefined: in the same image. */
  readonly source?: ChainLink | undefined;
}

interface MarkStep {
  readonly kind: "mark";
  readonly name: string;
  /** What it marks beside what it does, ascending, on the disk. Asked when the step is done. */
  ranges(): AsyncIterable<GuestRange>;
}

export type BitmapStep =
  | AddStep
  | MergeStep
  | MarkStep
  | { readonly kind: "remove" | "clear" | "enable" | "disable"; readonly name: string };

/**
 * What of the steps is refused. E_EXISTS for a name that is taken; E_NOT_FOUND without such a bitmap; E_USAGE for a name
 * or a granularity that none can have, and for merging one of another size of disk; E_REFUSED for an inconsistent one,
 * and a dirty or frozen image; E_UNSUPPORTED for raw and version 2, for what has no more room, and for extra data that
 * forbids a change; E_CORRUPT, also where clusters in use were not counted.
 */
export async function judgeBitmaps(link: ChainLink, steps: readonly BitmapStep[]): Promise<void> {
  await judgeSteps(link, steps);
  await withPlace({ image: link.path }, async () => {
    await requireCounted(link.file, link.path);
  });
}

/** What of one new bitmap is refused in an image that is still a plan: with this header, for that path. */
export function judgeFirstBitmap(
  { headerBytes, virtualSizeBytes }: { readonly headerBytes: Uint8Array; readonly virtualSizeBytes: number },
  path: string,
  name: string,
): void {
  const header = decodeHeaderCluster(headerBytes, Number.MAX_SAFE_INTEGER);
  const subject = requireBitmaps({ header, path, virtualSizeBytes });
  requireName(name);
  describeNew(subject, { kind: "add", name });
  requireRoomForBitmaps(subject);
}

/** Gives the image, whose file nobody can find yet, its first bitmap. */
export async function addFirstBitmap(file: StorageFile, name: string): Promise<void> {
  const { path } = file;
  const { link } = await readLink(file, await file.stat(), { path, format: "qcow2", overlayPath: undefined });
  await changeBitmaps(link, [{ kind: "add", name }], { isNew: true });
}

/** Does the steps. The link's file is written to. Errors are those of judgeBitmaps. */
export async function changeBitmaps(
  link: ChainLink,
  steps: readonly BitmapStep[],
  options: SpaceOptions = {},
): Promise<void> {
  const { subject, bitmaps } = await judgeSteps(link, steps);
  await withPlace({ image: link.path }, async () => {
    const space = await BitmapSpace.open(subject, bitmaps, options);
    let after = bitmaps;
    for (const step of steps) after = await makeStep(space, after, step);
    await space.finish(after);
  });
}

/** The same in a file that is open for writing, whose clusters the plan has found counted. */
export async function changeFileBitmaps(file: StorageFile, steps: readonly BitmapStep[]): Promise<void> {
  const { path } = file;
  const { link } = await readLink(file, await file.stat(), { path, format: "qcow2", overlayPath: undefined });
  await changeBitmaps(link, steps, { isCounted: true });
}

async function makeStep(
  space: BitmapSpace,
  bitmaps: readonly BitmapEntry[],
  step: BitmapStep,
): Promise<readonly BitmapEntry[]> {
  if (step.kind === "add") return [...bitmaps, await storeFresh(space, step)];
  const bitmap = findBitmap(space.link, bitmaps, step.name);
  const others = bitmaps.filter((each) => each !== bitmap);
  const { bitmapTableOffset, bitmapTableSize } = bitmap;
  const tableBytes = bitmapTableSize * TABLE_ENTRY_BYTES;
  switch (step.kind) {
    case "remove":
      await space.freeAllBits(bitmap);
      await space.freeMetadata(bitmapTableOffset, tableBytes);
      return others;
    case "clear":
      await space.freeAllBits(bitmap);
      await space.write(new Uint8Array(tableBytes), bitmapTableOffset);
      return bitmaps;
    case "enable":
    case "disable": {
      const isAuto = step.kind === "enable";
      return bitmaps.map((each) => (each === bitmap ? { ...each, isAuto } : each));
    }
    case "mark":
      await markRanges(space, bitmap, step.ranges());
      return bitmaps;
    case "merge": {
      const source = step.source ?? space.link;
      const from = findBitmap(source, step.source ? await readBitmapDirectory(source) : bitmaps, step.from);
      if (from !== bitmap) await markRanges(space, bitmap, findMarkedRanges(source, from));
      return bitmaps;
    }
  }
}

async function storeFresh(space: BitmapSpace, step: AddStep): Promise<BitmapEntry> {
  const { link, clusterBytes } = space;
  const entry = describeNew(link, step);
  const { bitmapTableSize, granularityBits } = entry;
  const table = new Uint8Array(bitmapTableSize * TABLE_ENTRY_BYTES);
  if (step.marksEnd) {
    const last = Math.ceil(link.virtualSizeBytes / 2 ** granularityBits) - 1;
    const bits = new Uint8Array(clusterBytes);
    bits[Math.floor(last / 8) % clusterBytes] = 1 << (last % 8);
    const marked = { kind: "data", hostOffset: await space.store(bits) } as const;
    encodeBitmapTableEntryAt(new DataView(table.buffer), bitmapTableSize - 1, marked);
  }
  return { ...entry, bitmapTableOffset: await space.store(table) };
}

/** A new bitmap, which has no place yet. */
function describeNew(link: Subject, { name, granularityBytes, isDisabled = false }: AddStep) {
  const granularityBits = parseGranularity(granularityBytes ?? defaultGranularity(link));
  return {
    bitmapTableSize: countTableEntries(link, granularityBits),
    isInUse: false,
    isAuto: !isDisabled,
    isExtraDataCompatible: false,
    granularityBits,
    extraData: new Uint8Array(0),
    name,
  };
}

async function judgeSteps(
  link: ChainLink,
  steps: readonly BitmapStep[],
): Promise<{ subject: Qcow2Link; bitmaps: readonly BitmapEntry[] }> {
  return await withPlace({ image: link.path }, async () => {
    const subject = requireBitmaps(link);
    requireWritable(subject.header, subject.path);
    const bitmaps = await readBitmapDirectory(subject);
    let after: readonly BitmapEntry[] = bitmaps;
    for (const step of steps) after = await judgeStep(subject, after, step);
    for (const bitmap of after) requireFit(bitmap, subject.header);
    requireRoomForDirectory(after);
    if (after.length > 0) requireRoomForBitmaps(subject);
    return { subject, bitmaps };
  });
}

/** The bitmaps as the step would leave them. */
async function judgeStep(
  link: Qcow2Link,
  bitmaps: readonly BitmapEntry[],
  step: BitmapStep,
): Promise<readonly BitmapEntry[]> {
  const { kind, name } = step;
  if (kind === "add") {
    requireName(name);
    if (bitmaps.some((bitmap) => bitmap.name === name)) {
      throw new ImgtxError("E_EXISTS", `Bitmap already exists: ${escapeName(name)}`, {
        hint: "choose another name, or remove that bitmap first",
      });
    }
    return [...bitmaps, { ...describeNew(link, step), bitmapTableOffset: link.header.l1TableOffset }];
  }
  const bitmap = findBitmap(link, bitmaps, name);
  requireKnown(bitmap);
  if (kind === "remove") return bitmaps.filter((each) => each !== bitmap);
  requireConsistent(bitmap);
  if (kind === "merge") await judgeSource(link, bitmaps, step);
  return bitmaps;
}

async function judgeSource(
  target: Qcow2Link,
  bitmaps: readonly BitmapEntry[],
  { from, source }: MergeStep,
): Promise<void> {
  if (source === undefined) {
    requireConsistent(findBitmap(target, bitmaps, from));
    return;
  }
  await withPlace({ image: source.path }, async () => {
    const own = requireBitmaps(source);
    const bitmap = findBitmap(own, await readBitmapDirectory(own), from);
    requireConsistent(bitmap);
    requireFit(bitmap, own.header);
    const [size, other] = [target.virtualSizeBytes, own.virtualSizeBytes];
    if (size === other) return;
    const [smaller, sizeBytes] = size < other ? [target, other] : [source, size];
    const growing = `imgtx img resize ${shellQuote(smaller.path)} ${sizeBytes}`;
    throw new ImgtxError(
      "E_USAGE",
      `Bitmaps are of different sizes (destination size is ${size}, source size is ${other}) and can't be merged`,
      { hint: `\`${growing}\` gives both disks one size, and their bitmaps too` },
    );
  });
}

function findBitmap(link: ChainLink, bitmaps: readonly BitmapEntry[], name: string): BitmapEntry {
  const found = bitmaps.find((bitmap) => bitmap.name === name);
  if (found !== undefined) return found;
  const names = bitmaps.map((bitmap) => quoteName(bitmap.name));
  const stale =
    "the image has stale bitmaps: a program that does not know bitmaps wrote to it, and they count for nothing";
  throw new ImgtxError("E_NOT_FOUND", `Dirty bitmap '${escapeName(name)}' not found`, {
    hint:
      link.header && hasStaleBitmaps(link.header)
        ? stale
        : names.length === 0
          ? "the image has no bitmaps"
          : `it has ${names.join(", ")}`,
  });
}

function requireConsistent({ name, isInUse }: BitmapEntry): void {
  if (!isInUse) return;
  throw new ImgtxError("E_REFUSED", `Bitmap '${escapeName(name)}' is inconsistent and cannot be used`, {
    field: "bitmap_directory",
    hint: "its last writer did not save it. Remove it, add it anew, and take the next backup whole",
  });
}

/** The specification: unknown extra data that is not said to be compatible forbids to use or change a bitmap. */
export function requireKnown({ name, extraData, isExtraDataCompatible }: BitmapEntry): void {
  if (extraData.length === 0 || isExtraDataCompatible) return;
  throw new ImgtxError("E_UNSUPPORTED", `bitmap ${quoteName(name)} has extra data that imgtx does not know`, {
    field: "bitmap_directory",
    hint: "use the program that made the bitmap",
  });
}

function requireRoomForDirectory(bitmaps: readonly BitmapEntry[]): void {
  const isFull = encodeBitmapDirectory(bitmaps).length > BITMAP_DIRECTORY_BYTES_MAX;
  if (bitmaps.length <= BITMAPS_MAX && !isFull) return;
  const message = isFull
    ? "Not enough space in the bitmap directory"
    : "Maximum number of persistent bitmaps is already reached";
  throw new ImgtxError("E_UNSUPPORTED", message, {
    field: "bitmap_directory",
    hint: "remove some that nobody needs",
  });
}

function requireName(name: string): void {
  const lengthBytes = encodeName(name).length;
  const hint = `choose a name of 1 to ${BITMAP_NAME_BYTES_MAX} bytes of UTF-8, without NUL`;
  if (lengthBytes === 0) throw new ImgtxError("E_USAGE", "Bitmap name cannot be empty", { hint });
  if (lengthBytes > BITMAP_NAME_BYTES_MAX) {
    const max = `Name length exceeds maximum (${BITMAP_NAME_BYTES_MAX} characters)`;
    throw new ImgtxError("E_USAGE", `${max}: it has ${lengthBytes} bytes`, { hint });
  }
  if (LONE_SURROGATE.test(name) || name.includes("\0")) {
    const message = `no bitmap can have the name ${quoteName(name)}: it holds what can't be stored`;
    throw new ImgtxError("E_USAGE", message, { hint });
  }
}

function defaultGranularity({ header }: Subject): number {
  const { clusterSizeBytes } = header;
  return Math.min(Math.max(clusterSizeBytes, DEFAULT_GRANULARITY_BYTES_MIN), DEFAULT_GRANULARITY_BYTES_MAX);
}

function parseGranularity(granularityBytes: number): number {
  const bits = Math.round(Math.log2(granularityBytes));
  if (
    2 ** bits === granularityBytes &&
    bits >= BITMAP_GRANULARITY_BITS_MIN &&
    bits <= BITMAP_GRANULARITY_BITS_MAX
  ) {
    return bits;
  }
  throw new ImgtxError("E_USAGE", "Granularity must be power of 2 and at least 512", {
    hint: `${granularityBytes} bytes are none from 512 to 2G`,
  });
}

/** E_UNSUPPORTED for a disk that a bitmap of this granularity can't cover. */
export function countTableEntries({ header, virtualSizeBytes }: Subject, granularityBits: number): number {
  if (virtualSizeBytes === 0) {
    throw new ImgtxError("E_UNSUPPORTED", "a disk of no bytes can't have a bitmap", { field: "size" });
  }
  if (measureBitmap(virtualSizeBytes, granularityBits) > BITMAP_BYTES_MAX) {
    throw new ImgtxError("E_UNSUPPORTED", "Too much space will be occupied by the bitmap", {
      field: "granularity_bits",
      hint: `use a granularity larger than ${2 ** granularityBits} bytes`,
    });
  }
  return countBitmapTableEntries(virtualSizeBytes, { granularityBits }, header);
}

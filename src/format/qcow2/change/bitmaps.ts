// Changes the persistent bitmaps of a qcow2 image: adds one, clears one, removes one.
//
// Invariants
// - The file that is written to is no image on the disk: it is one that is staged, or in memory to try the change out.
//   No order of these writes would leave an image whole.
// - Other bitmaps stay as they are, extra data that imgtx does not know included.
// - An extension without its autoclear bit says nothing: its bitmaps are neither listed nor taken up again. The
//   next change drops it, as QEMU does, and leaves its clusters to a check: whoever cleared the bit may have
//   given them to somebody else.
// - A patch speaks of the image as it was opened, without a fence. Where an addition moves header extensions and the backing
//   file name, it covers bytes that a fence may have changed: who carries it out puts those back first.
// - A directory is rewritten in place where it fits its clusters; the journal makes that safe, and the patch small.
// - A bitmap with extra data that nobody here knows, and that is not said to be compatible, is neither cleared nor removed.

import { ImgtxError, withPlace } from "../../../errors/index.ts";
import { hostOffset } from "../../../units/index.ts";
import type { ChainLink, Qcow2Link } from "../../chain/chain-link.ts";
import { BitmapSpace, requireBitmaps, type StagedBytes } from "./bitmap-space.ts";
import { requireFit } from "../check/check-bitmaps.ts";
import { hasStaleBitmaps } from "../read/image-info.ts";
import {
  type BitmapEntry,
  countBitmapTableEntries,
  encodeBitmapDirectory,
  encodeBitmapTableEntryAt,
  measureBitmap,
} from "../codec/bitmap.ts";
import { AUTOCLEAR_BIT } from "../codec/features.ts";
import { encodeName, findExtension } from "../codec/header-extension.ts";
import {
  BITMAP_BYTES_MAX,
  BITMAP_DIRECTORY_BYTES_MAX,
  BITMAP_GRANULARITY_BITS_MAX,
  BITMAP_GRANULARITY_BITS_MIN,
  BITMAP_NAME_BYTES_MAX,
  BITMAPS_MAX,
  TABLE_ENTRY_BYTES,
} from "../codec/limits.ts";
import { readBitmapDirectory, readBitmapTable } from "../read/qcow2-bitmaps.ts";
import { quoteName } from "../../quote-name.ts";

/** UTF-8 has no bytes for it. */
const LONE_SURROGATE = /\p{Surrogate}/u;
const DEFAULT_GRANULARITY_BYTES_MIN = 4096;
const DEFAULT_GRANULARITY_BYTES_MAX = 65_536;

interface NewBitmap {
  readonly name: string;
  /** A power of two; without it, what QEMU takes. */
  readonly granularityBytes?: number;
  /** Whether it marks the end of the disk from the start; else nothing. */
  readonly marksEnd?: boolean;
}

/**
 * A new bitmap that QEMU keeps up from then on. E_EXISTS for a name that is taken; E_USAGE for a name or a
 * granularity that no bitmap can have; E_UNSUPPORTED for an image that has no room for one more; else the errors of
 * all changes: E_UNSUPPORTED for raw and version 2, E_REFUSED for a dirty image, E_CORRUPT.
 */
export async function addBitmap(link: ChainLink, file: StagedBytes, added: NewBitmap): Promise<void> {
  await replaceBitmaps(link, file, { isDropped: () => false, added: [added] });
}

/**
 * New bitmaps in the place of those whose names are dropped, be they inconsistent or not, in one change. The errors
 * are those of addBitmap and removeBitmap.
 */
export async function replaceBitmaps(
  link: ChainLink,
  file: StagedBytes,
  {
    isDropped,
    added,
  }: { readonly isDropped: (name: string) => boolean; readonly added: readonly NewBitmap[] },
): Promise<void> {
  await change(link, async (subject) => {
    for (const { name } of added) requireName(name);
    const sizes = added.map(({ granularityBytes }) =>
      parseGranularity(granularityBytes ?? defaultGranularity(subject)),
    );
    const bitmaps = await readBitmapDirectory(subject);
    const dropped = bitmaps.filter(({ name }) => isDropped(name));
    const kept = bitmaps.filter((bitmap) => !dropped.includes(bitmap));
    const taken = added.find(({ name }) => kept.some((bitmap) => bitmap.name === name));
    if (taken !== undefined) {
      throw new ImgtxError("E_EXISTS", `Bitmap already exists: ${quoteName(taken.name)}`, {
        hint: "choose another name, or remove that bitmap first",
      });
    }
    dropped.forEach(requireKnown);
    for (const bits of sizes) countTableEntries(subject, bits);
    const space = await openSpace(subject, file, bitmaps, kept);
    for (const bitmap of dropped) await freeBitmap(space, bitmap);
    const fresh: BitmapEntry[] = [];
    for (const [index, bitmap] of added.entries()) {
      fresh.push(await storeFresh(space, bitmap, sizes[index] ?? 0));
    }
    await writeDirectory(space, [...kept, ...fresh]);
    await space.finish();
  });
}

async function storeFresh(
  space: BitmapSpace,
  { name, marksEnd = false }: NewBitmap,
  granularityBits: number,
): Promise<BitmapEntry> {
  const { link, clusterBytes } = space;
  const bitmapTableSize = countTableEntries(link, granularityBits);
  const table = new Uint8Array(bitmapTableSize * TABLE_ENTRY_BYTES);
  if (marksEnd) {
    const last = Math.ceil(link.virtualSizeBytes / 2 ** granularityBits) - 1;
    const bits = new Uint8Array(clusterBytes);
    bits[Math.floor(last / 8) % clusterBytes] = 1 << (last % 8);
    const hostOffsetOfBits = hostOffset(await space.store(bits));
    const entry = { kind: "data", hostOffset: hostOffsetOfBits } as const;
    encodeBitmapTableEntryAt(new DataView(table.buffer), bitmapTableSize - 1, entry);
  }
  return {
    bitmapTableOffset: hostOffset(await space.store(table)),
    bitmapTableSize,
    isInUse: false,
    isAuto: true,
    isExtraDataCompatible: false,
    granularityBits,
    extraData: new Uint8Array(0),
    name,
  };
}

/**
 * The bitmap without its marks; enabled or disabled as it was. E_NOT_FOUND without such a bitmap; E_REFUSED for
 * one that is inconsistent; E_UNSUPPORTED for one whose extra data forbids its use; else the errors of all changes.
 */
export async function clearBitmap(
  link: ChainLink,
  file: StagedBytes,
  { name }: { readonly name: string },
): Promise<void> {
  await change(link, async (subject) => {
    const bitmaps = await readBitmapDirectory(subject);
    const bitmap = findBitmap(subject, bitmaps, name);
    if (bitmap.isInUse) {
      throw new ImgtxError("E_REFUSED", `bitmap ${quoteName(name)} is inconsistent and cannot be used`, {
        field: "bitmap_directory",
        hint: `remove it with \`qemu-img bitmap --remove\`, and add it anew`,
      });
    }
    requireKnown(bitmap);
    const space = await openSpace(subject, file, bitmaps, bitmaps);
    await freeBits(space, bitmap);
    await space.write(new Uint8Array(bitmap.bitmapTableSize * TABLE_ENTRY_BYTES), bitmap.bitmapTableOffset);
    await space.clearUnknownAutoclear();
    await space.finish();
  });
}

/**
 * The image without this bitmap, be it inconsistent or not. E_NOT_FOUND without such a bitmap; E_UNSUPPORTED for
 * one whose extra data forbids its use; else the errors of all changes.
 */
export async function removeBitmap(
  link: ChainLink,
  file: StagedBytes,
  { name }: { readonly name: string },
): Promise<void> {
  await change(link, async (subject) => {
    const bitmaps = await readBitmapDirectory(subject);
    const bitmap = findBitmap(subject, bitmaps, name);
    requireKnown(bitmap);
    const others = bitmaps.filter((each) => each !== bitmap);
    const space = await openSpace(subject, file, bitmaps, others);
    await freeBitmap(space, bitmap);
    await writeDirectory(space, others);
    await space.finish();
  });
}

async function change(link: ChainLink, make: (subject: Qcow2Link) => Promise<void>): Promise<void> {
  await withPlace({ image: link.path }, async () => {
    await make(requireBitmaps(link));
  });
}

export async function openSpace(
  link: Qcow2Link,
  file: StagedBytes,
  bitmaps: readonly BitmapEntry[],
  kept: readonly BitmapEntry[],
): Promise<BitmapSpace> {
  for (const bitmap of kept) requireFit(bitmap, link.header);
  return BitmapSpace.open(link, file, bitmaps);
}

function findBitmap(link: Qcow2Link, bitmaps: readonly BitmapEntry[], name: string): BitmapEntry {
  const found = bitmaps.find((bitmap) => bitmap.name === name);
  if (found !== undefined) return found;
  const names = bitmaps.map((bitmap) => quoteName(bitmap.name));
  const stale =
    "the image has stale bitmaps: a program that does not know bitmaps wrote to it, and they count for nothing";
  throw new ImgtxError("E_NOT_FOUND", `there is no bitmap ${quoteName(name)}`, {
    hint: hasStaleBitmaps(link.header)
      ? stale
      : names.length === 0
        ? "the image has no bitmaps"
        : `it has ${names.join(", ")}`,
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

function requireName(name: string): void {
  const lengthBytes = encodeName(name).length;
  if (
    lengthBytes >= 1 &&
    lengthBytes <= BITMAP_NAME_BYTES_MAX &&
    !LONE_SURROGATE.test(name) &&
    !name.includes("\0")
  ) {
    return;
  }
  const why =
    lengthBytes === 0
      ? "it is empty"
      : lengthBytes > BITMAP_NAME_BYTES_MAX
        ? `it has ${lengthBytes} bytes`
        : "it holds what can't be stored";
  throw new ImgtxError("E_USAGE", `no bitmap can have the name ${quoteName(name)}: ${why}`, {
    hint: `choose a name of 1 to ${BITMAP_NAME_BYTES_MAX} bytes of UTF-8, without NUL`,
  });
}

function defaultGranularity({ header }: Qcow2Link): number {
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
  throw new ImgtxError("E_USAGE", `no bitmap can have a granularity of ${granularityBytes} bytes`, {
    hint: "choose a power of two from 512 to 2G",
  });
}

/** E_UNSUPPORTED for a disk that a bitmap of this granularity can't cover. */
export function countTableEntries({ header, virtualSizeBytes }: Qcow2Link, granularityBits: number): number {
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

async function freeBitmap(space: BitmapSpace, bitmap: BitmapEntry): Promise<void> {
  await freeBits(space, bitmap);
  await space.freeMetadata(bitmap.bitmapTableOffset, bitmap.bitmapTableSize * TABLE_ENTRY_BYTES);
}

/** In runs of neighbours, since QEMU writes them one after the other. */
async function freeBits(space: BitmapSpace, bitmap: BitmapEntry): Promise<void> {
  const { clusterBytes, link } = space;
  let start = 0;
  let end = 0;
  for await (const entry of readBitmapTable(link, bitmap, bitmap.bitmapTableSize)) {
    if (entry.kind !== "data") continue;
    if (entry.hostOffset !== end) {
      if (end > start) await space.freeBits(start, end - start);
      start = entry.hostOffset;
    }
    end = entry.hostOffset + clusterBytes;
  }
  if (end > start) await space.freeBits(start, end - start);
}

/** The directory where it was if it fits its clusters, else in new ones; and the header that leads there. */
export async function writeDirectory(space: BitmapSpace, bitmaps: readonly BitmapEntry[]): Promise<void> {
  const { clusterBytes, link } = space;
  const { extensions, autoclearFeatures } = link.header;
  const isValid = autoclearFeatures.includes(AUTOCLEAR_BIT.bitmaps);
  const old = isValid ? findExtension(extensions, "bitmaps") : undefined;
  const oldStart = old?.bitmapDirectoryOffset ?? 0;
  const oldSize = old?.bitmapDirectorySize ?? 0;
  const oldBytes = Math.ceil(oldSize / clusterBytes) * clusterBytes;
  // No name of what has gone is left in clusters that are free, or behind the new end.
  if (oldSize > 0) await space.write(new Uint8Array(oldSize), oldStart);
  const bytes = encodeBitmapDirectory(bitmaps);
  if (bitmaps.length > BITMAPS_MAX || bytes.length > BITMAP_DIRECTORY_BYTES_MAX) {
    throw new ImgtxError("E_UNSUPPORTED", "the image has as many bitmaps as it can have", {
      field: "bitmap_directory",
      hint: "remove some that nobody needs",
    });
  }
  const fits = bytes.length <= oldBytes;
  const start = bytes.length === 0 || fits ? oldStart : await space.store(bytes);
  if (fits) await space.write(bytes, start);
  const keptBytes = fits ? Math.ceil(bytes.length / clusterBytes) * clusterBytes : 0;
  if (oldBytes > keptBytes) await space.freeMetadata(oldStart + keptBytes, oldBytes - keptBytes);
  await space.writeHeader(
    bitmaps.length === 0
      ? undefined
      : {
          kind: "bitmaps",
          nbBitmaps: bitmaps.length,
          bitmapDirectorySize: bytes.length,
          bitmapDirectoryOffset: hostOffset(start),
        },
  );
}

// What changed on a disk since a bitmap was made or cleared, and whether the bitmap can be believed.
//
// Invariant: unusable is said wherever some change may have passed the bitmap by. A mirror that believed it
// would leave that change out.

import type { ByteRange } from "../../../storage/index.ts";
import type { ChainLink, Qcow2Link } from "../../chain/chain-link.ts";
import { hasStaleBitmaps } from "./image-info.ts";
import { type BitmapEntry, countBitmapTableEntries } from "../codec/bitmap.ts";
import { findMarkedRanges, readBitmapsOf } from "./qcow2-bitmaps.ts";
import { quoteName } from "../../quote-name.ts";

export type DirtyRanges =
  | {
      readonly kind: "valid";
      readonly granularityBytes: number;
      /** Guest bytes, ascending, without touching each other, inside the disk. Read as it is walked, once. */
      readonly ranges: AsyncIterable<ByteRange>;
    }
  /** why: a sentence without its full stop, that names the bitmap. */
  | { readonly kind: "unusable"; readonly why: string };

/** A bitmap, and another one that is made with it, by another name, and marks the end of the disk from the start. */
export interface WitnessedBitmap {
  readonly name: string;
  readonly witness: string;
}

/**
 * What a bitmap marks, where its witness says the same. Why not, in words as above, where somebody other than a
 * running guest changed either: cleared, disabled or merged, by a program for bitmaps; cut with the disk, which loses
 * the mark at its end; or brought back with an older state of the image, which has another witness.
 */
export async function readWitnessedRanges(
  link: ChainLink,
  { name, witness }: WitnessedBitmap,
): Promise<readonly ByteRange[] | string> {
  const [own, other] = [await readDirtyRanges(link, name), await readDirtyRanges(link, witness)];
  if (own.kind === "unusable") return own.why;
  if (other.kind === "unusable") {
    return `bitmap ${quoteName(name)} is not the one that was made last: ${other.why}`;
  }
  const ranges: ByteRange[] = [];
  for await (const range of own.ranges) ranges.push(range);
  const marked = withEnd(ranges, other.granularityBytes, link.virtualSizeBytes);
  let index = 0;
  for await (const { start, lengthBytes } of other.ranges) {
    const expected = marked[index];
    if (expected?.start !== start || expected.lengthBytes !== lengthBytes) return tampered(name);
    index += 1;
  }
  return index === marked.length ? marked : tampered(name);
}

function tampered(name: string): string {
  return `somebody other than a guest changed bitmap ${quoteName(name)}`;
}

/** The ranges with the last granule of the disk. */
function withEnd(
  ranges: readonly ByteRange[],
  granularityBytes: number,
  sizeBytes: number,
): readonly ByteRange[] {
  const start = (Math.ceil(sizeBytes / granularityBytes) - 1) * granularityBytes;
  const last = ranges.at(-1);
  const lastEnd = last ? last.start + last.lengthBytes : 0;
  if (lastEnd > start) return ranges;
  if (last === undefined || lastEnd < start) return [...ranges, { start, lengthBytes: sizeBytes - start }];
  return [...ranges.slice(0, -1), { start: last.start, lengthBytes: sizeBytes - last.start }];
}

/** E_CORRUPT with image and offset where the directory, or while walking the table, can't be true. */
export async function readDirtyRanges(link: ChainLink, name: string): Promise<DirtyRanges> {
  const { header } = link;
  if (header === undefined) return unusable("an image of format raw has no bitmaps");
  if (hasStaleBitmaps(header)) {
    return unusable("a program that does not know bitmaps wrote to the image, and its bitmaps are stale");
  }
  // A size that does not fit is a reason here, and not damage.
  const bitmap = (await readBitmapsOf(link, 0)).find((each) => each.name === name);
  if (bitmap === undefined) return unusable(`the image has no bitmap ${quoteName(name)}`);
  const why = findFault({ ...link, header }, bitmap);
  if (why !== undefined) return unusable(`bitmap ${quoteName(name)} ${why}`);
  const granularityBytes = 2 ** bitmap.granularityBits;
  return { kind: "valid", granularityBytes, ranges: findMarkedRanges(link, bitmap) };
}

function findFault({ header, virtualSizeBytes }: Qcow2Link, bitmap: BitmapEntry): string | undefined {
  if (bitmap.isInUse) return "is inconsistent: its last writer did not save it";
  if (!bitmap.isAuto) return "is disabled: changes may have passed it by";
  if (bitmap.extraData.length > 0 && !bitmap.isExtraDataCompatible) {
    return "has extra data that imgtx does not know";
  }
  const needed = countBitmapTableEntries(virtualSizeBytes, bitmap, header);
  if (bitmap.bitmapTableSize !== needed) return "covers a disk of another size";
  return undefined;
}

function unusable(why: string): DirtyRanges {
  return { kind: "unusable", why };
}

// What changed on a disk since a bitmap was made or cleared, and whether the bitmap can be believed.
//
// Invariant: unusable is said wherever some change may have passed the bitmap by. A mirror that believed it
// would leave that change out.

import type { ByteRange } from "../storage/index.ts";
import type { ChainLink } from "./backing-chain.ts";
import { hasStaleBitmaps } from "./image-info.ts";
import { type BitmapEntry, countBitmapTableEntries } from "./qcow2/bitmap.ts";
import { findMarkedRanges, readBitmapsOf } from "./qcow2-bitmaps.ts";
import type { Qcow2Link } from "./qcow2-link.ts";
import { quoteName } from "./quote-name.ts";

export type DirtyRanges =
  | {
      readonly kind: "valid";
      /** Guest bytes, ascending, without touching each other, inside the disk. Read as it is walked, once. */
      readonly ranges: AsyncIterable<ByteRange>;
    }
  /** why: a sentence without its full stop, that names the bitmap. */
  | { readonly kind: "unusable"; readonly why: string };

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
  return { kind: "valid", ranges: findMarkedRanges(link, bitmap) };
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

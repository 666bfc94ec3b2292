// What changed on a disk since a bitmap was made or cleared, and whether the bitmap can be believed.
//
// Invariant: unusable is said wherever some change may have passed the bitmap by. A mirror that believed it
// would leave that change out.

import { endOf, guestOffset, type GuestRange, rangeTo } from "../../../units/index.ts";
import type { ChainLink, Qcow2Link } from "../../chain/chain-link.ts";
import { hasStaleBitmaps } from "./image-info.ts";
import { type BitmapEntry, countBitmapTableEntries } from "../codec/bitmap.ts";
import { findMarkedRanges, readBitmapsOf } from "./qcow2-bitmaps.ts";

export type DirtyRanges =
  | {
      readonly kind: "valid";
      readonly granularityBytes: number;
      /** Guest bytes, ascending, without touching each other, inside the disk. Read as it is walked, once. */
      readonly ranges: AsyncIterable<GuestRange>;
    }
  | { readonly kind: "unusable"; readonly fault: BitmapFault };

/** Why some change may have passed a bitmap by. */
export type BitmapFault =
  | "raw"
  | "stale"
  | "missing"
  | "in use"
  | "disabled"
  | "extra data"
  | "other size"
  | "tampered";

/** A bitmap, and another one that is made with it, by another name, and marks the end of the disk from the start. */
export interface WitnessedBitmap {
  readonly name: string;
  readonly witness: string;
}

/** The fault of a bitmap, or of its witness where that has a name. */
export interface FaultyBitmap {
  readonly bitmap: string;
  readonly witness: string | null;
  readonly fault: BitmapFault;
}

/**
 * What a bitmap marks, where its witness says the same. Why not, where somebody other than a
 * running guest changed either: cleared, disabled or merged, by a program for bitmaps; cut with the disk, which loses
 * the mark at its end; or brought back with an older state of the image, which has another witness.
 */
export async function readWitnessedRanges(
  link: ChainLink,
  { name, witness }: WitnessedBitmap,
): Promise<readonly GuestRange[] | FaultyBitmap> {
  const [own, other] = [await readDirtyRanges(link, name), await readDirtyRanges(link, witness)];
  const tampered: FaultyBitmap = { bitmap: name, witness: null, fault: "tampered" };
  if (own.kind === "unusable") return { ...tampered, fault: own.fault };
  if (other.kind === "unusable") return { bitmap: name, witness, fault: other.fault };
  const ranges: GuestRange[] = [];
  for await (const range of own.ranges) ranges.push(range);
  const marked = withEnd(ranges, other.granularityBytes, link.virtualSizeBytes);
  let index = 0;
  for await (const { start, lengthBytes } of other.ranges) {
    const expected = marked[index];
    if (expected?.start !== start || expected.lengthBytes !== lengthBytes) return tampered;
    index += 1;
  }
  return index === marked.length ? marked : tampered;
}

/** The ranges with the last granule of the disk. */
function withEnd(
  ranges: readonly GuestRange[],
  granularityBytes: number,
  sizeBytes: number,
): readonly GuestRange[] {
  const end = guestOffset(sizeBytes);
  const start = guestOffset((Math.ceil(sizeBytes / granularityBytes) - 1) * granularityBytes);
  const last = ranges.at(-1);
  if (last === undefined || endOf(last) < start) return [...ranges, rangeTo(start, end)];
  return endOf(last) > start ? ranges : [...ranges.slice(0, -1), rangeTo(last.start, end)];
}

/** E_CORRUPT with image and offset where the directory, or while walking the table, can't be true. */
export async function readDirtyRanges(link: ChainLink, name: string): Promise<DirtyRanges> {
  const { header } = link;
  if (header === undefined) return unusable("raw");
  if (hasStaleBitmaps(header)) return unusable("stale");
  // A size that does not fit is a reason here, and not damage.
  const bitmap = (await readBitmapsOf(link, 0)).find((each) => each.name === name);
  if (bitmap === undefined) return unusable("missing");
  const fault = findFault({ ...link, header }, bitmap);
  if (fault !== undefined) return unusable(fault);
  const granularityBytes = 2 ** bitmap.granularityBits;
  return { kind: "valid", granularityBytes, ranges: findMarkedRanges(link, bitmap) };
}

function findFault({ header, virtualSizeBytes }: Qcow2Link, bitmap: BitmapEntry): BitmapFault | undefined {
  if (bitmap.isInUse) return "in use";
  if (!bitmap.isAuto) return "disabled";
  if (bitmap.extraData.length > 0 && !bitmap.isExtraDataCompatible) return "extra data";
  const needed = countBitmapTableEntries(virtualSizeBytes, bitmap, header);
  if (bitmap.bitmapTableSize !== needed) return "other size";
  return undefined;
}

function unusable(fault: BitmapFault): DirtyRanges {
  return { kind: "unusable", fault };
}

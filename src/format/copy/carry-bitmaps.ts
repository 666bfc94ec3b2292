// The persistent bitmaps of images that are merged into one below them: what becomes of them there.
//
// As if each image were merged into the one right below it, by a guest's writes: bitmaps there that are enabled mark what is
// written, and a bitmap of the upper image gets its marks into the one of the same name, or into a new one. Whether it goes
// on to mark what is written then is as in the uppermost image that has it.

import { ImgtxError } from "../../errors/index.ts";
import { earliest, endOf, guestOffset, type GuestRange, rangeTo } from "../../units/index.ts";
import type { ChainLink } from "../chain/chain-link.ts";
import { imageOf } from "../open/open-image.ts";
import { quoteName, shellQuote } from "../quote-name.ts";
import type { BitmapStep } from "../qcow2/change/bitmaps.ts";
import type { BitmapEntry } from "../qcow2/codec/bitmap.ts";
import { findMarkedRanges, readBitmapDirectory } from "../qcow2/read/qcow2-bitmaps.ts";
import { extentsOf } from "../read/extent-cursor.ts";

interface MergedLayers {
  /** The uppermost first. */
  readonly merged: readonly ChainLink[];
  readonly into: ChainLink;
  readonly below: readonly ChainLink[];
  /** Images that are to be merged into the uppermost one of the merged ones first. */
  readonly first?: readonly ChainLink[];
}

/** A bitmap, and how many of the merged images are above the one that has it. */
interface Occurrence {
  readonly depth: number;
  readonly link: ChainLink;
  readonly bitmap: BitmapEntry;
}

/**
 * The changes of bitmaps in the image that is merged into, before anything is. keepsOwn: bitmaps of the others stay with
 * them. E_REFUSED for one that nobody may use any more.
 */
export async function planCarriedBitmaps(
  layers: MergedLayers,
  { keepsOwn }: { readonly keepsOwn: boolean },
): Promise<readonly BitmapStep[]> {
  const { merged, into } = layers;
  const found = new Map<string, Occurrence[]>();
  const own = new Set<string>();
  for (const [depth, link] of [...(keepsOwn ? [] : merged).entries(), [merged.length, into] as const]) {
    for (const bitmap of await readBitmapDirectory(link)) {
      if (link === into) own.add(bitmap.name);
      const known = found.get(bitmap.name) ?? [];
      found.set(bitmap.name, [...known, { depth, link, bitmap }]);
    }
  }
  return [...found].flatMap(([name, occurrences]) => stepsFor(name, occurrences, own.has(name), layers));
}

function stepsFor(
  name: string,
  occurrences: readonly Occurrence[],
  isThere: boolean,
  layers: MergedLayers,
): BitmapStep[] {
  const [top] = occurrences;
  const lowest = occurrences.at(-1);
  if (!top || !lowest) return [];
  const isLeft = isThere && occurrences.length === 1;
  // Of one that is inconsistent nobody relies on what it marks.
  if (isLeft && (lowest.bitmap.isInUse || !lowest.bitmap.isAuto)) return [];
  const broken = occurrences.find(({ bitmap }) => bitmap.isInUse);
  if (broken) throw cannotCarry(broken);
  const { isAuto } = top.bitmap;
  const { granularityBits, isAuto: wasAuto } = lowest.bitmap;
  const first: BitmapStep[] = isThere
    ? isAuto === wasAuto
      ? []
      : [{ kind: isAuto ? "enable" : "disable", name }]
    : [{ kind: "add", name, granularityBytes: 2 ** granularityBits, isDisabled: !isAuto }];
  const marks = occurrences.flatMap(({ depth, link, bitmap }): BitmapStep[] => [
    ...(link === layers.into
      ? []
      : [{ kind: "mark" as const, name, ranges: () => within(findMarkedRanges(link, bitmap), layers) }]),
    ...(bitmap.isAuto && depth > 0
      ? [{ kind: "mark" as const, name, ranges: () => findWritten(layers, depth) }]
      : []),
  ]);
  return [...first, ...marks];
}

/** What the uppermost of the merged images, so many, have. */
async function* findWritten(
  { first = [], merged, into, below }: MergedLayers,
  count: number,
): AsyncGenerator<GuestRange> {
  const close = () => Promise.reject(new Error("the chain is another's"));
  const image = imageOf({ links: [...first, ...merged, into, ...below], close });
  const depth = first.length + count;
  for await (const extent of extentsOf(image)) {
    // Where one of them ends before the one above it, zeros are written.
    const isWritten = extent.depth < depth - 1 || (extent.present && extent.depth < depth);
    if (isWritten) yield rangeTo(extent.start, endOf(extent));
  }
}

/** Some image in between may have been longer. */
async function* within(
  ranges: AsyncIterable<GuestRange>,
  { merged: [top], into }: MergedLayers,
): AsyncGenerator<GuestRange> {
  const end = guestOffset(Math.max(into.virtualSizeBytes, top?.virtualSizeBytes ?? 0));
  for await (const range of ranges) {
    if (range.start < end) yield rangeTo(range.start, earliest(endOf(range), end));
  }
}

function cannotCarry({ link: { path: image }, bitmap: { name } }: Occurrence): ImgtxError {
  return new ImgtxError("E_REFUSED", `its bitmap ${quoteName(name)} is inconsistent, and can't be carried`, {
    image,
    field: "bitmap_directory",
    hint: `its last writer did not save it: \`imgtx img bitmap --remove ${shellQuote(image)} ${shellQuote(name)}\` takes it away`,
  });
}

// How a mirror stands to its device: whether it is in sync, and what the two may differ in.
//
// Invariant: all that is not known by fingerprints, by layers or by a bitmap that can be relied on, may differ.

import { type ChainEntry, filesOfEntry, type MirrorEntry } from "../../../device/index.ts";
import {
  type Chain,
  CHANGE_UNIT_BYTES,
  describeChanges,
  describeDoubt,
  type Fingerprint,
  findRangesAbove,
  type Image,
  imageOf,
  isSameFile,
  uniteRanges,
} from "../../../format/index.ts";
import type { GuestRange } from "../../../units/index.ts";
import { NOT_MADE_YET } from "../../journal/index.ts";
import type { Note } from "../../notes/notes.ts";
import { chainEntriesOf } from "./chain-entry.ts";
import { notReliedOn, readMarked } from "./tracking.ts";

interface Chains {
  /** The device's. */
  readonly present: Chain;
  /** The mirror's. */
  readonly copy: Chain;
}

/** What fingerprints say of a mirror. */
interface JudgedMirror {
  /** The mirror as an entry, with both chains as they are now. */
  readonly now: MirrorEntry;
  /** Somebody wrote to it since, or changes wait to be copied into it. */
  readonly isTouched: boolean;
  readonly doubt: Doubt | undefined;
  readonly isInSync: boolean;
}

export function judgeMirror(mirror: MirrorEntry, present: Chain, copy: Chain): JudgedMirror {
  const now = { ...mirror, chain: chainEntriesOf(copy), source: chainEntriesOf(present) };
  // Also where changes wait for the commit: the mirror itself is not written to before.
  const isTouched = !isSameChain(mirror.chain, now.chain);
  const doubt = isTouched
    ? undefined
    : (doubtOf(mirror.chain, now.chain, copy) ?? doubtOf(mirror.source, now.source, present));
  const isInSync = !isTouched && doubt === undefined && isSameChain(mirror.source, now.source);
  return { now, isTouched, doubt, isInSync };
}

/** The mirror where the device gets other images that show the same: as much in sync as it was with those before. */
export function mirrorOfSameContent(
  mirror: MirrorEntry | null,
  before: Chain,
  after: readonly ChainEntry[],
): MirrorEntry | null {
  if (!mirror) return null;
  const source = chainEntriesOf(before);
  const isKnown = isSameChain(mirror.source, source) && doubtOf(mirror.source, source, before) === undefined;
  return { ...mirror, source: isKnown ? after : [] };
}

/** The same where the mirror gets other images that show the same. */
export function mirrorOnSameContent(
  mirror: MirrorEntry,
  before: Chain,
  after: readonly ChainEntry[],
): MirrorEntry {
  const now = chainEntriesOf(before);
  const isKnown = isSameChain(mirror.chain, now) && doubtOf(mirror.chain, now, before) === undefined;
  // What stands alone has all that it shows.
  const sync = after.length === 1 ? "full" : mirror.sync;
  return { ...mirror, sync, chain: after, source: isKnown ? mirror.source : [] };
}

/** Where they can differ, and why that is not what the mirror's bitmap marks, where it is not. */
export async function expectChanges(
  mirror: MirrorEntry,
  { now, isTouched, doubt }: JudgedMirror,
  chains: Chains,
): Promise<{ readonly expected: Scope; readonly whyUnmarked: Note | undefined }> {
  const marked = isTouched ? undefined : await readMarkedAlone(mirror, now, chains);
  if (marked === undefined || "code" in marked) {
    const expected = scopeOf(mirror, now, isTouched || doubt !== undefined);
    return { expected, whyUnmarked: marked };
  }
  return { expected: { kind: "marked", ranges: marked }, whyUnmarked: undefined };
}

/** How much of the device the mirror does not have, at most; undefined where only a comparison tells. */
export async function measureBehind(mirror: MirrorEntry, chains: Chains): Promise<number | undefined> {
  const seen = judgeMirror(mirror, chains.present, chains.copy);
  if (seen.isInSync) return 0;
  const { expected } = await expectChanges(mirror, seen, chains);
  if (expected.kind === "anywhere" || expected.kind === "upper layers") return undefined;
  return measure(await rangesOf(imageOf(chains.present), expected));
}

/** What such a scope says by itself, without comparing, in whole units of a changes overlay. */
export async function rangesOf(
  image: Image,
  scope: Extract<Scope, { kind: "marked" | "new layers" }>,
): Promise<GuestRange[]> {
  const ranges = scope.kind === "marked" ? scope.ranges : await findRangesAbove(image, scope.depth);
  return uniteRanges([ranges], CHANGE_UNIT_BYTES, image.virtualSizeBytes);
}

export function measure(ranges: readonly GuestRange[]): number {
  return ranges.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
}

/** Where a mirror and its device can differ. */
export type Scope =
  | { readonly kind: "anywhere" }
  /** What a bitmap marks. */
  | { readonly kind: "marked"; readonly ranges: readonly GuestRange[] }
  /** In what the layers above this depth of the device's chain have: all else is as it was. */
  | { readonly kind: "new layers"; readonly depth: number }
  /** The same, and in what the mirror's own layer has: both stand on equal images. */
  | { readonly kind: "upper layers"; readonly depth: number; readonly baseLayers: number };

/** What the bitmap marks, where all below the active layer is as it was; else why not. */
async function readMarkedAlone(
  before: MirrorEntry,
  now: MirrorEntry,
  chains: { readonly present: Chain; readonly copy: Chain },
): Promise<readonly GuestRange[] | Note> {
  const [below, belowNow] = [before.source.slice(1), now.source.slice(1)];
  if (!isSameChain(below, belowNow)) return notReliedOn(before, "changed below");
  const doubt = doubtOf(before.chain, now.chain, chains.copy) ?? doubtOf(below, belowNow, chains.present);
  if (doubt) return { code: "bitmap in doubt", ...doubt };
  return await readMarked(before, chains.present);
}

export function scopeOf(before: MirrorEntry, now: MirrorEntry, isTouched: boolean): Scope {
  const depth = isTouched ? undefined : countLayersAbove(before.source, now.source);
  if (depth !== undefined) return { kind: "new layers", depth };
  const below = countLayersAbove(before.source.slice(1), now.source);
  const isBaseKept = isSameChain(before.chain.slice(1), now.chain.slice(1));
  if (before.sync === "top" && isBaseKept && below !== undefined) {
    return { kind: "upper layers", depth: below, baseLayers: now.chain.length - 1 };
  }
  return { kind: "anywhere" };
}

interface Doubt {
  readonly image: string;
  readonly before: Fingerprint;
  readonly now: Fingerprint;
}

/** The first image, from the base on, that may have been written to unseen though it looks the same. */
function doubtOf(
  before: readonly ChainEntry[],
  now: readonly ChainEntry[],
  { links }: Chain,
): Doubt | undefined {
  // A fence has the id of its transaction in the header: it is the same one, and nobody opened the image after it was set.
  const fenced = new Set(links.flatMap(({ path, header }) => (header?.isFenced ? [path] : [])));
  const known = new Map(before.flatMap(filesOfEntry).map(({ image, fingerprint }) => [image, fingerprint]));
  for (const { image, fingerprint } of now.flatMap(filesOfEntry).toReversed()) {
    const was = known.get(image);
    // What has changed for certain is found by its changes.
    if (!was || fenced.has(image) || describeChanges(was, fingerprint).length > 0) continue;
    if (describeDoubt(was, fingerprint) !== undefined) return { image, before: was, now: fingerprint };
  }
  return undefined;
}

/** The file system, size and times of every image are what they were. */
function isSameChain(before: readonly ChainEntry[], now: readonly ChainEntry[]): boolean {
  return before.length === now.length && before.every((entry, depth) => isAsItWas(entry, now[depth]));
}

function isAsItWas(before: ChainEntry, now: ChainEntry | undefined): boolean {
  if (now === undefined || before.image !== now.image) return false;
  if (describeChanges(before.fingerprint, now.fingerprint).length > 0) return false;
  if (before.dataFile === null || now.dataFile === null) return before.dataFile === now.dataFile;
  return describeChanges(before.dataFile.fingerprint, now.dataFile.fingerprint).length === 0;
}

/**
 * How many layers were put on top of what the mirror is a copy of, where that is still as it was: then only
 * they have something new. Undefined where it is not.
 */
function countLayersAbove(source: readonly ChainEntry[], present: readonly ChainEntry[]): number | undefined {
  // Of nothing that is known: where no layer has anything, the mirror may have something all the same.
  if (source.length === 0) return undefined;
  const above = present.length - source.length;
  return above >= 0 && isSameChain(source, present.slice(above)) ? above : undefined;
}

/** Whether content is still to come into it: the time of that is of the plan, and of nothing that was in sync. */
export function isPending({ chain: [top] }: MirrorEntry): boolean {
  return top !== undefined && isSameFile(top.fingerprint, NOT_MADE_YET);
}

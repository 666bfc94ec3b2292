// The fence: a private incompatible feature that makes QEMU, and every other reader that keeps to the
// specification, refuse an image (qcow2 specification, "Header", bytes 72 to 79, and "Feature name table").
//
// Invariants
// - Pure: bytes of cluster 0 in, a patch of them out. A fence takes no cluster and changes no length.
// - A patch and its inverse restore every byte. The name's entry says itself what it stands in for, in the
//   bytes after the NUL that ends its text: so a fence can be lifted where nobody remembers it.
// - Nothing moves where that can be: the name takes the place of an entry that nobody needs meanwhile. As
//   QEMU lays images out, bit and name then lie in the first sector, which is written whole or not at all.
// - The name says whose fence it is, by the id of the transaction that sets it. So two fences are never equal
//   by chance, and nobody takes another's for his own. Fences of earlier versions have no id.
// - It says too what it is for. An image that is fenced for a change may be half changed, and is read and let go of with
//   care; so is one that is merged into, where it is read by itself, or through a part of the layers that are merged: of
//   several it says how many. One of earlier versions counts as held still.
// - It is bit 62: the specification hands bits out from the lowest on, and QEMU refuses all that it does not know.
// - A header without a table of names gets one before its end mark, and the backing file name may have to move for it.
//   Where there is no room the bit stands alone, and QEMU prints its number.

import { ImgtxError } from "../../../errors/index.ts";
import { FEATURE_TYPES, type FeatureName, INCOMPATIBLE_BIT } from "./features.ts";
import { HEADER_AT, HEADER_LENGTH_V2, QCOW2_MAGIC } from "./header.ts";
import {
  EXTENSION_HEADER_BYTES,
  EXTENSION_TYPE,
  FEATURE_NAME_BYTES,
  roundUpTo8,
} from "./header-extension.ts";
import { SECTOR_BYTES } from "../../../units/index.ts";

/**
 * What an image is fenced for: to hold it still; while what it holds is neither the old nor the new; while a part of that
 * has come into it already which what is merged shows all the time; or since it was begun and is not whole yet.
 */
export type FencePurpose = "stillness" | "change" | "merging" | "filling";

/** What QEMU prints of a fenced image, with the owner after it: "Unsupported qcow2 feature(s): frozen by imgtx 7f…". */
const FENCE_NAMES: Record<FencePurpose, string> = {
  stillness: "frozen by imgtx",
  change: "change by imgtx",
  merging: "merged by imgtx",
  filling: "filled by imgtx",
};

const CHANGING = ["change", "merging", "filling"] as const;

/** What an entry has of a fence that is up for more than stillness: its note comes after the NUL. */
const CHANGER = new RegExp(
  `^(${CHANGING.map((one) => FENCE_NAMES[one]).join("|")}) ([a-z0-9]+)(?:/([1-9]\\d{0,3}))?(?:\0|$)`,
);

/** Who fenced an image that is not, or may not be, what it was or was to be. */
export interface Changer {
  readonly id: string;
  readonly purpose: (typeof CHANGING)[number];
  /** How many are merged into it. */
  readonly layers: number;
}

/** Bytes at an offset of the file, before and after a change; both are equally long. */
export interface BytePatch {
  readonly offset: number;
  readonly before: Uint8Array;
  readonly after: Uint8Array;
}

export interface FencePatch extends BytePatch {
  /** False where the header has no place for the name, and QEMU can print the number of the bit only. */
  readonly isNamed: boolean;
}

/** Cluster 0 needs this many bytes after what decoding it needs. */
export const FENCE_ROOM_BYTES = 2 * EXTENSION_HEADER_BYTES + FEATURE_NAME_BYTES;

/** Of the format: the one before has no features, and no place for a fence. */
const VERSION = 3;
const FEATURES_AT = HEADER_AT.incompatibleFeatures;
const FEATURES_END = FEATURES_AT + 8;
/** Of the big-endian mask at 72: bit 62 is the second of its first byte. */
const FENCE_MASK = 0x40;

// An entry: type, bit, and 46 bytes of text. After the text's NUL stands what the entry replaced.
const TEXT_AT = 2;
/** Of another entry: its type and bit, and its text in the rest of the note. */
const REPLACED_AN_ENTRY = 1;
const REPLACED_HEAD_BYTES = 3;
/** Leaves room for the note's shortest form, and for the names of QEMU's that an entry most often has. */
const OWNER_BYTES_MAX = 14;
/** An extension was added: where the backing file name was before (32 bits), or 0 where it did not move. */
const ADDED_AN_EXTENSION = 2;

/** Whether the first bytes of a file are those of a fenced image. */
export function isFencedHead(head: Uint8Array): boolean {
  if (head.length < FEATURES_END) return false;
  const view = viewOf(head);
  return (
    view.getUint32(HEADER_AT.magic) === QCOW2_MAGIC &&
    view.getUint32(HEADER_AT.version) >= 3 &&
    (view.getUint8(FEATURES_AT) & FENCE_MASK) !== 0
  );
}

/**
 * The patch that fences an image whose first bytes these are: those that decode as its header cluster, and
 * FENCE_ROOM_BYTES more where the cluster has them. The image is of version 3, and not fenced. The owner, a few
 * ASCII letters and digits, becomes part of the name, and so does how many layers are merged, where it is more than one.
 */
export function planFence(
  cluster: Uint8Array,
  owner: string,
  purpose: FencePurpose = "stillness",
  layers = 1,
): FencePatch {
  const own = layers > 1 ? `${owner}/${layers}` : owner;
  if (own.length > OWNER_BYTES_MAX) throw new Error(`no fence has room for the owner '${own}'`);
  const name = new TextEncoder().encode(`${FENCE_NAMES[purpose]} ${own}\0`);
  const layout = readLayout(cluster);
  const after = cluster.slice();
  after[FEATURES_AT] = (after[FEATURES_AT] ?? 0) | FENCE_MASK;
  const place =
    layout.table === undefined ? addExtension(after, layout, name) : replaceEntry(after, layout.table, name);
  const [start, end] = place ?? [FEATURES_AT, FEATURES_END];
  return { ...cut(cluster, after, start, end), isNamed: place !== undefined };
}

/** Of a table of names as much may lie after the entry that is replaced, the last one in the first sector. */
const TABLE_REST_BYTES = 65_536;

/**
 * Whether the patch does nothing but fence a header: what it says of itself leads back to the bytes before, all of them.
 * For patches that were stored: of any other nobody may write either side.
 */
export function isFencePatch({ offset, before, after }: BytePatch): boolean {
  if (offset !== FEATURES_AT && offset !== HEADER_AT.backingFileOffset) return false;
  if (before.length !== after.length || offset + after.length < FEATURES_END) return false;
  // What is not in the patch does not count; after it the extensions end.
  const cluster = new Uint8Array(offset + after.length + TABLE_REST_BYTES);
  viewOf(cluster).setUint32(0, QCOW2_MAGIC);
  viewOf(cluster).setUint32(HEADER_AT.version, VERSION);
  cluster.set(after, offset);
  if (!isFencedHead(cluster)) return false;
  const lift = offset + after.length === FEATURES_END ? liftBit(cluster) : liftUnlessCorrupt(cluster);
  return lift?.offset === offset && isEqual(lift.before, after) && isEqual(lift.after, before);
}

/** Of a fence without a name. */
function liftBit(cluster: Uint8Array): BytePatch {
  const after = cluster.slice();
  after[FEATURES_AT] = (after[FEATURES_AT] ?? 0) & ~FENCE_MASK;
  return cut(cluster, after, FEATURES_AT, FEATURES_END);
}

function liftUnlessCorrupt(cluster: Uint8Array): BytePatch | undefined {
  try {
    return planLift(cluster);
  } catch (error) {
    if (error instanceof ImgtxError || error instanceof RangeError) return undefined;
    throw error;
  }
}

function isEqual(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}

/** The patch that takes the fence off again, by what the fence says of itself. */
export function planLift(cluster: Uint8Array): BytePatch {
  const layout = readLayout(cluster);
  const after = cluster.slice();
  after[FEATURES_AT] = (after[FEATURES_AT] ?? 0) & ~FENCE_MASK;
  const [start, end] = removeName(after, layout) ?? [FEATURES_AT, FEATURES_END];
  return cut(cluster, after, start, end);
}

/** The same where the image may be half changed: its corrupt bit keeps writers away instead, until it is repaired. */
export function planLiftAsCorrupt(cluster: Uint8Array): BytePatch {
  const { offset, before, after } = planLift(cluster);
  const at = FEATURES_END - 1 - offset;
  const marked = after.slice();
  marked[at] = (marked[at] ?? 0) | (1 << INCOMPATIBLE_BIT.corrupt);
  return { offset, before, after: marked };
}

/** Who began the change that an image with these names is fenced for, and did not end it. */
export function findChanger(names: readonly FeatureName[]): Changer | undefined {
  const own = names.find(({ type, bit }) => type === "incompatible" && bit === INCOMPATIBLE_BIT.fence);
  const [, name, id, layers = "1"] = CHANGER.exec(own?.name ?? "") ?? [];
  const purpose = CHANGING.find((one) => FENCE_NAMES[one] === name);
  return id === undefined || purpose === undefined ? undefined : { id, purpose, layers: Number(layers) };
}

type Range = readonly [start: number, end: number];

interface Layout {
  /** Where the data of the feature name table lie. */
  readonly table: Range | undefined;
  /** Where the end mark of the extensions stands, or would stand. */
  readonly end: number;
  readonly backingOffset: number;
  readonly backingBytes: number;
}

function readLayout(cluster: Uint8Array): Layout {
  const view = viewOf(cluster);
  const backingOffset = Number(view.getBigUint64(HEADER_AT.backingFileOffset));
  const limit = Math.min(backingOffset || cluster.length, cluster.length);
  let table: Range | undefined;
  let at =
    view.getUint32(HEADER_AT.version) === 2 ? HEADER_LENGTH_V2 : view.getUint32(HEADER_AT.headerLength);
  while (at + EXTENSION_HEADER_BYTES <= limit) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    if (type === EXTENSION_TYPE.end) break;
    const data = at + EXTENSION_HEADER_BYTES;
    if (data + length > limit) throw changedMeanwhile(at);
    if (type === EXTENSION_TYPE.featureNames) table = [data, data + length];
    at = data + roundUpTo8(length);
  }
  return {
    table,
    end: Math.min(at, limit),
    backingOffset,
    backingBytes: view.getUint32(HEADER_AT.backingFileSize),
  };
}

interface Entry {
  readonly at: number;
  readonly type: number;
  readonly bit: number;
  readonly text: Uint8Array;
}

function readEntries(cluster: Uint8Array, [start, end]: Range): Entry[] {
  const entries: Entry[] = [];
  for (let at = start; at + FEATURE_NAME_BYTES <= end; at += FEATURE_NAME_BYTES) {
    const text = cluster.subarray(at + TEXT_AT, at + FEATURE_NAME_BYTES);
    const lengthBytes = text.findLastIndex((byte) => byte !== 0) + 1;
    entries.push({
      at,
      type: cluster[at] ?? 0,
      bit: cluster[at + 1] ?? 0,
      text: text.slice(0, lengthBytes),
    });
  }
  return entries;
}

const INCOMPATIBLE = FEATURE_TYPES.indexOf("incompatible");

/** Puts the fence's name in the place of the entry that is missed least, and says what it was. */
function replaceEntry(cluster: Uint8Array, table: Range, name: Uint8Array): Range | undefined {
  const entries = readEntries(cluster, table);
  // QEMU reads the table up to the first entry without a text: no name after it is ever printed.
  const firstEmpty = entries.findIndex(({ text }) => text.length === 0);
  const read = firstEmpty === -1 ? entries : entries.slice(0, firstEmpty + 1);
  const roomBytes = FEATURE_NAME_BYTES - TEXT_AT - name.length - REPLACED_HEAD_BYTES;
  const [chosen] = read
    .filter((entry) => entry.text.length <= roomBytes && !isSet(cluster, entry))
    .sort((a, b) => rankOf(a) - rankOf(b) || b.at - a.at);
  if (chosen === undefined) return undefined;
  const note = [REPLACED_AN_ENTRY, chosen.type, chosen.bit, ...chosen.text];
  cluster.set(encodeEntry(name, note), chosen.at);
  return [FEATURES_AT, chosen.at + FEATURE_NAME_BYTES];
}

/** The name of an incompatible feature that the image has may yet be printed beside the fence's. */
function isSet(cluster: Uint8Array, { type, bit }: Entry): boolean {
  const byte = cluster[FEATURES_END - 1 - Math.floor(bit / 8)] ?? 0;
  return type === INCOMPATIBLE && ((byte >> (bit % 8)) & 1) === 1;
}

/** Lower is better: first what lies in the first sector, then what no refusal prints. */
function rankOf({ at, type }: Entry): number {
  return (at + FEATURE_NAME_BYTES <= SECTOR_BYTES ? 0 : 2) + (type === INCOMPATIBLE ? 1 : 0);
}

/**
 * A feature name table of the fence's own in front of the end mark. A backing file name that stands in the
 * way moves after it. Undefined where there is no room, or where something lies in it.
 */
function addExtension(cluster: Uint8Array, layout: Layout, fenceName: Uint8Array): Range | undefined {
  const { end, backingOffset, backingBytes } = layout;
  const areaEnd = end + FENCE_ROOM_BYTES;
  const mustMove = backingOffset !== 0 && backingOffset < areaEnd;
  const usedEnd = mustMove ? areaEnd + backingBytes : areaEnd;
  if (usedEnd > cluster.length) return undefined;
  const name = cluster.slice(backingOffset, backingOffset + backingBytes);
  if (mustMove) cluster.fill(0, backingOffset, backingOffset + backingBytes);
  if (cluster.subarray(end, usedEnd).some((byte) => byte !== 0)) {
    if (mustMove) cluster.set(name, backingOffset);
    return undefined;
  }
  const view = viewOf(cluster);
  view.setUint32(end, EXTENSION_TYPE.featureNames);
  view.setUint32(end + 4, FEATURE_NAME_BYTES);
  const note = new Uint8Array(5);
  note[0] = ADDED_AN_EXTENSION;
  if (mustMove) viewOf(note).setUint32(1, backingOffset);
  cluster.set(encodeEntry(fenceName, note), end + EXTENSION_HEADER_BYTES);
  if (!mustMove) return [FEATURES_AT, areaEnd];
  view.setBigUint64(HEADER_AT.backingFileOffset, BigInt(areaEnd));
  cluster.set(name, areaEnd);
  return [HEADER_AT.backingFileOffset, usedEnd];
}

function encodeEntry(name: Uint8Array, note: ArrayLike<number>): Uint8Array {
  const entry = new Uint8Array(FEATURE_NAME_BYTES);
  entry[0] = INCOMPATIBLE;
  entry[1] = INCOMPATIBLE_BIT.fence;
  entry.set(name, TEXT_AT);
  entry.set(note, TEXT_AT + name.length);
  return entry;
}

function removeName(cluster: Uint8Array, layout: Layout): Range | undefined {
  const { table } = layout;
  const entries = table === undefined ? [] : readEntries(cluster, table);
  const own = entries.find(({ type, bit }) => type === INCOMPATIBLE && bit === INCOMPATIBLE_BIT.fence);
  if (table === undefined || own === undefined) return undefined;
  const note = readNote(cluster.slice(own.at, own.at + FEATURE_NAME_BYTES));
  if (note[0] === ADDED_AN_EXTENSION && entries.length === 1 && table[1] === layout.end) {
    return removeExtension(cluster, layout, own.at - EXTENSION_HEADER_BYTES, viewOf(note).getUint32(1));
  }
  // An entry without a text where the note says nothing: somebody else has written the table anew.
  cluster.fill(0, own.at + TEXT_AT, own.at + FEATURE_NAME_BYTES);
  if (note[0] === REPLACED_AN_ENTRY) {
    cluster.set(note.subarray(1, 3), own.at);
    cluster.set(note.subarray(3), own.at + TEXT_AT);
  }
  return [FEATURES_AT, own.at + FEATURE_NAME_BYTES];
}

/** What stands after the NUL of an entry's text, and zeros after that. */
function readNote(entry: Uint8Array): Uint8Array {
  const note = new Uint8Array(FEATURE_NAME_BYTES);
  const nameEnd = entry.indexOf(0, TEXT_AT);
  if (nameEnd !== -1) note.set(entry.subarray(nameEnd + 1));
  return note;
}

function removeExtension(cluster: Uint8Array, layout: Layout, start: number, nameWasAt: number): Range {
  const { backingOffset, backingBytes } = layout;
  const areaEnd = start + FENCE_ROOM_BYTES;
  const hasMoved = nameWasAt >= start && nameWasAt < areaEnd && backingOffset === areaEnd;
  const name = cluster.slice(backingOffset, backingOffset + backingBytes);
  cluster.fill(0, start, hasMoved ? areaEnd + backingBytes : areaEnd);
  if (!hasMoved) return [FEATURES_AT, areaEnd];
  cluster.set(name, nameWasAt);
  viewOf(cluster).setBigUint64(HEADER_AT.backingFileOffset, BigInt(nameWasAt));
  return [HEADER_AT.backingFileOffset, areaEnd + backingBytes];
}

function cut(before: Uint8Array, after: Uint8Array, start: number, end: number): BytePatch {
  return { offset: start, before: before.slice(start, end), after: after.slice(start, end) };
}

function changedMeanwhile(offset: number): ImgtxError {
  return new ImgtxError("E_CORRUPT", "Header extension too large: it does not fit the header cluster", {
    field: "extension",
    offset,
  });
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

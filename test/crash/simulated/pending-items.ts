// What of a log is not durable yet, kept up to date call by call.
//
// The model (ALICE, CrashMonkey): a write to a file is pending until that file is flushed, a name until
// its folder is. A write tears at sector boundaries, and the file may have grown before its data came.
// What a failed flush should have persisted is lost to every later flush: the kernel has marked the
// pages clean. (Names of a failed folder flush stay pending: they are in the file system's own journal.
// Where that is lost, the whole file system goes read-only.) A rename is one item; between two folders it is durable when the source folder is, and
// once the target folder is durable only the old name is still in question. A symbolic link's target
// cannot be flushed at all, so until the end of the log all of them may be missing together.

import type { ContentChange, FlushChange, NameChange, WriteChange } from "./disk-log.ts";
import { describeChange } from "./disk-log.ts";
import type { Slot } from "./disk-tree.ts";

const SECTOR_BYTES = 512;

/** What can reach the disk by itself. */
export interface PendingItem {
  readonly label: string;
  /** Whether it did; set while a state is built. */
  chosen: boolean;
}

/** A part of a write: bytes from start to end, or only the room for them. */
export interface WritePart {
  readonly item: PendingItem;
  readonly kind: "room" | "bytes";
  readonly start: number;
  readonly end: number;
}

export interface ContentOp {
  readonly change: ContentChange;
  /** For a write its parts; for the others one item. */
  readonly parts: readonly WritePart[];
  readonly item: PendingItem | undefined;
  durable: boolean;
  lost: boolean;
}

export interface SlotOp {
  readonly slot: Slot;
  readonly change: NameChange;
  readonly item: PendingItem;
  readonly crossesFolders: boolean;
  durable: boolean;
}

export function contentOp(change: ContentChange): ContentOp {
  const label = describeChange(change);
  if (change.kind !== "write") {
    return { change, parts: [], item: { label, chosen: false }, durable: false, lost: false };
  }
  return { change, parts: partsOfWrite(change, label), item: undefined, durable: false, lost: false };
}

function partsOfWrite(change: WriteChange, label: string): WritePart[] {
  const length = change.bytes.length;
  const part = (kind: WritePart["kind"], start: number, end: number, note: string): WritePart => ({
    item: { label: `${label}${note}`, chosen: false },
    kind,
    start,
    end,
  });
  const split = tearAt(change.offset, length);
  const bytes =
    split === undefined
      ? [part("bytes", 0, length, "")]
      : [part("bytes", 0, split, " (first part)"), part("bytes", split, length, " (rest)")];
  return change.grows ? [part("room", 0, length, " (size only)"), ...bytes] : bytes;
}

/** Where a fence has its bit, and what none of the other writes to a header is long enough for. */
const FEATURES_AT = 72;
const LONGER_THAN_FIELDS_BYTES = 32;

/**
 * The sector boundary nearest to the middle of a write, if it has one. A fence is torn amid its sector too: the journal is
 * to have what mends it.
 */
function tearAt(offset: number, length: number): number | undefined {
  const first = SECTOR_BYTES - (offset % SECTOR_BYTES);
  if (first >= length) {
    const isFence =
      offset > 0 && offset <= FEATURES_AT && length > FEATURES_AT + LONGER_THAN_FIELDS_BYTES - offset;
    return isFence ? Math.floor(length / 2) : undefined;
  }
  const boundaries = Math.floor((length - 1 - first) / SECTOR_BYTES) + 1;
  return first + Math.floor(boundaries / 2) * SECTOR_BYTES < length
    ? first + Math.floor(boundaries / 2) * SECTOR_BYTES
    : first;
}

export function slotOps(change: NameChange): SlotOp[] {
  const item: PendingItem = { label: describeChange(change), chosen: false };
  const crossesFolders = new Set(change.slots.map((slot) => slot.folder)).size > 1;
  return change.slots.map((slot) => ({ slot, change, item, crossesFolders, durable: false }));
}

/** Notes a flush of a file. True if anything became durable. */
export function flushContent(ops: readonly ContentOp[], change: FlushChange): void {
  for (const op of ops) {
    if (op.lost || op.durable) continue;
    if (change.outcome === "persists") op.durable = true;
    else op.lost = true;
  }
}

/** Notes a flush of a folder, on all slot operations of the disk: a rename may concern two folders. */
export function flushSlots(all: Iterable<readonly SlotOp[]>, change: FlushChange): void {
  if (change.outcome !== "persists") return;
  const lists = [...all];
  const withSource = new Set<NameChange>();
  for (const op of lists.flat()) {
    if (op.slot.folder !== change.inode || op.durable) continue;
    op.durable = true;
    if (op.crossesFolders && op.slot.inode === null) withSource.add(op.change);
  }
  for (const op of lists.flat()) if (withSource.has(op.change)) op.durable = true;
}

/** The items of an operation that may still be missing after a power loss. */
export function openItems(op: ContentOp): PendingItem[] {
  if (op.durable) return [];
  return op.item ? [op.item] : op.parts.map((part) => part.item);
}

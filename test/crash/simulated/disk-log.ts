// What a simulated disk was told, in order: the calls that change something. A crash is a prefix of
// this log, together with a choice of what of it reached the disk.

import type { Content } from "./content.ts";
import type { Inode, Slot, Tree } from "./disk-tree.ts";

interface Common {
  /** For messages. */
  readonly path: string;
  readonly atNs: bigint;
}

export interface WriteChange extends Common {
  readonly kind: "write";
  readonly inode: number;
  readonly offset: number;
  readonly bytes: Uint8Array;
  /** Whether the file grew by it. */
  readonly grows: boolean;
}

interface TruncateChange extends Common {
  readonly kind: "truncate";
  readonly inode: number;
  readonly sizeBytes: number;
}

interface PunchChange extends Common {
  readonly kind: "punch";
  readonly inode: number;
  readonly start: number;
  readonly lengthBytes: number;
}

/** Sets the time of modification, to atNs. */
interface TimeChange extends Common {
  readonly kind: "time";
  readonly inode: number;
}

export type ContentChange = WriteChange | TruncateChange | PunchChange | TimeChange;

/** A folder operation. It takes place as a whole or not at all. */
export interface NameChange extends Common {
  readonly kind: "name";
  readonly operation: "create" | "make folder" | "make symlink" | "rename" | "unlink" | "remove folder";
  readonly slots: readonly Slot[];
  /** The inode that comes into being with it. */
  readonly born: Inode | undefined;
}

export interface FlushChange extends Common {
  readonly kind: "flush";
  readonly inode: number;
  readonly of: "file" | "folder";
  readonly purpose: string;
  /** "nothing" is a mutant's flush: it returns success and persists nothing. */
  readonly outcome: "persists" | "failed" | "nothing";
}

export type Change = ContentChange | NameChange | FlushChange;

export function applyContentChange(content: Content, change: ContentChange): void {
  switch (change.kind) {
    case "write":
      content.write(change.bytes, change.offset);
      return;
    case "truncate":
      content.truncate(change.sizeBytes);
      return;
    case "punch":
      content.punch(change.start, change.lengthBytes);
      return;
    case "time":
      return;
  }
}

/** Brings a tree forward by one call, as running programs see it: the page cache. */
export function applyChange(tree: Tree, change: Change): void {
  if (change.kind === "flush") return;
  if (change.kind === "name") {
    if (change.born) tree.share(change.born);
    for (const slot of change.slots) tree.assign(slot, change.atNs);
    const moved =
      change.operation === "rename" ? change.slots.find(({ inode }) => inode !== null)?.inode : null;
    if (moved !== null && moved !== undefined) tree.touch(moved, change.atNs);
    return;
  }
  tree.changeContent(change.inode, change.atNs, (content) => applyContentChange(content, change));
}

/** One line for a report. */
export function describeChange(change: Change): string {
  switch (change.kind) {
    case "write":
      return `write ${change.path} +${change.bytes.length} at ${change.offset}`;
    case "truncate":
      return `truncate ${change.path} to ${change.sizeBytes}`;
    case "punch":
      return `punch ${change.path} ${change.lengthBytes} at ${change.start}`;
    case "time":
      return `set the time of ${change.path}`;
    case "name":
      return `${change.operation} ${change.path}`;
    case "flush": {
      const outcome = change.outcome === "persists" ? "" : ` (${change.outcome})`;
      return `flush ${change.of} ${change.path} "${change.purpose}"${outcome}`;
    }
  }
}

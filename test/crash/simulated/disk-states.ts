// The states that a disk can be in after the power fails at some point of a log.
//
// Invariants
// - The durable tree has every flushed item; a state is that tree plus a choice of the pending items,
//   applied in the order of the log.
// - States share everything that they have in common: one costs two maps, not a copy of the disk.

import { seededRandom } from "../../helpers/random.ts";
import { Content } from "./content.ts";
import { applyContentChange, type Change, type FlushChange } from "./disk-log.ts";
import { Tree, type Inode } from "./disk-tree.ts";
import {
  contentOp,
  flushContent,
  flushSlots,
  openItems,
  slotOps,
  type ContentOp,
  type PendingItem,
  type SlotOp,
  type WritePart,
} from "./pending-items.ts";
import { selections, type SelectionLimits } from "./selections.ts";

export interface DiskState {
  readonly tree: Tree;
  /** Equal for equal trees, times included. */
  readonly key: string;
  /** What of the pending items is missing from the disk, for reports. */
  readonly missing: readonly string[];
  readonly pending: number;
}

const GARBAGE = 0xa5;

export class DiskStates {
  readonly #durable: Tree;
  readonly #files = new Map<number, ContentOp[]>();
  readonly #folders = new Map<number, SlotOp[]>();
  /** Symbolic links made in this log, and the folders that ever named one. */
  readonly #links = new Set<number>();
  readonly #linkFolders = new Set<number>();
  readonly #linkItem: PendingItem = { label: "targets of symbolic links", chosen: true };
  /** Pending items in the order of the log. */
  #order: (ContentOp | SlotOp)[] = [];
  #records = new Map<number, Map<string, Inode>>();

  constructor(durable: Tree) {
    this.#durable = durable.fork();
  }

  /** Takes in one more call of the log. */
  advance(change: Change): void {
    switch (change.kind) {
      case "write":
      case "truncate":
      case "punch":
      case "time": {
        const op = contentOp(change);
        listOf(this.#files, change.inode).push(op);
        this.#order.push(op);
        this.#records.delete(change.inode);
        return;
      }
      case "name": {
        if (change.born) this.#durable.share(change.born);
        if (change.born?.kind === "symlink") this.#links.add(change.born.number);
        for (const op of slotOps(change)) {
          listOf(this.#folders, op.slot.folder).push(op);
          this.#order.push(op);
          this.#records.delete(op.slot.folder);
          if (op.slot.inode !== null && this.#links.has(op.slot.inode)) {
            this.#linkFolders.add(op.slot.folder);
          }
        }
        return;
      }
      case "flush":
        this.#flush(change);
        return;
    }
  }

  #flush(change: FlushChange): void {
    if (change.outcome === "nothing") return;
    if (change.of === "file") flushContent(listOf(this.#files, change.inode), change);
    else flushSlots(this.#folders.values(), change);
    this.#fold();
    this.#order = this.#order.filter((op) => !op.durable);
    this.#records.clear();
  }

  /** Durable operations with nothing pending before them become part of the durable tree. */
  #fold(): void {
    for (const [inode, ops] of this.#files) {
      while (ops[0]?.durable) {
        const { change } = ops.shift()!;
        this.#durable.changeContent(inode, change.atNs, (content) => applyContentChange(content, change));
      }
    }
    for (const ops of this.#folders.values()) {
      while (ops[0]?.durable) {
        const { slot, change } = ops.shift()!;
        this.#durable.assign(slot, change.atNs);
      }
    }
  }

  /** What may be missing after a power loss now. */
  items(): PendingItem[] {
    const items = new Set<PendingItem>();
    for (const op of this.#order) {
      for (const item of "slot" in op ? [op.item] : openItems(op)) items.add(item);
    }
    if (this.#links.size > 0) items.add(this.#linkItem);
    return [...items];
  }

  /** The states after a power loss now, each once. Deterministic for a seed. */
  *states(limits: SelectionLimits, seed: number): Generator<DiskState> {
    const items = this.items();
    const random = seededRandom(seed);
    const seen = new Set<string>();
    for (const selection of selections(items.length, limits, random)) {
      for (const [index, item] of items.entries()) item.chosen = selection[index] === 1;
      for (const garbage of random.below(8) === 0 ? [false, true] : [false]) {
        const tree = this.#build(garbage);
        const key = tree.key(true);
        if (seen.has(key)) continue;
        seen.add(key);
        const missing = items.filter((_, index) => selection[index] !== 1).map((item) => item.label);
        if (garbage) missing.push("(room without data holds garbage)");
        yield { tree: tree.rebooted(), key, missing, pending: items.length };
      }
    }
  }

  #build(garbage: boolean): Tree {
    const tree = this.#durable.fork();
    for (const [inode, ops] of this.#files) {
      if (ops.length === 0) continue;
      const bits = ops.flatMap(openItems).map((item) => (item.chosen ? "1" : "0"));
      tree.share(
        this.#record(inode, `${garbage}${bits.join("")}`, () => this.#fileRecord(inode, ops, garbage)),
      );
    }
    const linksLost = this.#links.size > 0 && !this.#linkItem.chosen;
    for (const [inode, ops] of this.#folders) {
      if (ops.length === 0 && !(linksLost && this.#linkFolders.has(inode))) continue;
      const bits = ops.map((op) => (op.durable || op.item.chosen ? "1" : "0"));
      tree.share(
        this.#record(inode, `${linksLost}${bits.join("")}`, () => this.#folderRecord(inode, ops, linksLost)),
      );
    }
    return tree;
  }

  #record(inode: number, bits: string, make: () => Inode): Inode {
    let records = this.#records.get(inode);
    if (!records) this.#records.set(inode, (records = new Map()));
    let record = records.get(bits);
    if (!record) records.set(bits, (record = make()));
    return record;
  }

  #fileRecord(inode: number, ops: readonly ContentOp[], garbage: boolean): Inode {
    const record = this.#durable.get(inode);
    const content = record.content.fork();
    let modifiedNs = record.modifiedNs;
    for (const op of ops) {
      const parts = op.parts.filter((part) => op.durable || part.item.chosen);
      if (op.durable || op.item?.chosen) applyContentChange(content, op.change);
      else if (op.change.kind === "write") applyParts(content, op.change, parts, garbage);
      if (op.durable || op.item?.chosen || parts.length > 0) modifiedNs = op.change.atNs;
    }
    return { ...record, content, modifiedNs };
  }

  #folderRecord(inode: number, ops: readonly SlotOp[], linksLost: boolean): Inode {
    const record = this.#durable.get(inode);
    const names = new Map(record.names);
    for (const op of ops) {
      if (!op.durable && !op.item.chosen) continue;
      if (op.slot.inode === null) names.delete(op.slot.name);
      else names.set(op.slot.name, op.slot.inode);
    }
    if (linksLost) for (const [name, target] of names) if (this.#links.has(target)) names.delete(name);
    return { ...record, names };
  }
}

function applyParts(
  content: Content,
  change: { offset: number; bytes: Uint8Array },
  parts: readonly WritePart[],
  garbage: boolean,
): void {
  for (const part of parts) {
    const start = change.offset + part.start;
    const end = change.offset + part.end;
    if (part.kind === "bytes") content.write(change.bytes.subarray(part.start, part.end), start);
    else if (content.sizeBytes < end) {
      const from = Math.max(start, content.sizeBytes);
      if (garbage) content.write(new Uint8Array(end - from).fill(GARBAGE), from);
      else content.truncate(end);
    }
  }
}

function listOf<T>(map: Map<number, T[]>, key: number): T[] {
  const present = map.get(key);
  if (present) return present;
  const fresh: T[] = [];
  map.set(key, fresh);
  return fresh;
}

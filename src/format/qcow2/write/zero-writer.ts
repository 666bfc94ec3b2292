// Zeros and discards: changes of entries alone, as QEMU makes them.
//
// Invariants
// - Only whole clusters, or subclusters, are changed here; what is left over is written as data by the caller.
// - What lets go of a cluster says so in its entry first; the cluster is given away when that is durable.
// - The caller holds the guest clusters, as for data.
// - Zeros written with leave to unmap change nothing where nothing is allocated and nothing is below; QEMU marks such
//   clusters as zero, and makes L2 tables for that.

import { type GuestOffset, guestOffset, offsetBy } from "../../../units/index.ts";
import type { L2Entry } from "../codec/l2-table.ts";
import { measureL2Entry } from "../codec/l2-table.ts";
import type { L2Table } from "./l2-tables.ts";
import { type EntryLayout, maskOf, readEntry, writeEntry } from "./plan-write.ts";
import type { WriterLayer } from "./writer-layer.ts";
import type { WriterState } from "./writer-state.ts";

interface Change {
  readonly entry: L2Entry;
  /** Whether the old entry's cluster is let go. */
  readonly frees: boolean;
}

/** What an entry becomes; undefined: it stays as it is, `data`: zeros have to be written instead. */
type ChangeEntry = (old: L2Entry, from: number, to: number) => Change | "data" | undefined;

const ALL = 0xffffffff;

export class ZeroWriter {
  readonly #state: WriterState;
  readonly #layer: WriterLayer;
  readonly #layout: EntryLayout;
  readonly #hasBacking: boolean;

  constructor(state: WriterState, layer: WriterLayer, layout: EntryLayout, hasBacking: boolean) {
    this.#state = state;
    this.#layer = layer;
    this.#layout = layout;
    this.#hasBacking = hasBacking;
  }

  /**
   * Units from start to end read as zeros afterwards; both lie on units, or end at the end of the disk. Returns
   * guest ranges that have to be written as data after all.
   */
  async zero(start: GuestOffset, end: GuestOffset, mayUnmap: boolean): Promise<[GuestOffset, GuestOffset][]> {
    // Where nothing is below, what has no cluster reads as zeros already.
    const skips = !this.#hasBacking && mayUnmap;
    return this.#changeEntries(start, end, skips, false, (old, from, to) =>
      this.#layout.hasExtendedL2
        ? this.#zeroExtended(old, from, to, mayUnmap, skips)
        : this.#zeroPlain(old, mayUnmap, skips),
    );
  }

  /** Clusters from start to end are let go. They read as zeros afterwards; in version 2, as what is below. */
  async discard(start: GuestOffset, end: GuestOffset): Promise<void> {
    const { version, hasExtendedL2 } = this.#layout;
    await this.#changeEntries(start, end, !this.#hasBacking, true, (old) => {
      const isAllocated =
        old.kind !== "unallocated" && !(old.kind === "zero" && old.hostOffset === undefined);
      if (!this.#hasBacking && !isAllocated) return undefined;
      if (old.kind === "zero" && old.hostOffset === undefined) return undefined;
      if (hasExtendedL2) return { entry: { kind: "unallocated", zeroBits: ALL }, frees: true };
      return { entry: version === 3 ? PLAIN_ZERO : UNALLOCATED, frees: true };
    });
  }

  #zeroPlain(old: L2Entry, mayUnmap: boolean, skips: boolean): Change | undefined {
    if (old.kind === "unallocated") return skips ? undefined : { entry: PLAIN_ZERO, frees: false };
    if (old.kind === "compressed") return { entry: PLAIN_ZERO, frees: true };
    if (old.hostOffset === undefined) return undefined;
    if (mayUnmap) return { entry: PLAIN_ZERO, frees: true };
    if (old.kind === "zero") return undefined;
    const { hostOffset, isCopied } = old;
    return { entry: { kind: "zero", hostOffset, isCopied }, frees: false };
  }

  #zeroExtended(
    old: L2Entry,
    from: number,
    to: number,
    mayUnmap: boolean,
    skips: boolean,
  ): Change | "data" | undefined {
    const touched = maskOf(from, to, this.#layout);
    if (old.kind === "compressed") {
      return touched === ALL ? { entry: { kind: "unallocated", zeroBits: ALL }, frees: true } : "data";
    }
    if (old.kind === "zero") return undefined;
    if (old.kind === "unallocated") {
      if (skips && (old.zeroBits & touched) === 0) return undefined;
      return { entry: { kind: "unallocated", zeroBits: (old.zeroBits | touched) >>> 0 }, frees: false };
    }
    if (touched === ALL && mayUnmap) return { entry: { kind: "unallocated", zeroBits: ALL }, frees: true };
    const allocBits = (old.allocBits & ~touched) >>> 0;
    return { entry: { ...old, allocBits, zeroBits: (old.zeroBits | touched) >>> 0 }, frees: false };
  }

  /** skipsHoles: parts without a table are left alone. */
  async #changeEntries(
    start: GuestOffset,
    end: GuestOffset,
    skipsHoles: boolean,
    punches: boolean,
    change: ChangeEntry,
  ): Promise<[GuestOffset, GuestOffset][]> {
    const { tables } = this.#state;
    const asData: [GuestOffset, GuestOffset][] = [];
    for (let at = start; at < end; ) {
      const l1Index = Math.floor(at / tables.spanBytes);
      const from = at;
      const to = guestOffset(Math.min(end, (l1Index + 1) * tables.spanBytes));
      await this.#state.turnstile.run(async () => {
        await this.#state.begin();
        if (skipsHoles && tables.place(l1Index) === undefined) return;
        const table = await this.#state.requireTable(l1Index);
        this.#changeInTable(table, from, to, punches, change, asData);
      });
      at = to;
    }
    return asData;
  }

  #changeInTable(
    table: L2Table,
    start: GuestOffset,
    end: GuestOffset,
    punches: boolean,
    change: ChangeEntry,
    asData: [GuestOffset, GuestOffset][],
  ): void {
    const { clusterBytes, tables } = this.#state;
    const entryBytes = measureL2Entry(this.#layout);
    const tableStart = guestOffset(table.l1Index * tables.spanBytes);
    const last = Math.ceil((end - tableStart) / clusterBytes);
    for (let index = Math.floor((start - tableStart) / clusterBytes); index < last; index += 1) {
      const clusterStart = offsetBy(tableStart, index * clusterBytes);
      const from = Math.max(start - clusterStart, 0);
      const to = Math.min(end - clusterStart, clusterBytes);
      const old = readEntry(table, index, this.#layout);
      const changed = change(old, from, to);
      if (changed === undefined) continue;
      if (changed === "data") {
        asData.push([offsetBy(clusterStart, from), offsetBy(clusterStart, to)]);
        continue;
      }
      writeEntry(table, index, changed.entry, this.#layout);
      tables.mark(table, index * entryBytes, (index + 1) * entryBytes);
      if (changed.frees) this.#state.free(old, punches);
      if (old.kind === "compressed") this.#layer.forgetCompressed();
    }
  }
}

const PLAIN_ZERO: L2Entry = { kind: "zero", hostOffset: undefined, isCopied: false };
const UNALLOCATED: L2Entry = { kind: "unallocated", zeroBits: 0 };

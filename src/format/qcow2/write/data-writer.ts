// Guest data into a qcow2 image: clusters are found or taken, the data is written, and only then do the tables
// point to it.
//
// Invariants
// - Tables change inside the turnstile; data is written outside of it, several pieces at once.
// - What a cluster had before stays readable until its entry points elsewhere, so that it can be copied along.
// - The caller holds the guest clusters (RangeLocks): nobody else changes their entries meanwhile.

import {
  clusterAt,
  guestOffset,
  type GuestOffset,
  type HostOffset,
  nextUnit,
  offsetBy,
  startOf,
} from "../../../units/index.ts";
import type { FileRange } from "../../image.ts";
import { readBytes } from "../../read-header.ts";
import type { LayerReader } from "../../read/layer-reader.ts";
import { forEachLimited } from "../../read/limited.ts";
import { measureL2Entry } from "../codec/l2-table.ts";
import {
  afterWrite,
  type EntryLayout,
  planSegments,
  readEntry,
  type WriteSegment,
  writeDataEntry,
  writeEntry,
  writeFirstEntries,
} from "./plan-write.ts";
import { isZero } from "../../read/zero-blocks.ts";
import type { L2Table } from "./l2-tables.ts";
import type { WriterLayer } from "./writer-layer.ts";
import type { WriterState } from "./writer-state.ts";

const WRITES_AT_ONCE = 8;
/** Up to this, what is copied along goes out in one write with the data. */
const JOINED_BYTES_MAX = 256 * 1024;

/** What goes into one table. */
interface Part {
  readonly l1Index: number;
  readonly start: GuestOffset;
  readonly source: Uint8Array | FileRange;
}

/** A segment that has its place. */
interface PlacedSegment extends WriteSegment {
  readonly part: Part;
  readonly place: HostOffset;
  /** Whether nothing was ever written at the place, so that it reads as zeros. */
  readonly isFresh: boolean;
}

/** Fills target with what the guest sees; past the end of the disk that is zeros. */
export type ReadGuest = (target: Uint8Array, offset: GuestOffset) => Promise<void>;

export class DataWriter {
  readonly #state: WriterState;
  readonly #layer: WriterLayer;
  readonly #layout: EntryLayout;
  readonly #readGuest: ReadGuest;

  constructor(state: WriterState, layer: WriterLayer, layout: EntryLayout, readGuest: ReadGuest) {
    this.#state = state;
    this.#layer = layer;
    this.#layout = layout;
    this.#readGuest = readGuest;
  }

  /** What is in memory gets all of its places at once: so writes lie in the file in the order of calling. */
  async write(source: Uint8Array | FileRange, offset: GuestOffset): Promise<void> {
    const parts = this.#cutAtTables(source, offset);
    // A range of a file may be as long as the disk.
    if ("file" in source) for (const part of parts) await this.#writeParts([part]);
    else await this.#writeParts(parts);
  }

  #cutAtTables(source: Uint8Array | FileRange, offset: GuestOffset): Part[] {
    const { spanBytes } = this.#state.tables;
    const end = offset + lengthOf(source);
    const parts: Part[] = [];
    for (let start = offset; start < end; ) {
      const stop = guestOffset(Math.min(end, nextUnit(start, spanBytes)));
      const l1Index = Math.floor(start / spanBytes);
      parts.push({ l1Index, start, source: cut(source, start - offset, stop - offset) });
      start = stop;
    }
    return parts;
  }

  async #writeParts(parts: readonly Part[]): Promise<void> {
    const { turnstile } = this.#state;
    const segments = await turnstile.run(() => this.#placeAll(parts));
    try {
      await forEachLimited(segments, WRITES_AT_ONCE, async (segment) => {
        const { start, source } = segment.part;
        const piece = cut(source, segment.start - start, segment.end - start);
        await this.#writeSegment(segment, piece);
      });
    } catch (error) {
      await turnstile.run(() => this.#giveBack(segments));
      throw error;
    }
    const changed = segments.filter(({ kind }) => kind !== "inPlace");
    if (changed.length > 0) await turnstile.run(() => this.#link(changed));
  }

  async #placeAll(parts: readonly Part[]): Promise<PlacedSegment[]> {
    const placed: PlacedSegment[] = [];
    try {
      for (const part of parts) await this.#place(part, placed);
    } catch (error) {
      await this.#giveBack(placed);
      throw error;
    }
    return placed;
  }

  /** Adds its segments to those that are placed. */
  async #place(part: Part, placed: PlacedSegment[]): Promise<void> {
    const state = this.#state;
    const { l1Index, start } = part;
    await state.begin();
    const table = await state.requireTable(l1Index);
    const tableStart = guestOffset(l1Index * state.tables.spanBytes);
    const end = offsetBy(start, lengthOf(part.source));
    for (const segment of planSegments(table, tableStart, start, end, this.#layout)) {
      const lengthBytes = segment.count * state.clusterBytes;
      if (segment.hostOffset === undefined) {
        const fresh = state.highWater;
        const place = startOf(await state.allocate(segment.count), state.clusterBytes);
        placed.push({ ...segment, part, place, isFresh: state.isFresh(place, fresh) });
      } else {
        if (!this.#layout.hasExternalDataFile) {
          state.judgePlace(segment.hostOffset, lengthBytes);
        }
        placed.push({ ...segment, part, place: segment.hostOffset, isFresh: false });
      }
    }
  }

  async #giveBack(segments: readonly PlacedSegment[]): Promise<void> {
    for (const { kind, place, count } of segments) {
      if (kind === "new") await this.#state.giveBack(clusterAt(place, this.#state.clusterBytes), count);
    }
  }

  async #writeSegment(segment: PlacedSegment, source: Uint8Array | FileRange): Promise<void> {
    const { from, to, start, end } = segment;
    const { dataFile } = this.#state.files;
    const segmentStart =
      segment.part.l1Index * this.#state.tables.spanBytes + segment.index * this.#state.clusterBytes;
    const shift = segment.place - segmentStart;
    if (from === start && to === end && "file" in source) {
      await dataFile.copyRangeFrom(source.file, source.start, start + shift, source.lengthBytes);
      return;
    }
    const piece = await bytesOf(source);
    if (from === start && to === end) {
      await dataFile.write(piece, start + shift);
      return;
    }
    const head = await this.#readOld(from, start, segment.headIsZero);
    const tail = await this.#readOld(end, to, segment.tailIsZero);
    // In a place that reads as zeros, zeros need not be written.
    const keepsHead = !segment.isFresh || !(segment.headIsZero || isZero(head));
    const keepsTail = !segment.isFresh || !(segment.tailIsZero || isZero(tail));
    if (keepsHead && keepsTail && to - from <= JOINED_BYTES_MAX) {
      await dataFile.write(Buffer.concat([head, piece, tail]), from + shift);
      return;
    }
    if (keepsHead && head.length > 0) await dataFile.write(head, from + shift);
    await dataFile.write(piece, start + shift);
    if (keepsTail && tail.length > 0) await dataFile.write(tail, end + shift);
  }

  async #readOld(from: GuestOffset, to: GuestOffset, isKnownZero: boolean): Promise<Uint8Array> {
    const bytes = new Uint8Array(to - from);
    if (bytes.length > 0 && !isKnownZero) await this.#readGuest(bytes, from);
    return bytes;
  }

  async #link(segments: readonly PlacedSegment[]): Promise<void> {
    const { tables } = this.#state;
    const entryBytes = measureL2Entry(this.#layout);
    for (const { part, kind, index, count, place, from, to } of segments) {
      const table = await this.#state.requireTable(part.l1Index);
      this.#linkSegment(table, { kind, index, count, place, from, to });
      tables.mark(table, index * entryBytes, (index + count) * entryBytes);
    }
  }

  #linkSegment(
    table: L2Table,
    segment: Pick<PlacedSegment, "kind" | "index" | "count" | "place" | "from" | "to">,
  ): void {
    const { kind, index, count, place, from, to } = segment;
    const { clusterBytes, tables } = this.#state;
    const segmentStart = table.l1Index * tables.spanBytes + index * clusterBytes;
    const isWhole = from <= segmentStart && to >= segmentStart + count * clusterBytes;
    const written = isWhole ? writeFirstEntries(table, index, count, place, this.#layout) : 0;
    for (let number = written; number < count; number += 1) {
      const clusterStart = segmentStart + number * clusterBytes;
      const old = readEntry(table, index + number, this.#layout);
      const clusterPlace = offsetBy(place, number * clusterBytes);
      if (from <= clusterStart && to >= clusterStart + clusterBytes) {
        writeDataEntry(table, index + number, clusterPlace, this.#layout);
      } else {
        const first = Math.max(from - clusterStart, 0);
        const last = Math.min(to - clusterStart, clusterBytes);
        const entry = afterWrite(old, clusterPlace, kind === "keep", first, last, this.#layout);
        writeEntry(table, index + number, entry, this.#layout);
      }
      if (old.kind === "unallocated") continue;
      if (kind === "new") this.#state.free(old, false);
      if (old.kind === "compressed") this.#layer.forgetCompressed();
    }
  }
}

function lengthOf(source: Uint8Array | FileRange): number {
  return "file" in source ? source.lengthBytes : source.length;
}

function cut(source: Uint8Array | FileRange, from: number, to: number): Uint8Array | FileRange {
  if (!("file" in source)) return source.subarray(from, to);
  return { file: source.file, start: source.start + from, lengthBytes: to - from };
}

async function bytesOf(source: Uint8Array | FileRange): Promise<Uint8Array> {
  return "file" in source ? await readBytes(source.file, source.start, source.lengthBytes) : source;
}

/** A reader of what the guest sees in these layers, as a writer needs it. */
export function clippedReader(
  read: (target: Uint8Array, offset: GuestOffset) => Promise<void>,
  top: Pick<LayerReader, "virtualSizeBytes">,
): ReadGuest {
  return async (target, offset) => {
    const inside = Math.max(0, Math.min(target.length, top.virtualSizeBytes - offset));
    if (inside > 0) await read(target.subarray(0, inside), offset);
    target.fill(0, inside);
  };
}

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

/** A segment that has its place. */
interface PlacedSegment extends WriteSegment {
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

  async write(source: Uint8Array | FileRange, offset: GuestOffset): Promise<void> {
    const { spanBytes } = this.#state.tables;
    const end = offset + lengthOf(source);
    for (let start = offset; start < end; ) {
      const stop = Math.min(end, nextUnit(start, spanBytes));
      await this.#writeInTable(cut(source, start - offset, stop - offset), start);
      start = guestOffset(stop);
    }
  }

  async #writeInTable(source: Uint8Array | FileRange, start: GuestOffset): Promise<void> {
    const l1Index = Math.floor(start / this.#state.tables.spanBytes);
    const segments = await this.#state.turnstile.run(() => this.#place(l1Index, start, lengthOf(source)));
    try {
      await forEachLimited(segments, WRITES_AT_ONCE, async (segment) => {
        const piece = cut(source, segment.start - start, segment.end - start);
        await this.#writeSegment(segment, piece, l1Index);
      });
    } catch (error) {
      await this.#state.turnstile.run(() => this.#giveBack(segments));
      throw error;
    }
    if (segments.every(({ kind }) => kind === "inPlace")) return;
    await this.#state.turnstile.run(() => this.#link(l1Index, segments));
  }

  async #place(l1Index: number, start: GuestOffset, lengthBytes: number): Promise<PlacedSegment[]> {
    const state = this.#state;
    await state.begin();
    const table = await state.requireTable(l1Index);
    const tableStart = guestOffset(l1Index * state.tables.spanBytes);
    const placed: PlacedSegment[] = [];
    try {
      for (const segment of planSegments(
        table,
        tableStart,
        start,
        offsetBy(start, lengthBytes),
        this.#layout,
      )) {
        const lengthBytes = segment.count * state.clusterBytes;
        if (segment.hostOffset === undefined) {
          const fresh = state.highWater;
          const place = startOf(await state.allocate(segment.count), state.clusterBytes);
          placed.push({ ...segment, place, isFresh: state.isFresh(place, fresh) });
        } else {
          if (!this.#layout.hasExternalDataFile) {
            state.judgePlace(segment.hostOffset, lengthBytes);
          }
          placed.push({ ...segment, place: segment.hostOffset, isFresh: false });
        }
      }
    } catch (error) {
      await this.#giveBack(placed);
      throw error;
    }
    return placed;
  }

  async #giveBack(segments: readonly PlacedSegment[]): Promise<void> {
    for (const { kind, place, count } of segments) {
      if (kind === "new") await this.#state.giveBack(clusterAt(place, this.#state.clusterBytes), count);
    }
  }

  async #writeSegment(
    segment: PlacedSegment,
    source: Uint8Array | FileRange,
    l1Index: number,
  ): Promise<void> {
    const { from, to, start, end } = segment;
    const { dataFile } = this.#state.files;
    const segmentStart = l1Index * this.#state.tables.spanBytes + segment.index * this.#state.clusterBytes;
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

  async #link(l1Index: number, segments: readonly PlacedSegment[]): Promise<void> {
    const { tables } = this.#state;
    const table = await this.#state.requireTable(l1Index);
    const entryBytes = measureL2Entry(this.#layout);
    for (const { kind, index, count, place, from, to } of segments) {
      if (kind === "inPlace") continue;
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

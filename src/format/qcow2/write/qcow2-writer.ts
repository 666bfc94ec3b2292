// A qcow2 image that is written to, on top of its chain.
//
// Invariants
// - Calls may overlap in time. Those that meet in a cluster follow each other in the order of calling.
// - What was written is durable when flush returns; before that a power cut leaves each cluster as it was, as
//   it was to be, or anything of both, and the tables sound (writer-state.ts says in which order).
// - close leaves a clean image. It makes nothing durable.

import { ImgtxError } from "../../../errors/index.ts";
import { loadZstd } from "../../../storage/index.ts";
import {
  alignDown,
  alignUp,
  type ClusterIndex,
  earliest,
  endOf,
  type GuestOffset,
  guestOffset,
  type GuestRange,
  type HostOffset,
  offsetBy,
  SECTOR_BYTES,
} from "../../../units/index.ts";
import type { Extent, FileRange, WritableImage } from "../../image.ts";
import type { ImageFormat } from "../../image-format.ts";
import { ComposedImage } from "../../read/composed-image.ts";
import type { LayerReader } from "../../read/layer-reader.ts";
import { deflateCluster } from "./compress-cluster.ts";
import { type L2Entry, measureL2Entry } from "../codec/l2-table.ts";
import { clippedReader, DataWriter, type ReadGuest } from "./data-writer.ts";
import { type EntryLayout, makeEntryLayout, readEntry, writeEntry } from "./plan-write.ts";
import { RangeLocks } from "./range-locks.ts";
import type { WriterLayer } from "./writer-layer.ts";
import { COUNTED_AFTER_END_MAX, type WriterState } from "./writer-state.ts";
import { ZeroWriter } from "./zero-writer.ts";
import { isOutsideDisk } from "../../image.ts";

const PIECE_BYTES = 1024 * 1024;

export class Qcow2Writer implements WritableImage {
  readonly path: string;
  readonly format: ImageFormat = "qcow2";
  readonly virtualSizeBytes: number;
  readonly layers: readonly LayerReader[];
  readonly #state: WriterState;
  readonly #layer: WriterLayer;
  /** What its entries say something of. */
  readonly layout: EntryLayout;
  readonly #view: ComposedImage;
  readonly #data: DataWriter;
  readonly #zeros: ZeroWriter;
  readonly #readGuest: ReadGuest;
  readonly #hasBacking: boolean;
  readonly #locks = new RangeLocks();
  readonly #close: () => Promise<void>;

  /** below: what the image stands on, from its backing image on. close gives back all that was opened. */
  constructor(
    state: WriterState,
    layer: WriterLayer,
    below: readonly LayerReader[],
    close: () => Promise<void>,
  ) {
    this.path = layer.path;
    this.virtualSizeBytes = layer.virtualSizeBytes;
    this.layers = [layer, ...below];
    this.#state = state;
    this.#layer = layer;
    this.#view = new ComposedImage([layer, ...below], () => Promise.resolve());
    this.#readGuest = clippedReader((target, offset) => this.#view.read(target, offset), layer);
    this.#hasBacking = state.files.header.backingFileName !== undefined;
    this.layout = makeEntryLayout(state.files.header, this.#hasBacking);
    this.#data = new DataWriter(state, layer, this.layout, this.#readGuest);
    this.#zeros = new ZeroWriter(state, layer, this.layout, this.#hasBacking);
    this.#close = close;
  }

  async findExtents(range: GuestRange): Promise<readonly Extent[]> {
    return this.#view.findExtents(range);
  }

  async read(target: Uint8Array, offset: GuestOffset): Promise<void> {
    await this.#view.read(target, offset);
  }

  async write(source: Uint8Array, offset: GuestOffset): Promise<void> {
    await this.#hold(offset, source.length, () => this.#data.write(source, offset));
  }

  async takeOver(range: FileRange, offset: GuestOffset): Promise<boolean> {
    if ((await range.file.stat()).sizeBytes < range.start + range.lengthBytes) return false;
    await this.#hold(offset, range.lengthBytes, () => this.#data.write(range, offset));
    return true;
  }

  async writeZeroes(range: GuestRange, mayUnmap: boolean): Promise<void> {
    await this.#hold(range.start, range.lengthBytes, () => this.#writeZeroes(range, mayUnmap));
  }

  async discard(range: GuestRange): Promise<void> {
    // Version 2 has no zero mark: what is below would show again.
    if (this.layout.version === 2 && this.#hasBacking) return;
    const { clusterBytes } = this.layout;
    const start = alignUp(range.start, clusterBytes);
    const end = this.#roundEnd(endOf(range), clusterBytes);
    if (start >= end) return;
    await this.#hold(start, end - start, async () => {
      await this.#zeros.discard(start, end);
      const { dataFile, header } = this.#state.files;
      if (!header.hasExternalDataFile) return;
      const lengthBytes = Math.min(end, this.virtualSizeBytes) - start;
      await dataFile.punchHole({ start, lengthBytes });
    });
  }

  async writeCompressed(cluster: Uint8Array, offset: GuestOffset): Promise<void> {
    const { clusterBytes } = this.layout;
    const isLast = offset + cluster.length === this.virtualSizeBytes;
    if (offset % clusterBytes !== 0 || (cluster.length !== clusterBytes && !isLast)) {
      throw new ImgtxError("E_INTERNAL", "only whole clusters are compressed", { image: this.path, offset });
    }
    const { header } = this.#state.files;
    if (header.hasExternalDataFile) {
      throw new ImgtxError("E_UNSUPPORTED", "Compression is not supported with an external data file", {
        image: this.path,
      });
    }
    await this.#hold(offset, cluster.length, async () => {
      const whole = padTo(cluster, clusterBytes);
      const packed = await (header.compressionType === 0
        ? deflateCluster(whole)
        : loadZstd().compress(whole));
      if (packed.length >= clusterBytes) await this.#data.write(cluster, offset);
      else await this.#writePacked(packed, offset);
    });
  }

  /** Writes all metadata once more as it is read: a failed flush leaves it in the page cache, and calls it written. */
  async renewMetadata(): Promise<void> {
    const { files, metadata, turnstile } = this.#state;
    await turnstile.run(async () => {
      for (const { start, lengthBytes } of metadata.ranges()) {
        for (let at = start; at < start + lengthBytes; at += PIECE_BYTES) {
          const piece = new Uint8Array(Math.min(PIECE_BYTES, start + lengthBytes - at));
          const count = await files.file.read(piece, at);
          await files.file.write(piece.subarray(0, count), at);
        }
      }
    });
  }

  /** Makes the file as long as what is counted in it: a crash may have left some of that after its end, but not far from it. */
  async reachCounted(): Promise<void> {
    const { file } = this.#state.files;
    const { sizeBytes, kind } = await file.stat();
    if (kind === "device") return;
    const end = await this.#state.turnstile.run(() => this.#state.findUsedEnd());
    // The last cluster may be cut short.
    const after = end - alignUp(sizeBytes, this.layout.clusterBytes);
    if (after > 0 && after <= COUNTED_AFTER_END_MAX) await file.truncate(end);
  }

  /** Lowers refcounts that are too high: of each cluster, by how much. Nothing must refer to that part of them. */
  async reclaim(leaks: readonly (readonly [cluster: ClusterIndex, surplus: number])[]): Promise<void> {
    await this.#state.turnstile.run(async () => {
      await this.#state.begin();
      for (const [cluster, surplus] of leaks) {
        for (let times = 0; times < surplus; times += 1) await this.#state.giveBack(cluster, 1);
      }
    });
  }

  async flush(purpose: string): Promise<void> {
    await this.#state.turnstile.run(() => this.#state.flush(purpose));
  }

  async close(): Promise<void> {
    try {
      await this.#state.turnstile.run(() => this.#state.finish());
    } finally {
      await this.#close();
    }
  }

  async #hold(start: GuestOffset, lengthBytes: number, work: () => Promise<void>): Promise<void> {
    const end = start + lengthBytes;
    const isInside = Number.isSafeInteger(start) && start >= 0 && lengthBytes >= 0;
    const { clusterBytes } = this.layout;
    const diskEnd = alignUp(this.virtualSizeBytes, clusterBytes);
    if (!isInside || end > diskEnd) throw isOutsideDisk(this, start, lengthBytes);
    if (lengthBytes === 0) return;
    try {
      await this.#locks.run(Math.floor(start / clusterBytes), Math.ceil(end / clusterBytes), work);
    } catch (error) {
      if (error instanceof ImgtxError && error.code === "E_CORRUPT") this.#state.stop(error);
      throw error;
    }
  }

  async #writeZeroes(range: GuestRange, mayUnmap: boolean): Promise<void> {
    const { start } = range;
    const end = endOf(range);
    const { version, unitBytes } = this.layout;
    if (version === 2 && this.#hasBacking) {
      await this.#writeZeroData(start, end);
      return;
    }
    const innerStart = alignUp(start, unitBytes);
    const innerEnd = this.#roundEnd(end, unitBytes);
    if (innerStart > innerEnd) {
      // All of it inside one unit.
      await this.#zeroEdge(start, end, mayUnmap);
      return;
    }
    await this.#zeroEdge(start, innerStart, mayUnmap);
    await this.#zeroUnits(innerStart, innerEnd, mayUnmap);
    await this.#zeroEdge(earliest(innerEnd, end), end, mayUnmap);
  }

  /** A part of a unit: where the rest of the unit reads as zeros too, all of it is made zero. */
  async #zeroEdge(start: GuestOffset, end: GuestOffset, mayUnmap: boolean): Promise<void> {
    if (start >= end) return;
    const { unitBytes } = this.layout;
    const unitStart = alignDown(start, unitBytes);
    const bytes = new Uint8Array(unitBytes);
    await this.#readGuest(bytes, unitStart);
    bytes.fill(0, start - unitStart, end - unitStart);
    if (bytes.some((byte) => byte !== 0)) await this.#writeZeroData(start, end);
    else await this.#zeroUnits(unitStart, offsetBy(unitStart, unitBytes), mayUnmap);
  }

  async #zeroUnits(start: GuestOffset, end: GuestOffset, mayUnmap: boolean): Promise<void> {
    if (start >= end) return;
    const { header } = this.#state.files;
    if (header.hasRawExternalData) await this.#zeroDataFile(start, end, mayUnmap);
    if (this.layout.version === 2) {
      await this.#zeros.discard(start, end);
      return;
    }
    const asData = await this.#zeros.zero(start, end, mayUnmap);
    for (const [from, to] of asData) {
      await this.#writeZeroData(from, guestOffset(Math.min(to, this.virtualSizeBytes)));
    }
  }

  /** A raw data file has to say by itself what the tables say. */
  async #zeroDataFile(start: GuestOffset, end: GuestOffset, mayUnmap: boolean): Promise<void> {
    const { dataFile } = this.#state.files;
    await this.#state.turnstile.run(() => this.#state.begin());
    const stop = Math.min(end, this.virtualSizeBytes);
    if (mayUnmap) await dataFile.punchHole({ start, lengthBytes: stop - start });
    else await inPieces(start, stop, (zeros, at) => dataFile.write(zeros, at));
  }

  async #writeZeroData(start: GuestOffset, end: GuestOffset): Promise<void> {
    await inPieces(start, end, (zeros, at) => this.#data.write(zeros, guestOffset(at)));
  }

  async #writePacked(packed: Uint8Array, offset: GuestOffset): Promise<void> {
    const state = this.#state;
    const place = await state.turnstile.run(async () => {
      await state.begin();
      return state.allocateBytes(packed.length);
    });
    await state.files.file.write(packed, place);
    await state.turnstile.run(async () => {
      const l1Index = Math.floor(offset / state.tables.spanBytes);
      const table = await state.requireTable(l1Index);
      const index = (offset - l1Index * state.tables.spanBytes) / state.clusterBytes;
      const old = readEntry(table, index, this.layout);
      writeEntry(table, index, describePacked(place, packed.length), this.layout);
      const entryBytes = measureL2Entry(this.layout);
      state.tables.mark(table, index * entryBytes, (index + 1) * entryBytes);
      state.free(old, false);
      if (old.kind === "compressed") this.#layer.forgetCompressed();
    });
  }

  /** The end of the disk counts as the end of its last cluster. */
  #roundEnd(end: GuestOffset, unit: number): GuestOffset {
    if (end < this.virtualSizeBytes) return alignDown(end, unit);
    return alignUp(guestOffset(this.virtualSizeBytes), this.layout.clusterBytes);
  }
}

/** An entry says in sectors how much to read; the data ends somewhere in the last one. */
function describePacked(place: HostOffset, lengthBytes: number): L2Entry {
  const inSector = place % SECTOR_BYTES;
  const sectors = Math.ceil((inSector + lengthBytes) / SECTOR_BYTES);
  const stored = sectors * SECTOR_BYTES - inSector;
  return { kind: "compressed", hostOffset: place, lengthBytes: stored, isCopied: false };
}

function padTo(bytes: Uint8Array, lengthBytes: number): Uint8Array {
  if (bytes.length === lengthBytes) return bytes;
  const padded = new Uint8Array(lengthBytes);
  padded.set(bytes);
  return padded;
}

async function inPieces(
  start: number,
  end: number,
  write: (zeros: Uint8Array, at: number) => Promise<void>,
): Promise<void> {
  const zeros = new Uint8Array(Math.min(PIECE_BYTES, Math.max(0, end - start)));
  for (let at = start; at < end; at += zeros.length) {
    await write(zeros.subarray(0, Math.min(zeros.length, end - at)), at);
  }
}

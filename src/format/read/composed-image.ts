// An image made of layers: the image itself, its backing images below. What one layer does not have, the next
// one is asked for.
//
// Invariants
// - A layer that ends before the one above it reads as zeros past its end: nothing further below shows there.
// - A batch of extents and the plan of a read are bounded: 200 layers with any content take no more memory.
// - A read that fails has left nothing under way when it throws.

import { ImgtxError } from "../../errors/index.ts";
import {
  earliest,
  endOf,
  type GuestOffset,
  guestOffset,
  type GuestRange,
  type HostOffset,
  offsetBy,
} from "../../units/index.ts";
import type { Extent, Image } from "../image.ts";
import type { ImageFormat } from "../image-format.ts";
import type { LayerReader } from "./layer-reader.ts";
import { forEachLimited } from "./limited.ts";
import { type Run, RunList, type RunPurpose } from "./run-list.ts";
import { isOutsideDisk } from "../image.ts";

/** Reads of data in flight for one call. */
const READS_AT_ONCE = 8;
const SMALL_READ_BYTES = 64 * 1024;
/** Extents in a batch, or pieces of a read that are worked on together. */
const PIECES_MAX = 4096;

interface Piece {
  readonly depth: number;
  readonly run: Run;
}

/** Pieces found so far. Runs of one layer that lie side by side have been joined by their list. */
interface Search {
  readonly pieces: Piece[];
  readonly purpose: RunPurpose;
}

export class ComposedImage implements Image {
  readonly path: string;
  readonly format: ImageFormat;
  readonly virtualSizeBytes: number;
  readonly layers: readonly LayerReader[];
  readonly #close: () => Promise<void>;

  constructor(layers: readonly [LayerReader, ...LayerReader[]], close: () => Promise<void>) {
    const [top] = layers;
    this.path = top.path;
    this.format = top.format;
    this.virtualSizeBytes = top.virtualSizeBytes;
    this.layers = layers;
    this.#close = close;
  }

  async findExtents(range: GuestRange): Promise<readonly Extent[]> {
    this.#requireInside(range.start, range.lengthBytes);
    const search: Search = { pieces: [], purpose: "describe" };
    if (range.lengthBytes > 0) await this.#search(0, range.start, endOf(range), search);
    return mergeExtents(search.pieces);
  }

  async read(target: Uint8Array, offset: GuestOffset): Promise<void> {
    this.#requireInside(offset, target.length);
    let at = offset;
    const end = offsetBy(at, target.length);
    while (at < end) {
      const search: Search = { pieces: [], purpose: "read" };
      const reached = await this.#search(0, at, end, search);
      await this.#fill(search.pieces, target.subarray(at - offset, reached - offset), at);
      at = reached;
    }
  }

  async readExtent(extent: Extent, target: Uint8Array, offset: GuestOffset): Promise<void> {
    const { kind, hostOffset, depth, start } = extent;
    const isInside = start <= offset && offset + target.length <= endOf(extent);
    if (kind !== "data" || hostOffset === undefined || !isInside) return await this.read(target, offset);
    return await readData(this.#layer(depth), target, offsetBy(hostOffset, offset - start));
  }

  async close(): Promise<void> {
    await this.#close();
  }

  /** Finds pieces from start on, this layer's or those below. Returns how far it came. */
  async #search(depth: number, start: GuestOffset, end: GuestOffset, search: Search): Promise<GuestOffset> {
    const layer = this.#layer(depth);
    let at = start;
    while (at < end && search.pieces.length < PIECES_MAX) {
      const list = new RunList(PIECES_MAX - search.pieces.length);
      const reached = await layer.findRuns(at, end, list, search.purpose);
      for (const run of list.runs) {
        if (search.pieces.length >= PIECES_MAX) return run.start;
        const runEnd = endOf(run);
        if (run.kind === "unallocated") {
          const below = await this.#searchBelow(depth, run, search);
          if (below < runEnd) return below;
        } else {
          search.pieces.push({ depth, run });
        }
      }
      at = reached;
    }
    return at;
  }

  /** What shows through where this layer has nothing. Returns how far it came. */
  async #searchBelow(depth: number, run: Run, search: Search): Promise<GuestOffset> {
    const below = this.layers[depth + 1];
    const end = endOf(run);
    const belowEnd = guestOffset(below?.virtualSizeBytes ?? 0);
    const sharedEnd = earliest(belowEnd, end);
    if (sharedEnd > run.start) {
      const reached = await this.#search(depth + 1, run.start, sharedEnd, search);
      if (reached < sharedEnd || search.pieces.length >= PIECES_MAX) return reached;
    }
    const start = sharedEnd > run.start ? sharedEnd : run.start;
    if (start < end) {
      const hostOffset =
        run.hostOffset === undefined ? undefined : offsetBy(run.hostOffset, start - run.start);
      search.pieces.push({ depth, run: { ...run, start, lengthBytes: end - start, hostOffset } });
    }
    return end;
  }

  /** Reads what was found into target, whose first byte is the guest byte targetStart. */
  async #fill(pieces: readonly Piece[], target: Uint8Array, targetStart: GuestOffset): Promise<void> {
    const jobs: (() => Promise<void>)[] = [];
    const compressed = new Map<number, Run[]>();
    for (const { depth, run } of pieces) {
      if (run.kind === "compressed") {
        const runs = compressed.get(depth) ?? [];
        runs.push(run);
        compressed.set(depth, runs);
        continue;
      }
      const from = run.start - targetStart;
      const part = target.subarray(from, from + run.lengthBytes);
      const { hostOffset } = run;
      if (run.kind === "data" && hostOffset !== undefined) {
        const layer = this.#layer(depth);
        // Small reads are made one by one: the disk should be at work on those that follow.
        if (pieces.length > 1 && part.length <= SMALL_READ_BYTES) {
          layer.dataFile.beginRead?.({ start: hostOffset, lengthBytes: part.length });
        }
        jobs.push(() => readData(layer, part, hostOffset));
      } else {
        part.fill(0);
      }
    }
    for (const [depth, runs] of compressed) {
      jobs.push(() => this.#layer(depth).readCompressed(runs, target, targetStart));
    }
    const [only] = jobs;
    if (jobs.length === 1 && only !== undefined) await only();
    else await forEachLimited(jobs, READS_AT_ONCE, (job) => job());
  }

  #layer(depth: number): LayerReader {
    const layer = this.layers[depth];
    if (layer === undefined) throw new ImgtxError("E_INTERNAL", `there is no layer ${depth}`);
    return layer;
  }

  #requireInside(start: number, lengthBytes: number): void {
    const isInside =
      Number.isSafeInteger(start) &&
      start >= 0 &&
      lengthBytes >= 0 &&
      start + lengthBytes <= this.virtualSizeBytes;
    if (isInside) return;
    throw isOutsideDisk(this, start, lengthBytes);
  }
}

/** A file that ends inside a cluster, or a data file that is short, reads as zeros past its end. */
async function readData(layer: LayerReader, part: Uint8Array, hostOffset: HostOffset): Promise<void> {
  const count = await layer.dataFile.read(part, hostOffset);
  if (count < part.length) part.fill(0, count);
}

function mergeExtents(pieces: readonly Piece[]): Extent[] {
  const extents: Extent[] = [];
  for (const { depth, run } of pieces) {
    const last = extents.at(-1);
    const next = toExtent(depth, run);
    if (last !== undefined && goesOn(last, next)) {
      extents[extents.length - 1] = { ...last, lengthBytes: last.lengthBytes + next.lengthBytes };
    } else {
      extents.push(next);
    }
  }
  return extents;
}

function toExtent(depth: number, run: Run): Extent {
  return {
    start: run.start,
    lengthBytes: run.lengthBytes,
    kind: run.kind,
    depth,
    present: run.kind !== "unallocated",
    hostOffset: run.kind === "compressed" ? undefined : run.hostOffset,
    isData: run.kind === "data" || run.kind === "compressed" || run.isHole,
  };
}

/** Whether next is more of last: the layers' lists are joined here, not by what they say of themselves. */
function goesOn(last: Extent, next: Extent): boolean {
  return (
    last.kind === next.kind &&
    last.depth === next.depth &&
    last.isData === next.isData &&
    (next.hostOffset === undefined
      ? last.hostOffset === undefined
      : last.hostOffset !== undefined && last.hostOffset + last.lengthBytes === next.hostOffset)
  );
}

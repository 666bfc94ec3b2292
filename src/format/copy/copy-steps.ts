// What a copy does, step by step: how each range of the target comes to be, in guest order.
//
// Invariant: steps follow each other without gaps, and each lies in one source but for what is compressed whole.

import { ImgtxError } from "../../errors/index.ts";
import {
  alignDown,
  earliest,
  endOf,
  type GuestOffset,
  guestOffset,
  type GuestRange,
  nextUnit,
  offsetBy,
  rangeTo,
} from "../../units/index.ts";
import type { Extent, Image } from "../image.ts";
import { ExtentCursor, readsAsZeros } from "../read/extent-cursor.ts";
import type { Salvage } from "../read/salvage.ts";

export interface StepOptions {
  /** Bytes of a cluster of the target; undefined where it has none. */
  readonly clusterBytes: number | undefined;
  /** Every cluster compressed. */
  readonly compressed: boolean;
  /** Zeros of at least this many bytes are left out where they are found in data; 0: everything is written. */
  readonly sparseBytes: number;
  /**
   * The target stands on the backing image of the source, which is this large: what the source itself does not
   * have is left to it. Undefined: the target stands alone.
   */
  readonly backingBytes: number | undefined;
  /** How many of the source's upper layers count as the source itself, for backingBytes: one that ends early hides what is below. Default: 1. */
  readonly ownLayers?: number;
  /** Data goes from file to file inside the kernel where it can, zeros in it included. */
  readonly inKernel: boolean;
  /** Data is taken over from file to file where the target can, zeros included. Default: false. */
  readonly shares?: boolean;
  /** The source goes afterwards: what is copied needs no memory any more. Default: false. */
  readonly goes?: boolean;
  /** Unreadable sectors become zeros. */
  readonly salvage?: Salvage | undefined;
  /** Where to begin: what lies before is in the target already. Default: 0. */
  readonly startBytes?: number;
}

/** A source, with the place of its first byte in the target. */
export interface Part {
  readonly image: Image;
  readonly start: GuestOffset;
  readonly end: GuestOffset;
}

/** How a range of the target comes to be. */
export interface Step extends GuestRange {
  readonly part: Part;
  readonly kind: "data" | "zero" | "below";
  /** The one that it begins in. */
  readonly extent: Extent;
  /** Where each extent of it ends in the target; of several only for data. */
  readonly ends: readonly GuestOffset[];
}

/** As large as the largest cluster, which is compressed whole. */
export const CHUNK_BYTES = 2 * 1024 * 1024;
const SALVAGED_BYTES = 64 * 1024;

export function layOut(sources: readonly Image[]): Part[] {
  let start = guestOffset(0);
  return sources.map((image) => {
    const part = { image, start, end: offsetBy(start, image.virtualSizeBytes) };
    start = part.end;
    return part;
  });
}

/** The byte of the source that a byte of the target comes from. */
export function inSource({ start }: Part, offset: GuestOffset): GuestOffset {
  return guestOffset(offset - start);
}

export async function* listSteps(
  parts: readonly Part[],
  options: StepOptions,
): AsyncGenerator<Step, void, undefined> {
  const last = parts.at(-1)?.end ?? guestOffset(0);
  const unit = options.compressed ? (options.clusterBytes ?? 1) : 1;
  const chunkBytes = Math.max(unit, CHUNK_BYTES);
  let offset = guestOffset(options.startBytes ?? 0);
  for (const part of parts) {
    const cursor = new ExtentCursor(part.image, part.image.virtualSizeBytes);
    while (offset < part.end) {
      const extent = await findExtent(cursor, inSource(part, offset), part.image, options);
      let kind = kindOf(extent, offset, options);
      let end = endIn(part, extent, offset, options);
      const ends = [end];
      if (kind === "data" && !options.inKernel && options.shares !== true) {
        end = await joinData(cursor, part, { end, stop: offsetBy(offset, chunkBytes), ends }, options);
      }
      if (unit > 1) {
        // Clusters are compressed whole: what is shorter than one counts as data with all around it.
        const whole = alignDown(end, unit);
        if (whole > offset) end = whole;
        else {
          kind = "data";
          end = earliest(nextUnit(offset, unit), last);
        }
      }
      if (kind === "data" || options.sparseBytes === 0) end = earliest(end, offsetBy(offset, chunkBytes));
      yield { part, ...rangeTo(offset, end), kind, extent, ends };
      offset = end;
    }
  }
}

/**
 * Goes on over the data that follows, wherever it is stored: one read and one write of many extents are cheaper
 * than one of each. Returns how far it came.
 */
async function joinData(
  cursor: ExtentCursor,
  part: Part,
  { end, stop, ends }: { end: GuestOffset; stop: GuestOffset; ends: GuestOffset[] },
  options: StepOptions,
): Promise<GuestOffset> {
  while (end < Math.min(stop, part.end)) {
    let extent: Extent;
    try {
      extent = await findExtent(cursor, inSource(part, end), part.image, options);
    } catch (error) {
      // Told when its turn comes: what lies before it is copied first.
      if (error instanceof ImgtxError) break;
      throw error;
    }
    if (kindOf(extent, end, options) !== "data") break;
    end = endIn(part, extent, end, options);
    ends.push(end);
  }
  return end;
}

/** Where the tables are damaged, salvaging takes a small piece for data, and learns by reading it. */
async function findExtent(
  cursor: ExtentCursor,
  offset: GuestOffset,
  { virtualSizeBytes }: Image,
  { salvage }: StepOptions,
): Promise<Extent> {
  try {
    return await cursor.find(offset);
  } catch (error) {
    if (salvage === undefined || !(error instanceof ImgtxError) || error.code === "E_INTERNAL") throw error;
    const end = earliest(nextUnit(offset, SALVAGED_BYTES), guestOffset(virtualSizeBytes));
    const place = { depth: 0, present: true, hostOffset: undefined, isData: true };
    return { ...rangeTo(offset, end), kind: "data", ...place };
  }
}

/** In the target. */
function endIn(part: Part, extent: Extent, offset: GuestOffset, { backingBytes }: StepOptions): GuestOffset {
  const end = earliest(offsetBy(part.start, endOf(extent)), part.end);
  // Past the end of the backing image zeros need not be written.
  return backingBytes !== undefined && offset < backingBytes ? earliest(end, guestOffset(backingBytes)) : end;
}

function kindOf(
  extent: Extent,
  offset: GuestOffset,
  { backingBytes, ownLayers = 1 }: StepOptions,
): Step["kind"] {
  const zero = readsAsZeros(extent);
  if (backingBytes === undefined) return zero ? "zero" : "data";
  const isOwn = extent.depth < (extent.present ? ownLayers : ownLayers - 1);
  if (!isOwn || (zero && offset >= backingBytes)) return "below";
  return zero ? "zero" : "data";
}

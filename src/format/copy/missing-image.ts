// An image of a chain as it is, beside what it would be on another backing image: what it would miss, and a way to write
// only that.
//
// Invariant: all of it is in whole units of the image, a cluster or a subcluster, so that none is written twice.

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
import type { Extent, FileRange, Image, ImageLayer, WritableImage } from "../image.ts";
import { readsAsZeros } from "../read/extent-cursor.ts";
import { isZero } from "../read/zero-blocks.ts";
import type { ImagePair } from "./image-pair.ts";

type Need = "own" | "same" | "zero" | "data";

/** Extents that are looked for at once, at most. */
const EXTENTS_AT_ONCE = 1024;

/**
 * An image as it is (the first of the pair), where it would be another on another backing image (the second): in whole
 * units, all else as if it were in an image below.
 */
export class MissingImage implements Image {
  readonly path: string;
  readonly format = "qcow2";
  readonly virtualSizeBytes: number;
  readonly layers: readonly ImageLayer[];
  readonly unitBytes: number;
  readonly #end: GuestOffset;
  readonly #pair: ImagePair;

  constructor(pair: ImagePair, unitBytes: number) {
    const [image] = pair.images;
    this.path = image.path;
    this.virtualSizeBytes = image.virtualSizeBytes;
    this.layers = image.layers;
    this.unitBytes = unitBytes;
    this.#end = guestOffset(image.virtualSizeBytes);
    this.#pair = pair;
  }

  async findExtents(range: GuestRange): Promise<readonly Extent[]> {
    const end = endOf(range);
    const extents: Extent[] = [];
    for (let at = range.start; at < end && extents.length < EXTENTS_AT_ONCE; ) {
      const { need, stop, place } = await this.#judge(at);
      const to = earliest(stop, end);
      const last = extents.at(-1);
      const next = this.#extentOf(need, at, to, place);
      if (last && goesOn(last, next)) {
        extents[extents.length - 1] = { ...last, ...rangeTo(last.start, to) };
      } else extents.push(next);
      at = to;
    }
    return extents;
  }

  async read(target: Uint8Array, offset: GuestOffset): Promise<void> {
    await this.#pair.images[0].read(target, offset);
  }

  /** Both images belong to whoever opened them. */
  async close(): Promise<void> {}

  /** What a unit needs, and those after it. */
  async #judge(offset: GuestOffset): Promise<{ need: Need; stop: GuestOffset; place: Extent | undefined }> {
    const { unitBytes } = this;
    const end = this.#end;
    const { need, stop, place } = await this.#judgeByte(offset);
    const whole = stop === end ? end : alignDown(stop, unitBytes);
    if (whole > offset) return { need, stop: whole, place };
    const unitEnd = earliest(end, nextUnit(offset, unitBytes));
    const needs = new Set([need]);
    for (let at = stop; at < unitEnd; ) {
      const next = await this.#judgeByte(at);
      needs.add(next.need);
      at = next.stop;
    }
    if (!needs.has("data") && !needs.has("zero")) return { need: "same", stop: unitEnd, place: undefined };
    return { need: needs.size === 1 ? need : "data", stop: unitEnd, place: undefined };
  }

  async #judgeByte(offset: GuestOffset): Promise<{ need: Need; stop: GuestOffset; place: Extent }> {
    const extents = [await this.#pair.find(0, offset), await this.#pair.find(1, offset)] as const;
    const stop = earliest(...extents.map(endOf), this.#end);
    const [before] = extents;
    if (before.present && before.depth === 0) return { need: "own", stop, place: before };
    if (this.#pair.knowsEqual(extents, offset) || this.#isSameCompressed(extents))
      return { need: "same", stop, place: before };
    return { need: readsAsZeros(before) ? "zero" : "data", stop, place: before };
  }

  /** place: where all of it lies, or begins to. */
  #extentOf(need: Need, start: GuestOffset, end: GuestOffset, place: Extent | undefined): Extent {
    const range = rangeTo(start, end);
    if (need === "own" || need === "same") {
      const depth = this.layers.length;
      return { ...range, kind: "unallocated", depth, present: false, hostOffset: undefined, isData: false };
    }
    const isData = need === "data";
    const known = { ...range, kind: need, depth: 0, present: true, hostOffset: undefined, isData };
    if (!isData || place?.kind !== "data" || place.hostOffset === undefined) return known;
    return { ...known, depth: place.depth, hostOffset: offsetBy(place.hostOffset, start - place.start) };
  }

  /** Where one image has it in both chains, at one place of the disk. */
  #isSameCompressed([before, after]: readonly [Extent, Extent]): boolean {
    return (
      before.kind === "compressed" && after.kind === "compressed" && this.#pair.haveOneFile([before, after])
    );
  }
}

/** Joined is what lies side by side in one file as well. */
function goesOn(last: Extent, next: Extent): boolean {
  if (last.kind !== next.kind || last.depth !== next.depth) return false;
  if (last.hostOffset === undefined || next.hostOffset === undefined)
    return next.hostOffset === last.hostOffset;
  return last.hostOffset + last.lengthBytes === next.hostOffset;
}

/** What is written to. */
type Target = Pick<
  WritableImage,
  "path" | "virtualSizeBytes" | "layers" | "write" | "writeZeroes" | "writeCompressed" | "takeOver"
> & { readonly layout: { readonly version: number } };

interface Filling {
  readonly unitBytes: number;
  readonly leavesOutEqual: boolean;
}

/** An image (the first of the pair) into which only that is written which the second one does not show. */
export class FillingImage implements WritableImage {
  readonly path: string;
  readonly format = "qcow2";
  readonly virtualSizeBytes: number;
  readonly layers: readonly ImageLayer[];
  readonly #image: Target;
  readonly #pair: ImagePair;
  readonly #filling: Filling;

  constructor(image: Target, pair: ImagePair, filling: Filling) {
    this.path = image.path;
    this.virtualSizeBytes = image.virtualSizeBytes;
    this.layers = image.layers;
    this.#image = image;
    this.#pair = pair;
    this.#filling = filling;
  }

  async findExtents(range: GuestRange): Promise<readonly Extent[]> {
    return await this.#pair.images[0].findExtents(range);
  }

  async read(target: Uint8Array, offset: GuestOffset): Promise<void> {
    await this.#pair.images[0].read(target, offset);
  }

  async write(source: Uint8Array, offset: GuestOffset): Promise<void> {
    for (const [from, to] of await this.#findDifferent(source, offset)) {
      await this.#image.write(source.subarray(from, to), offsetBy(offset, from));
    }
  }

  async takeOver(range: FileRange, offset: GuestOffset): Promise<boolean> {
    if (!this.#image.takeOver) return false;
    const { leavesOutEqual } = this.#filling;
    // What is there already, and may be equal, is read.
    if (leavesOutEqual && !(await this.#isBlank(offset, range.lengthBytes))) return false;
    return await this.#image.takeOver(range, offset);
  }

  async writeCompressed(cluster: Uint8Array, offset: GuestOffset): Promise<void> {
    const different = await this.#findDifferent(cluster, offset);
    if (different.length > 0) await this.#image.writeCompressed(cluster, offset);
  }

  /** Unlike others, it leaves out what reads as zeros without the image's own backing image alone. */
  async writeZeroes(range: GuestRange): Promise<void> {
    const end = endOf(range);
    for (let at = range.start; at < end; ) {
      for (const extent of await this.#pair.images[1].findExtents(rangeTo(at, end))) {
        const stop = earliest(end, endOf(extent));
        if (!readsAsZeros(extent)) await this.#zero(at, stop);
        at = stop;
      }
    }
  }

  async discard(): Promise<void> {
    await Promise.reject(new Error("nothing is discarded where something is missing"));
  }

  async flush(): Promise<void> {
    await Promise.reject(new Error("whoever opened the image flushes it"));
  }

  /** The image belongs to whoever opened it. */
  async close(): Promise<void> {}

  /** Version 2 has no mark for zeros; and where nothing is below yet, it would take them for there already. */
  async #zero(start: GuestOffset, end: GuestOffset): Promise<void> {
    if (this.#image.layout.version > 2) {
      await this.#image.writeZeroes(rangeTo(start, end), false);
      return;
    }
    for (let at = start; at < end; at = offsetBy(at, ZEROS.length)) {
      await this.write(ZEROS.subarray(0, Math.min(ZEROS.length, end - at)), at);
    }
  }

  /** Runs of whole units, in the source. */
  async #findDifferent(source: Uint8Array, offset: GuestOffset): Promise<[number, number][]> {
    if (!this.#filling.leavesOutEqual) return [[0, source.length]];
    const [, after] = this.#pair.images;
    if (await this.#isBlank(offset, source.length)) {
      return this.#findRuns(source.length, (from, to) => !isZero(source.subarray(from, to)));
    }
    return await this.#pair.lend(source.length, async (other) => {
      await after.read(other, offset);
      return this.#findRuns(
        source.length,
        (from, to) => Buffer.compare(source.subarray(from, to), other.subarray(from, to)) !== 0,
      );
    });
  }

  /** Whether the second image is known to have zeros there. */
  async #isBlank(start: GuestOffset, lengthBytes: number): Promise<boolean> {
    const range = { start, lengthBytes };
    const extents = await this.#pair.images[1].findExtents(range);
    const last = extents.at(-1);
    return last !== undefined && endOf(last) >= endOf(range) && extents.every(readsAsZeros);
  }

  #findRuns(lengthBytes: number, isDifferent: (from: number, to: number) => boolean): [number, number][] {
    const { unitBytes } = this.#filling;
    const runs: [number, number][] = [];
    for (let from = 0; from < lengthBytes; from += unitBytes) {
      const to = Math.min(from + unitBytes, lengthBytes);
      if (!isDifferent(from, to)) continue;
      const last = runs.at(-1);
      if (last && last[1] === from) last[1] = to;
      else runs.push([from, to]);
    }
    return runs;
  }
}

const ZEROS = new Uint8Array(1024 * 1024);

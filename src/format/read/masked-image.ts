// A part of an image: some ranges of its guest data, as if the rest were in an image below.

import { earliest, endOf, type GuestOffset, type GuestRange, rangeTo } from "../../units/index.ts";
import type { Extent, Image, ImageLayer } from "../image.ts";
import type { ImageFormat } from "../image-format.ts";

export class MaskedImage implements Image {
  readonly path: string;
  readonly format: ImageFormat;
  readonly virtualSizeBytes: number;
  readonly layers: readonly ImageLayer[];
  readonly #image: Image;
  /** In order and apart. */
  readonly #ranges: readonly GuestRange[];
  /** Where the last search ended: extents are asked for forwards. */
  #near = 0;

  constructor(image: Image, ranges: readonly GuestRange[]) {
    this.#image = image;
    this.#ranges = ranges;
    this.path = image.path;
    this.format = image.format;
    this.virtualSizeBytes = image.virtualSizeBytes;
    this.layers = image.layers;
  }

  async findExtents(wanted: GuestRange): Promise<readonly Extent[]> {
    const [start, end] = [wanted.start, endOf(wanted)];
    const range = this.#findRange(start);
    if (range === undefined || range.start >= end) return [nothing(start, end)];
    if (range.start > start) return [nothing(start, range.start)];
    const extents = await this.#image.findExtents(rangeTo(start, earliest(end, endOf(range))));
    return extents.map((extent) => ({ ...extent, depth: 0, present: true, hostOffset: undefined }));
  }

  async read(target: Uint8Array, offset: GuestOffset): Promise<void> {
    await this.#image.read(target, offset);
  }

  /** The image belongs to whoever masked it. */
  async close(): Promise<void> {}

  /** The first range that ends after the offset. */
  #findRange(offset: GuestOffset): GuestRange | undefined {
    const isBehind = (range: GuestRange | undefined): boolean => range !== undefined && endOf(range) > offset;
    while (this.#near > 0 && isBehind(this.#ranges[this.#near - 1])) this.#near -= 1;
    while (this.#near < this.#ranges.length && !isBehind(this.#ranges[this.#near])) this.#near += 1;
    return this.#ranges[this.#near];
  }
}

function nothing(start: GuestOffset, end: GuestOffset): Extent {
  const place = { depth: 0, present: false, hostOffset: undefined, isData: false };
  return { ...rangeTo(start, end), kind: "unallocated", ...place };
}

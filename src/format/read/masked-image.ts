// A part of an image: some ranges of its guest data, as if the rest were in an image below.

import type { ByteRange } from "../../storage/index.ts";
import { type GuestOffset, guestOffset } from "../../units/index.ts";
import type { Extent, Image, ImageLayer } from "../image.ts";
import type { ImageFormat } from "../image-format.ts";

export class MaskedImage implements Image {
  readonly path: string;
  readonly format: ImageFormat;
  readonly virtualSizeBytes: number;
  readonly layers: readonly ImageLayer[];
  readonly #image: Image;
  /** In order and apart. */
  readonly #ranges: readonly ByteRange[];
  /** Where the last search ended: extents are asked for forwards. */
  #near = 0;

  constructor(image: Image, ranges: readonly ByteRange[]) {
    this.#image = image;
    this.#ranges = ranges;
    this.path = image.path;
    this.format = image.format;
    this.virtualSizeBytes = image.virtualSizeBytes;
    this.layers = image.layers;
  }

  async findExtents({ start, lengthBytes }: ByteRange): Promise<readonly Extent[]> {
    const end = start + lengthBytes;
    const from = guestOffset(start);
    const range = this.#findRange(from);
    if (range === undefined || range.start >= end) return [nothing(from, end)];
    if (range.start > start) return [nothing(from, range.start)];
    const stop = Math.min(end, range.start + range.lengthBytes);
    const extents = await this.#image.findExtents({ start, lengthBytes: stop - start });
    return extents.map((extent) => ({ ...extent, depth: 0, present: true, hostOffset: undefined }));
  }

  async read(target: Uint8Array, offset: GuestOffset): Promise<void> {
    await this.#image.read(target, offset);
  }

  /** The image belongs to whoever masked it. */
  async close(): Promise<void> {}

  /** The first range that ends after the offset. */
  #findRange(offset: GuestOffset): ByteRange | undefined {
    const isBehind = (range: ByteRange | undefined): boolean =>
      range !== undefined && range.start + range.lengthBytes > offset;
    while (this.#near > 0 && isBehind(this.#ranges[this.#near - 1])) this.#near -= 1;
    while (this.#near < this.#ranges.length && !isBehind(this.#ranges[this.#near])) this.#near += 1;
    return this.#ranges[this.#near];
  }
}

function nothing(start: GuestOffset, end: number): Extent {
  const place = { depth: 0, present: false, hostOffset: undefined, isData: false };
  return { start, lengthBytes: end - start, kind: "unallocated", ...place };
}

// A part of an image as an image of its own: what dd copies.
//
// Invariant: as large as whole sectors; after the part's last byte it reads as zeros.

import {
  alignUp,
  type GuestOffset,
  guestOffset,
  type GuestRange,
  offsetBy,
  SECTOR_BYTES,
} from "../../units/index.ts";
import type { Extent, Image, ImageLayer } from "../image.ts";
import type { ImageFormat } from "../image-format.ts";

export class SliceImage implements Image {
  readonly path: string;
  readonly format: ImageFormat;
  readonly virtualSizeBytes: number;
  readonly layers: readonly ImageLayer[];
  readonly #whole: Image;
  readonly #range: GuestRange;

  /** The range lies in the image. */
  constructor(whole: Image, range: GuestRange) {
    this.path = whole.path;
    this.format = whole.format;
    this.virtualSizeBytes = alignUp(range.lengthBytes, SECTOR_BYTES);
    this.layers = whole.layers;
    this.#whole = whole;
    this.#range = range;
  }

  async findExtents({ start, lengthBytes }: GuestRange): Promise<readonly Extent[]> {
    const from = this.#range.start;
    const end = Math.min(start + lengthBytes, this.#range.lengthBytes);
    const found = await this.#whole.findExtents({ start: offsetBy(from, start), lengthBytes: end - start });
    return found.map((extent) => {
      const at = guestOffset(extent.start - from);
      const extentEnd = at + extent.lengthBytes;
      // What fills up the last sector is part of its extent.
      const isLast = extentEnd === this.#range.lengthBytes;
      return { ...extent, start: at, lengthBytes: (isLast ? this.virtualSizeBytes : extentEnd) - at };
    });
  }

  async read(target: Uint8Array, offset: GuestOffset): Promise<void> {
    const known = Math.max(0, Math.min(target.length, this.#range.lengthBytes - offset));
    await this.#whole.read(target.subarray(0, known), offsetBy(this.#range.start, offset));
    target.fill(0, known);
  }

  /** The whole image is its owner's to close. */
  async close(): Promise<void> {
    return Promise.resolve();
  }
}

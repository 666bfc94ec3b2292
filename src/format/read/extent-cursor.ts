// Walks the extents of an image forwards, and hides that they come in batches; and reads what lies in one.

import { ImgtxError } from "../../errors/index.ts";
import { endOf, type GuestOffset, guestOffset, rangeTo } from "../../units/index.ts";
import type { Extent, Image } from "../image.ts";

export class ExtentCursor {
  readonly #image: Image;
  readonly #end: GuestOffset;
  #batch: readonly Extent[] = [];
  #index = 0;

  /** Asks for nothing at or past `end`, which is at most the virtual size. */
  constructor(image: Image, end: number) {
    this.#image = image;
    this.#end = guestOffset(end);
  }

  /** The extent that holds the byte at the offset. A little backwards is as cheap as forwards. */
  async find(offset: GuestOffset): Promise<Extent> {
    const known = this.findKnown(offset);
    if (known !== undefined) return known;
    this.#batch = await this.#image.findExtents(rangeTo(offset, this.#end));
    this.#index = 0;
    const [found] = this.#batch;
    if (found !== undefined && found.start <= offset && offset < endOf(found)) return found;
    throw new ImgtxError("E_INTERNAL", `no extent at ${offset}`, { image: this.#image.path, offset });
  }

  /** The same where it is of the batch that was found last: without a promise. */
  findKnown(offset: GuestOffset): Extent | undefined {
    while ((this.#batch[this.#index]?.start ?? 0) > offset) this.#index -= 1;
    if (this.#index < 0) {
      this.#batch = [];
      this.#index = 0;
    }
    for (; this.#index < this.#batch.length; this.#index += 1) {
      const extent = this.#batch[this.#index];
      if (extent !== undefined && offset < endOf(extent)) return extent;
    }
    return undefined;
  }
}

/** All extents of an image. */
export async function* extentsOf(image: Image): AsyncGenerator<Extent, void, undefined> {
  const end = guestOffset(image.virtualSizeBytes);
  const cursor = new ExtentCursor(image, end);
  for (let offset = guestOffset(0); offset < end; ) {
    const extent = await cursor.find(offset);
    yield extent;
    offset = endOf(extent);
  }
}

/** Whether its bytes are known to be zeros without being read. */
export function readsAsZeros({ kind }: Extent): boolean {
  return kind === "zero" || kind === "unallocated";
}

/** Fills target from the guest offset; where all of it lies in an extent that is known, its place is not looked for again. */
export async function readIn(
  extent: Extent | undefined,
  image: Image,
  target: Uint8Array,
  offset: GuestOffset,
): Promise<void> {
  if (extent === undefined || image.readExtent === undefined) await image.read(target, offset);
  else await image.readExtent(extent, target, offset);
}

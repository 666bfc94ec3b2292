// How a disk is filled, as a few numbers: of each of so many equal parts of it, how much each image of the chain has data
// for. Reads tables, and no data.

import { setImmediate as letOthersRun } from "node:timers/promises";
import { endOf, guestOffset } from "../../units/index.ts";
import type { Image } from "../image.ts";
import { ExtentCursor } from "./extent-cursor.ts";

/** Extents between two looks at what else goes on. */
const EXTENTS_AT_ONCE = 4096;

/**
 * For each image of the chain, the top first, the share of each part (0 to 1) that it alone decides with data: what one
 * above it has is not counted. Of an image that was opened without its backing images it is all that it has.
 */
export async function measureStrips(
  image: Image,
  parts: number,
  signal?: AbortSignal,
): Promise<readonly (readonly number[])[]> {
  const strips = image.layers.map(() => Array.from({ length: parts }, () => 0));
  const { virtualSizeBytes } = image;
  const partBytes = virtualSizeBytes / parts;
  const cursor = new ExtentCursor(image, guestOffset(virtualSizeBytes));
  let found = 0;
  for (let at = guestOffset(0); at < virtualSizeBytes; ) {
    found += 1;
    if (found % EXTENTS_AT_ONCE === 0) await letOthersRun();
    signal?.throwIfAborted();
    const extent = await cursor.find(at);
    const end = endOf(extent);
    const strip = strips[extent.depth];
    if (strip && (extent.kind === "data" || extent.kind === "compressed")) addTo(strip, partBytes, at, end);
    at = guestOffset(end);
  }
  return strips;
}

function addTo(strip: number[], partBytes: number, start: number, end: number): void {
  const last = Math.min(strip.length - 1, Math.ceil(end / partBytes) - 1);
  for (let part = Math.floor(start / partBytes); part <= last; part += 1) {
    const from = Math.max(start, part * partBytes);
    const to = Math.min(end, (part + 1) * partBytes);
    strip[part] = Math.min(1, (strip[part] ?? 0) + Math.max(0, to - from) / partBytes);
  }
}

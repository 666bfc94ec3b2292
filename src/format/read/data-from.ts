// Whether a part of a disk holds anything, in any image of its chain.

import type { Image } from "../image.ts";

/** The first byte of data from this one on; undefined where all that follows reads as zeros by its tables. */
export async function findDataFrom(image: Image, offset: number): Promise<number | undefined> {
  for (let at = offset; at < image.virtualSizeBytes; ) {
    const extents = await image.findExtents({ start: at, lengthBytes: image.virtualSizeBytes - at });
    const data = extents.find(({ kind }) => kind === "data" || kind === "compressed");
    if (data !== undefined) return data.start;
    const last = extents.at(-1);
    if (last === undefined) return undefined;
    at = last.start + last.lengthBytes;
  }
  return undefined;
}

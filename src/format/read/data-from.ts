// Whether a part of a disk holds anything, in any image of its chain.

import { endOf, type GuestOffset, guestOffset, rangeTo } from "../../units/index.ts";
import type { Image } from "../image.ts";

/** The first byte of data from this one on; undefined where all that follows reads as zeros by its tables. */
export async function findDataFrom(image: Image, offset: number): Promise<GuestOffset | undefined> {
  const end = guestOffset(image.virtualSizeBytes);
  for (let at = guestOffset(offset); at < end; ) {
    const extents = await image.findExtents(rangeTo(at, end));
    const data = extents.find(({ kind }) => kind === "data" || kind === "compressed");
    if (data !== undefined) return data.start;
    const last = extents.at(-1);
    if (last === undefined) return undefined;
    at = endOf(last);
  }
  return undefined;
}

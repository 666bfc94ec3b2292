// A larger or a smaller disk in an image, and an overlay that is emptied, as actions plan it.

import { type ChainLink, emptyImage, type Preallocation, resizeImage } from "../../../format/index.ts";
import type { ImageChange } from "../../images/redo.ts";
import type { PlanContext } from "./action.ts";

/** The image's change, and before it that of its data file, which the image's change writes to. */
export function planResizing(
  link: ChainLink,
  sizeBytes: number,
  { storage, gate }: Pick<PlanContext, "storage" | "gate">,
  preallocation: Preallocation = "off",
): ImageChange[] {
  const { path, format } = link;
  const write = async () => await resizeImage(storage, path, { format, gate, preallocation }, sizeBytes);
  const discards = sizeBytes < link.virtualSizeBytes;
  // What is copied would have no room in a smaller one.
  const traits = { discards, precedesCopies: !discards };
  return [...ofDataFile(link, traits), { ...traits, link, write }];
}

/** An overlay that holds nothing any more, when all of it is copied to what it stands on. */
export function planEmptying(
  link: ChainLink,
  { storage, gate }: Pick<PlanContext, "storage" | "gate">,
): ImageChange[] {
  const { path, format } = link;
  const traits = { isLast: true, discards: true };
  const write = async () => await emptyImage(storage, path, { format, gate });
  return [...ofDataFile(link, traits), { ...traits, link, write }];
}

function ofDataFile(link: ChainLink, traits: Omit<ImageChange, "link" | "write">): ImageChange[] {
  const { dataFile } = link;
  if (!dataFile) return [];
  const write = () => Promise.resolve(undefined);
  return [{ ...traits, link: { ...link, ...dataFile, header: undefined }, write }];
}

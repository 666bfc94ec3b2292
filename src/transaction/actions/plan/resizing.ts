// A larger or a smaller disk in an image, as actions plan it.

import { type ChainLink, type Preallocation, resizeImage } from "../../../format/index.ts";
import type { ImageChange } from "../../images/redo.ts";
import type { PlanContext } from "./action.ts";

/** The image's change, and before it that of its data file, which the image's change writes to. */
export function planResizing(
  link: ChainLink,
  sizeBytes: number,
  { storage, gate }: Pick<PlanContext, "storage" | "gate">,
  preallocation: Preallocation = "off",
): ImageChange[] {
  const { path, format, dataFile } = link;
  const write = async () => await resizeImage(storage, path, { format, gate, preallocation }, sizeBytes);
  const discards = sizeBytes < link.virtualSizeBytes;
  // What is copied would have no room in a smaller one.
  const traits = { discards, precedesCopies: !discards };
  const data: ImageChange[] = dataFile
    ? [
        {
          ...traits,
          link: { ...link, ...dataFile, header: undefined },
          write: () => Promise.resolve(undefined),
        },
      ]
    : [];
  return [...data, { ...traits, link, write }];
}

// A change of an image's persistent bitmaps, as actions plan it: judged by the plan, which may have long work before
// it, and written into the image's redo log.

import { type BitmapStep, type ChainLink, changeBitmaps, judgeBitmaps } from "../../../format/index.ts";
import type { ImageChange } from "../../images/redo.ts";
import { changeOf } from "./in-place.ts";

/** stepsIn: by the transaction's id, where that is in a name. Errors are those of judgeBitmaps. */
export async function planBitmapChange(
  link: ChainLink,
  steps: readonly BitmapStep[],
  stepsIn: (transaction: string) => readonly BitmapStep[] = () => steps,
): Promise<ImageChange> {
  await judgeBitmaps(link, steps);
  const write = async (staged: ChainLink, transaction: string): Promise<void> => {
    await changeBitmaps(staged, stepsIn(transaction), { isCounted: true });
  };
  return changeOf(link, write, { precedesCopies: true });
}

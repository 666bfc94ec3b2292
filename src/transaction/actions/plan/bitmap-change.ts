// A change of an image's persistent bitmaps, as actions plan it: judged by the plan, which may have long work before
// it, and written into the image's redo log.

import { type BitmapStep, type ChainLink, changeBitmaps, judgeBitmaps } from "../../../format/index.ts";
import type { ImageChange } from "../../images/redo.ts";

/** stepsIn: by the transaction's id, where that is in a name. Errors are those of judgeBitmaps. */
export async function planBitmapChange(
  link: ChainLink,
  steps: readonly BitmapStep[],
  stepsIn: (transaction: string) => readonly BitmapStep[] = () => steps,
): Promise<ImageChange> {
  await judgeBitmaps(link, steps);
  return {
    link,
    write: async (file, transaction) => {
      const known = stepsIn(transaction);
      await changeBitmaps({ ...link, file, stat: await file.stat() }, known, { isCounted: true });
    },
  };
}

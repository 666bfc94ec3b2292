// The warning of an image whose bitmaps a program without support for them has made worthless.

import { type ChainLink, hasStaleBitmaps } from "../../../format/index.ts";
import type { ImgInvocation } from "../command.ts";

/** In qemu-img's words, once for each such image. */
export function warnOfStaleBitmaps(
  { console, context }: Pick<ImgInvocation, "console" | "context">,
  headers: readonly ChainLink["header"][],
): void {
  for (const header of headers) {
    if (header === undefined || !hasStaleBitmaps(header)) continue;
    console.warning(
      "a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent",
    );
    context.stderr.write("Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.\n");
  }
}

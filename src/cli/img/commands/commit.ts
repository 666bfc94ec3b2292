// imgtx img commit

import { ImgtxError } from "../../../errors/index.ts";
import { type ChainLink, identityOf, placeOfImage } from "../../../format/index.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import { backingPathOf } from "../grammar/image-name.ts";
import { changeImage, lookAtImage } from "../images/in-place.ts";
import { failure } from "../grammar/messages.ts";
import {
  cacheOption,
  imageOptsOption,
  longFormatOption,
  quietOption,
  objectOption,
  progressOption,
} from "../grammar/options.ts";
import { startProgress } from "../output/progress.ts";

export const commit: ImgCommand = {
  kind: "img",
  definition: {
    arguments: [{ name: "FILENAME", about: "the overlay", completes: "file" }],
    options: [
      longFormatOption,
      cacheOption,
      {
        short: "b",
        newer: ["base"],
        value: { name: "BASE", completes: "file" },
        about: "an image of the chain that all above it is merged into; else the one right below",
      },
      {
        short: "r",
        newer: ["rate-limit", "rate"],
        value: { name: "RATE_LIMIT", completes: "nothing" },
        about: "taken, without effect",
      },
      { short: "d", newer: ["drop"], about: "leave the overlay as it is; implied by -b" },
      progressOption,
      quietOption,
      objectOption,
      imageOptsOption,
    ],
    about:
      "Merges an overlay into a backing image, in one transaction. The overlay is emptied then, and reads as before. " +
      "Refused where another image known here stands on the backing image, and for the image of a device, which " +
      "`imgtx merge` is for.",
    examples: [{ command: "imgtx img commit overlay.qcow2", about: "into the image right below" }],
    exits: [0, 1, 130],
    exitMeanings: {
      0: "merged",
      1: "failed; a message says what stands",
      130: "interrupted; all is as it was",
    },
  },
  execute,
};

async function execute(invocation: ImgInvocation): Promise<number> {
  const { input, console, context } = invocation;
  const filename = input.soleImage();
  input.sizeBytes("-r", "rate limit");
  const base = input.text("-b");
  // A layer between the two would show through where it has something else.
  const empties = !input.flag("-d") && base === undefined;
  const place = await lookAtImage(invocation, filename, async ({ chain }, found) => {
    const [first, ...lower] = chain.links.slice(1);
    if (first === undefined) throw failure("Image does not have a backing file");
    const { storage, cwd } = context;
    const wanted =
      base === undefined ? first.stat : await storage.stat(backingPathOf(found.image, base, cwd));
    const isWanted = ({ stat }: ChainLink) => wanted !== undefined && identityOf(stat) === identityOf(wanted);
    const link = [first, ...lower].find(isWanted);
    if (link === undefined) throw failure(`Did not find '${base}' in the backing chain of '${filename}'`);
    return { ...found, lowest: await placeOfImage(storage, link.path) };
  });
  const isQuiet = input.flag("-q");
  const asked = input.flag("-p") && !isQuiet;
  const shown = { asked, quiet: isQuiet, stepPercent: 1, totalBytes: 1 };
  const progress = startProgress({ program: invocation.program, ...shown }, { ...context, console });
  try {
    await changeImage(invocation, place, (device, root) => {
      if (root !== undefined) throw refuseDevice(filename, device, root);
      const into = place.lowest;
      return [{ kind: "merge", devices: [device], from: undefined, into, keep: true, empties }];
    });
    progress.complete();
  } finally {
    progress.stop();
  }
  if (!isQuiet) console.print("Image committed.\n");
  return 0;
}

/** The device would move to the backing image, which who says commit does not expect. */
function refuseDevice(filename: string, device: string, root: string): ImgtxError {
  return new ImgtxError(
    "E_FAILED",
    `${filename}: it is the image of device '${device}' of the workspace '${root}'`,
    {
      hint: `nothing was changed; \`imgtx merge ${device}\` merges it, and moves the device`,
    },
  );
}

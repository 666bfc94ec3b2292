// imgtx img rebase

import { posix } from "node:path";
import type { ActionRequest } from "../../../transaction/index.ts";
import { printable } from "../../render/printable.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import { backingPathOf } from "../grammar/image-name.ts";
import { isOtherDriver } from "../images/images.ts";
import { changeImage, lookAtImage } from "../images/in-place.ts";
import { failure, usageError } from "../grammar/messages.ts";
import {
  cacheOption,
  forceShareOption,
  FORMAT_WORDS,
  imageOptsOption,
  longFormatOption,
  quietOption,
  objectOption,
  progressOption,
  sourceCacheOption,
} from "../grammar/options.ts";
import { startProgress } from "../output/progress.ts";

export const rebase: ImgCommand = {
  kind: "img",
  definition: {
    arguments: [{ name: "FILENAME", about: "the image", completes: "file" }],
    options: [
      longFormatOption,
      {
        short: "b",
        newer: ["backing"],
        value: { name: "BACKING_FILE", completes: "file" },
        about: "the new backing image, named as from the image's folder; empty: none",
      },
      {
        short: "F",
        newer: ["B", "backing-format"],
        value: { name: "BACKING_FMT", completes: FORMAT_WORDS },
        about: "its format",
      },
      {
        short: "u",
        newer: ["backing-unsafe"],
        about: "change the name alone, whatever the image reads then",
      },
      { short: "c", newer: ["compress"], about: "compress what is copied" },
      progressOption,
      quietOption,
      cacheOption,
      { ...sourceCacheOption, newer: ["backing-cache"] },
      objectOption,
      imageOptsOption,
      { ...forceShareOption, about: "refused: an image is not changed while others use it" },
    ],
    about:
      "Puts an image on another backing image, in one transaction, and copies into it what it would else show " +
      "otherwise. Where the image is that of a device, the device is rebased.",
    examples: [
      { command: "imgtx img rebase -b new-base.qcow2 -F qcow2 disk.qcow2", about: "onto another image" },
      { command: "imgtx img rebase -b '' disk.qcow2", about: "stand alone" },
    ],
    exits: [0, 1, 130],
    exitMeanings: {
      0: "done",
      1: "failed; a message says what stands",
      130: "interrupted; the image is as it was",
    },
  },
  execute,
};

async function execute(invocation: ImgInvocation): Promise<number> {
  const { input, console, context } = invocation;
  const filename = input.soleImage();
  const isUnsafe = input.flag("-u");
  const name = input.text("-b");
  if (name === undefined && !isUnsafe)
    throw usageError("Must specify backing file (-b) or use unsafe mode (-u)");
  const format = readFormat(input.text("-F"));
  if (input.flag("--force-share")) throw failure("-U: an image is not changed while others use it");
  const isAlone = name === undefined || name === "";
  if (isAlone && isUnsafe) {
    throw failure(
      "-u without a backing file: the image would lose what it reads from there; -b '' without -u copies it",
    );
  }
  const place = await lookAtImage(invocation, filename, async (_, found) => Promise.resolve(found), {
    isAlone: isUnsafe,
  });
  if (!isAlone && format === undefined) {
    throw failure(`Could not change the backing file to '${name}': backing format must be specified`);
  }
  const requestFor = (device: string, workspace: string | undefined): ActionRequest =>
    isAlone
      ? { kind: "pull", devices: [device], base: undefined }
      : {
          kind: "rebase",
          device,
          onto: backingPathOf(place.image, name, context.cwd),
          format,
          isUnsafe,
          // A device's chain is whole.
          nameIfMissing: workspace === undefined ? name : undefined,
          isCompressed: input.flag("-c"),
          isRelative: !posix.isAbsolute(name.replace(/^file:/, "")),
        };
  const isAsked = input.flag("-p") && !input.flag("-q");
  const shown = { asked: isAsked, quiet: input.flag("-q"), stepPercent: 1, totalBytes: 1 };
  const progress = startProgress({ program: invocation.program, ...shown }, { ...context, console });
  try {
    await changeImage(invocation, place, (device, root) => [requestFor(device, root)]);
    progress.complete();
  } finally {
    progress.stop();
  }
  if (isUnsafe && name !== undefined && invocation.program === "imgtx")
    await warnIfMissing(invocation, place.image, name);
  return 0;
}

/** qemu-img says nothing. */
async function warnIfMissing(
  { console, context }: ImgInvocation,
  image: string,
  name: string,
): Promise<void> {
  const path = backingPathOf(image, name, context.cwd);
  if (await context.storage.stat(path)) return;
  console.warning(
    `${printable(path)} is not there: its name is stored, and nothing of it was checked, neither format, size nor content`,
  );
}

function readFormat(name: string | undefined): string | undefined {
  if (name === undefined || name === "qcow2" || name === "raw") return name;
  if (isOtherDriver(name)) throw failure(`imgtx does not support the format '${name}'`);
  throw failure(`Invalid format name: '${name}'`);
}

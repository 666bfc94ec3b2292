// imgtx img amend

import { ImgtxError } from "../../../errors/index.ts";
import { shellQuote, makesNoSmaller } from "../../../format/index.ts";
import { AMENDABLE, readAmendment, type Wish } from "./amendment.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import { drawAmendHelp } from "../grammar/create-options.ts";
import { parseDriver } from "../images/images.ts";
import { changeImage, type ImageInPlace, lookAtImage } from "../images/in-place.ts";
import { failure, LINE_BREAK, usageError } from "../grammar/messages.ts";
import { asksForHelp, parseOptionLists } from "../grammar/option-list.ts";
import {
  cacheOption,
  formatOption,
  imageOptsOption,
  isCacheMode,
  objectOption,
  progressOption,
  quietOption,
} from "../grammar/options.ts";
import { startProgress } from "../output/progress.ts";

export const amend: ImgCommand = {
  kind: "img",
  definition: {
    arguments: [{ name: "FILENAME", about: "the image", completes: "file" }],
    options: [
      {
        short: "o",
        newer: ["options"],
        value: {
          name: "OPTIONS",
          completes: AMENDABLE,
        },
        repeatable: true,
        about: "NAME=VALUE,…: what is to be changed; help lists them",
      },
      formatOption,
      { ...cacheOption, about: "cache mode; taken, and without effect" },
      progressOption,
      quietOption,
      objectOption,
      imageOptsOption,
      { long: "force", about: "taken, without effect" },
    ],
    about:
      "Gives a qcow2 image other properties, in one transaction: version 2 or 3 of the format, the width of refcounts, " +
      "lazy refcounts, a larger size, another name of the data file. What a guest sees stays. Refused is what would " +
      "lose something: bitmaps in version 2, a smaller disk, another data file. Where the image is that of a device, " +
      "the device is amended.",
    examples: [
      { command: "imgtx img amend -o compat=1.1 disk.qcow2", about: "from version 2 to 3" },
      {
        command: "imgtx img amend -o refcount_bits=64,lazy_refcounts=on disk.qcow2",
        about: "several at once",
      },
    ],
    exits: [0, 1, 130],
    exitMeanings: {
      0: "amended",
      1: "failed; the image is as it was",
      130: "interrupted; the image is as it was",
    },
  },
  execute,
};

async function execute(invocation: ImgInvocation): Promise<number> {
  const { input, console } = invocation;
  const listed = parseOptionLists(input.texts("-o"));
  if (listed.length === 0) throw usageError("Must specify options (-o)");
  const format = input.text("-f");
  if (format !== undefined && asksForHelp(listed)) {
    if (!["qcow2", "raw"].includes(format)) throw failure(`Unknown file format '${format}'`);
    console.print(helpFor(parseDriver(format)));
    return 0;
  }
  const filename = input.soleImage(failure);
  const cacheMode = input.text("-t");
  if (cacheMode !== undefined && !isCacheMode(cacheMode)) throw failure(`Invalid cache option: ${cacheMode}`);
  const looked = await lookAtImage(invocation, filename, async ({ virtualSizeBytes }, place) => {
    const help = helpFor(place.format);
    if (asksForHelp(listed)) return await Promise.resolve({ help });
    const wish = readAmendment(listed);
    assertNotSmaller(wish, virtualSizeBytes, filename);
    return { place, wish };
  });
  if ("help" in looked) console.print(looked.help);
  else await run(invocation, looked.place, looked.wish);
  return 0;
}

/** E_FAILED for raw. */
function helpFor(format: string | undefined): string {
  if (format === "qcow2") return drawAmendHelp();
  throw failure(`Format driver '${format}' does not support option amendment`);
}

function assertNotSmaller({ sizeBytes }: Wish, before: number, filename: string): void {
  if (sizeBytes === undefined || sizeBytes >= before) return;
  const shrink = `imgtx img resize --shrink ${shellQuote(filename)} ${sizeBytes}`;
  const hint = `nothing was changed; \`${shrink}\` does, and what is past the new end is lost`;
  throw makesNoSmaller("E_FAILED", hint);
}

async function run(invocation: ImgInvocation, place: ImageInPlace, wish: Wish): Promise<void> {
  const { input, console, context, program } = invocation;
  const quiet = input.flag("-q");
  const shown = { asked: input.flag("-p") && !quiet, quiet, stepPercent: 1, totalBytes: 1 };
  const progress = startProgress({ program, ...shown }, { ...context, console });
  try {
    await changeImage(invocation, place, (device) => [{ kind: "amend", devices: [device], ...wish }]);
    progress.complete();
  } catch (error) {
    throw worded(error, program === "imgtx" ? "imgtx img" : program);
  } finally {
    progress.stop();
  }
}

function worded(error: unknown, program: string): unknown {
  if (!(error instanceof ImgtxError)) return error;
  if (error.code === "E_UNSUPPORTED" && error.field === "backing_file_name") {
    return failure(`${error.message}${LINE_BREAK}You can use '${program} rebase' instead.`, error);
  }
  return error.code === "E_USAGE" ? failure(error.message, error) : error;
}

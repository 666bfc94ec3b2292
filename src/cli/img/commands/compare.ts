// imgtx img compare

import { whileOpen } from "../../../errors/index.ts";
import { compareImages, type CompareResult } from "../../../format/index.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import { openSource, sourceOptions } from "../images/images.ts";
import { failure, usageError, wordsOf } from "../grammar/messages.ts";
import {
  forceShareOption,
  FORMAT_WORDS,
  formatOption,
  imageOptsOption,
  isCacheMode,
  objectOption,
  progressOption,
  quietOption,
  sourceCacheOption,
} from "../grammar/options.ts";
import { startProgress } from "../output/progress.ts";

const DIFFERENT = 1;
const NOT_OPENED = 2;
const EXTENTS_UNREADABLE = 3;
const DATA_UNREADABLE = 4;

export const compare: ImgCommand = {
  kind: "img",
  failureStatus: NOT_OPENED,
  definition: {
    arguments: [
      { name: "FILENAME1", about: "one image", completes: "file" },
      { name: "FILENAME2", about: "the other", completes: "file" },
    ],
    options: [
      objectOption,
      imageOptsOption,
      { ...formatOption, newer: ["a-format"], about: "the first image's format" },
      {
        short: "F",
        newer: ["b-format"],
        value: { name: "SECOND_FMT", completes: FORMAT_WORDS },
        about: "the second image's format",
      },
      sourceCacheOption,
      progressOption,
      quietOption,
      { short: "s", newer: ["strict"], about: "strict: sizes, and what is allocated, must match too" },
      forceShareOption,
    ],
    about:
      "Says whether two images hold the same guest data, whatever their formats. Where one is larger, only " +
      "zeros past the other's end are no difference.",
    examples: [
      { command: "imgtx img compare disk.qcow2 disk.raw", about: "is the copy right?" },
      { command: "imgtx img compare -q old.qcow2 new.qcow2 || echo differ", about: "in a script" },
    ],
    exits: [0, 1, 2, 3, 4],
    exitMeanings: {
      0: "the images are identical",
      1: "they differ, or the command line means nothing",
      2: "an image could not be opened",
      3: "what is allocated in an image could not be found out",
      4: "an image could not be read",
    },
  },
  async execute(invocation) {
    const { input, console, context, signal, program, tellsProgress } = invocation;
    const quiet = input.flag("-q");
    const [first, second, ...excess] = input.operands;
    if (first === undefined || second === undefined || excess.length > 0) {
      throw usageError("Expecting two image file names");
    }
    const cache = input.text("-T");
    if (cache !== undefined && !isCacheMode(cache)) throw failure(`Invalid source cache option: ${cache}`);
    const options = sourceOptions(invocation);
    return await whileOpen(await openSource(invocation, first, options), async (one) => {
      const other = await openSource(invocation, second, { ...options, format: input.text("-F") });
      return await whileOpen(other, async () => {
        const totalBytes = Math.max(one.virtualSizeBytes, other.virtualSizeBytes);
        const progress = startProgress(
          {
            program,
            asked: input.flag("-p") && !quiet,
            quiet,
            stepPercent: 2,
            totalBytes,
            asJson: tellsProgress,
          },
          { ...context, console },
        );
        try {
          const result = await compareImages(one, other, {
            strict: input.flag("-s"),
            signal,
            onProgress: (doneBytes) => {
              progress.update(doneBytes);
            },
          });
          if (result.kind === "identical") progress.complete();
          return report(result, [first, second], invocation);
        } finally {
          progress.stop();
        }
      });
    });
  },
};

/** Prints what was found, and returns the status for it. */
function report(
  result: CompareResult,
  filenames: readonly [string, string],
  { console, input, names }: ImgInvocation,
): number {
  const say = (text: string): void => {
    if (!input.flag("-q")) console.print(`${text}\n`);
  };
  switch (result.kind) {
    case "identical":
      if (result.sizesDiffer) say("Warning: Image size mismatch!");
      say("Images are identical.");
      return 0;
    case "sizes-differ":
      say("Strict mode: Image size mismatch!");
      return DIFFERENT;
    case "status-differs":
      say(`Strict mode: Offset ${result.offset} block status mismatch!`);
      return DIFFERENT;
    case "content-differs":
      if (result.beyond) say("Warning: Image size mismatch!");
      say(`Content mismatch at offset ${result.offset}!`);
      return DIFFERENT;
    case "unreadable": {
      const filename = filenames[result.which];
      if (result.what === "extents") {
        console.error(`Sector allocation test failed for ${filename}: ${wordsOf(result.error, names)}`);
        return EXTENTS_UNREADABLE;
      }
      console.error(
        `Error while reading offset ${result.offset} of ${filename}: ${wordsOf(result.error, names)}`,
      );
      return DATA_UNREADABLE;
    }
  }
}

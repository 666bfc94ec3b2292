// imgtx img bitmap

import { ImgtxError } from "../../errors/index.ts";
import { readBitmapDirectory } from "../../format/index.ts";
import type { BitmapRequest } from "../../transaction/index.ts";
import type { ImgCommand, ImgInvocation } from "./command.ts";
import { plainName } from "./image-name.ts";
import { parseDriver } from "./images.ts";
import { changeImage, lookAtImage } from "./in-place.ts";
import { failure } from "./messages.ts";
import { FORMAT_WORDS, imageOptsOption, longFormatOption, objectOption } from "./options.ts";

const OPERATIONS = ["add", "remove", "clear", "enable", "disable", "merge"] as const;
type Operation = (typeof OPERATIONS)[number];

export const bitmap: ImgCommand = {
  kind: "img",
  definition: {
    arguments: [
      { name: "FILENAME", about: "the image", completes: "file" },
      {
        name: "BITMAP",
        about: "the bitmap; left out with --remove-all",
        optional: true,
        completes: "nothing",
      },
    ],
    options: [
      { long: "add", about: "add the bitmap, enabled unless --disable follows" },
      { long: "remove", about: "take the bitmap away" },
      { long: "remove-all", about: "take all bitmaps away" },
      { long: "clear", about: "take all marks out of the bitmap" },
      { long: "enable", about: "have QEMU mark in it what is written" },
      { long: "disable", about: "leave it as it is from now on" },
      {
        long: "merge",
        value: { name: "SOURCE", completes: "nothing" },
        repeatable: true,
        about: "add the marks of the bitmap SOURCE to it",
      },
      {
        long: "granularity",
        short: "g",
        value: { name: "GRANULARITY", completes: ["512", "4k", "64k", "1M"] },
        about: "with --add: how much of the disk a bit stands for",
      },
      {
        long: "source-file",
        short: "b",
        value: { name: "SOURCE_FILE", completes: "file" },
        about: "with --merge: the image that SOURCE is in",
      },
      {
        long: "source-format",
        short: "F",
        value: { name: "SOURCE_FMT", completes: FORMAT_WORDS },
        about: "its format; else it is recognised",
      },
      longFormatOption,
      objectOption,
      imageOptsOption,
    ],
    about:
      "Changes a persistent bitmap of a qcow2 image. Several operations are done in the order they are given in, in one " +
      "transaction: all of them or none. Where the image is that of a device, they are the device's.",
    examples: [
      { command: "imgtx img bitmap --add disk.qcow2 backup-0", about: "mark what is written from now on" },
      {
        command: "imgtx img bitmap --merge backup-0 -b old.qcow2 -F qcow2 disk.qcow2 backup-0",
        about: "add what another image has marked",
      },
    ],
    exits: [0, 1, 130],
    exitMeanings: {
      0: "done",
      1: "failed; the image is as it was",
      130: "interrupted; the image is as it was",
    },
  },
  execute,
};

interface Step {
  readonly operation: Operation;
  readonly bitmap: string;
  readonly source?: string | undefined;
}

async function execute(invocation: ImgInvocation): Promise<number> {
  const { input } = invocation;
  const isAll = input.flag("--remove-all");
  const asked = input.inOrder(OPERATIONS.map((operation) => `--${operation}`));
  const [filename, name, ...others] = input.operands;
  const isComplete = filename !== undefined && others.length === 0 && (name === undefined) === isAll;
  if (!isComplete)
    throw failure(isAll ? "Expecting one image file name" : "Expecting filename and bitmap name");
  if (asked.length === 0 && !isAll) {
    throw failure("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
  }
  if (isAll && asked.length > 0) throw failure("--remove-all can't be combined with other operations");
  const steps = asked.map(({ flag, value }): Step => {
    const operation = OPERATIONS.find((one) => `--${one}` === flag);
    if (operation === undefined) throw new RangeError(`no operation ${flag}`);
    return { operation, bitmap: name ?? "", source: value };
  });
  const options = readOptions(invocation, steps);
  await run(invocation, filename, isAll ? undefined : steps, options);
  return 0;
}

type Options = Pick<BitmapRequest, "granularityBytes"> & {
  readonly file: string | undefined;
  readonly format: string | undefined;
};

function readOptions(invocation: ImgInvocation, steps: readonly Step[]): Options {
  const { input } = invocation;
  const isAsked = (wanted: Operation): boolean => steps.some(({ operation }) => operation === wanted);
  const [source, format] = [input.text("--source-file"), input.text("--source-format")];
  if (input.text("--granularity") !== undefined && !isAsked("add")) {
    throw failure("granularity only supported with --add");
  }
  if (format !== undefined && source === undefined) throw failure("-F only supported with -b");
  if (source !== undefined && !isAsked("merge")) {
    throw failure("Merge bitmap source file only supported with --merge");
  }
  return {
    granularityBytes: input.sizeBytes("--granularity", "granularity", {
      least: 1,
      most: 9223372036854775807n,
    }),
    file: source === undefined ? undefined : invocation.resolve(plainName(source)),
    format: parseDriver(format),
  };
}

/** Without steps: each bitmap that is there is taken away. */
async function run(
  invocation: ImgInvocation,
  filename: string,
  given: readonly Step[] | undefined,
  { granularityBytes, file, format }: Options,
): Promise<void> {
  const { place, steps } = await lookAtImage(invocation, filename, async ({ chain }, found) => {
    const [top] = chain.links;
    const there = given === undefined && top?.header ? await readBitmapDirectory(top) : [];
    const removals = there.map(({ name }): Step => ({ operation: "remove", bitmap: name }));
    return { place: found, steps: given ?? removals };
  });
  if (steps.length === 0) return;
  let failed = 0;
  try {
    await changeImage(
      invocation,
      place,
      (device) =>
        steps.map(({ operation, bitmap: name, source }) => ({
          kind: `bitmap-${operation}`,
          devices: [device],
          bitmap: name,
          isDisabled: false,
          granularityBytes,
          sources: source === undefined ? [] : [{ bitmap: source, file, format }],
        })),
      (index) => {
        failed = index ?? failed;
      },
    );
  } catch (error) {
    throw worded(error, steps[failed]);
  }
}

function worded(error: unknown, step: Step | undefined): unknown {
  if (!(error instanceof ImgtxError) || step === undefined || error.code === "E_LOCKED") return error;
  if (["E_INTERNAL", "E_INTERRUPTED", "E_TERMINATED"].includes(error.code)) return error;
  const { operation, bitmap: name } = step;
  const code = error.code === "E_USAGE" ? "E_FAILED" : error.code;
  return new ImgtxError(code, `Operation ${operation} on bitmap ${name} failed: ${error.message}`, {
    cause: error,
    ...(error.image !== undefined && { image: error.image }),
    ...(error.hint !== undefined && { hint: error.hint }),
  });
}

// imgtx img bitmap

import { ImgtxError } from "../../../errors/index.ts";
import { readBitmapDirectory } from "../../../format/index.ts";
import type { BitmapRequest } from "../../../transaction/index.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import { plainName } from "../grammar/image-name.ts";
import { parseDriver } from "../images/images.ts";
import { changeImage, lookAtImage } from "../images/in-place.ts";
import { failure } from "../grammar/messages.ts";
import { FORMAT_WORDS, imageOptsOption, longFormatOption, objectOption } from "../grammar/options.ts";

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

/** What was asked for, in order: a step, or to take away all bitmaps that are there by then. */
type Wish = Step | typeof REMOVE_ALL;

const REMOVE_ALL = "--remove-all";

async function execute(invocation: ImgInvocation): Promise<number> {
  const { input, qemuVersion } = invocation;
  const asked = input.inOrder([...OPERATIONS.map((operation) => `--${operation}`), REMOVE_ALL]);
  const [filename, name, ...others] = input.operands;
  if (asked.length === 0) {
    const newer = qemuVersion < 11 ? "" : "--remove-all, ";
    throw failure(`Need at least one of --add, --remove, ${newer}--clear, --enable, --disable, or --merge`);
  }
  const takesName = asked.some(({ flag }) => flag !== REMOVE_ALL);
  if (filename === undefined || others.length > 0 || (name !== undefined) !== takesName) {
    throw failure(takesName ? "Expecting filename and bitmap name" : "Expecting filename");
  }
  const wishes = asked.map(({ flag, value }): Wish => {
    const operation = OPERATIONS.find((one) => `--${one}` === flag);
    return operation === undefined ? REMOVE_ALL : { operation, bitmap: name ?? "", source: value };
  });
  await run(
    invocation,
    filename,
    wishes,
    readOptions(
      invocation,
      asked.map(({ flag }) => flag),
    ),
  );
  return 0;
}

type Options = Pick<BitmapRequest, "granularityBytes"> & {
  readonly file: string | undefined;
  readonly format: string | undefined;
};

function readOptions(invocation: ImgInvocation, flags: readonly string[]): Options {
  const { input } = invocation;
  const [source, format] = [input.text("--source-file"), input.text("--source-format")];
  if (input.text("--granularity") !== undefined && !flags.includes("--add")) {
    throw failure("granularity only supported with --add");
  }
  if (format !== undefined && source === undefined) throw failure("-F only supported with -b");
  if (source !== undefined && !flags.includes("--merge")) {
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

async function run(
  invocation: ImgInvocation,
  filename: string,
  wishes: readonly Wish[],
  { granularityBytes, file, format }: Options,
): Promise<void> {
  const { place, steps } = await lookAtImage(invocation, filename, async ({ chain }, found) => {
    const [top] = chain.links;
    const there = wishes.includes(REMOVE_ALL) && top?.header ? await readBitmapDirectory(top) : [];
    return {
      place: found,
      steps: toSteps(
        wishes,
        there.map(({ name }) => name),
      ),
    };
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

function toSteps(wishes: readonly Wish[], there: readonly string[]): Step[] {
  const names = new Set(there);
  return wishes.flatMap((wish): Step[] => {
    if (wish === REMOVE_ALL) {
      const removals = [...names].map((bitmap): Step => ({ operation: "remove", bitmap }));
      names.clear();
      return removals;
    }
    if (wish.operation === "add") names.add(wish.bitmap);
    if (wish.operation === "remove") names.delete(wish.bitmap);
    return [wish];
  });
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

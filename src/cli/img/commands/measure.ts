// imgtx img measure

import { ImgtxError, whileOpen } from "../../../errors/index.ts";
import {
  type CreateOptions,
  type ImageFormat,
  type Measured,
  measureQcow2,
  measureRaw,
  type MeasureSource,
  type SnapshotChoice,
} from "../../../format/index.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import { readSnapshot } from "./convert-flags.ts";
import { readCreateOptions, toCreateOptions } from "../grammar/create-options.ts";
import { knownFormat, openSource, sourceOptions } from "../images/images.ts";
import { failure, LINE_BREAK, PROGRAM_MARK } from "../grammar/messages.ts";
import { parseOptionLists } from "../grammar/option-list.ts";
import {
  forceShareOption,
  FORMAT_WORDS,
  formatOption,
  imageOptsOption,
  objectOption,
  outputOption,
} from "../grammar/options.ts";

export const measure: ImgCommand = {
  kind: "img",
  definition: {
    arguments: [{ name: "FILENAME", about: "the image to measure", optional: true, completes: "file" }],
    options: [
      { ...formatOption, newer: ["format", "source-format"] },
      outputOption,
      {
        short: "O",
        newer: ["target-format"],
        value: { name: "OUTPUT_FMT", completes: FORMAT_WORDS },
        about: "the format of the image to be made; raw by default",
      },
      {
        short: "o",
        newer: ["options", "target-format-options"],
        value: { name: "OPTIONS", completes: "nothing" },
        repeatable: true,
        about: "options of the image to be made, as for create",
      },
      {
        short: "l",
        newer: ["snapshot"],
        value: { name: "SNAPSHOT_PARAM", completes: "nothing" },
        about: "measure an internal snapshot: its id or name, or snapshot.id=ID,snapshot.name=NAME",
      },
      {
        long: "size",
        newer: ["s"],
        value: { name: "SIZE", completes: "nothing" },
        about: "measure an empty disk of this size, instead of an image",
      },
      objectOption,
      { ...imageOptsOption, newer: ["source-image-opts"] },
      forceShareOption,
    ],
    about:
      "Tells how large a new image would become that holds a disk's content: what is needed at least, and what " +
      "full allocation takes.",
    examples: [
      { command: "imgtx img measure -O qcow2 disk.raw", about: "how large disk.raw is as qcow2" },
      { command: "imgtx img measure -O qcow2 --size 1T", about: "what an empty disk of 1 TiB can grow to" },
    ],
    exits: [0, 1],
  },
  execute,
};

async function execute(invocation: ImgInvocation): Promise<number> {
  const { input } = invocation;
  const form = input.form;
  const sizeBytes = input.sizeBytes("--size", "image size");
  const [operand, ...excess] = input.operands;
  if (excess.length > 0) throw failure("At most one filename argument is allowed.");
  const needsImage =
    input.flag("--image-opts") || input.text("-f") !== undefined || input.text("-l") !== undefined;
  if (operand === undefined && needsImage) {
    throw failure("--image-opts, -f, and -l require a filename argument.");
  }
  if (operand === undefined && sizeBytes === undefined) {
    throw failure("Either --size N or one filename must be specified.");
  }
  if (operand !== undefined && sizeBytes !== undefined) {
    throw failure("--size N cannot be used together with a filename.");
  }
  const format = knownFormat(
    input.text("-O") ?? "raw",
    (driver) => `Block driver '${driver}' does not support size measurement`,
  );
  const options = targetOptions(format, input.texts("-o"));
  if (operand === undefined) {
    print(invocation, form, await measureFor(format, { virtualSizeBytes: sizeBytes ?? 0 }, options));
    return 0;
  }
  const snapshot = readSnapshot(input.text("-l"));
  await whileOpen(await openMeasured(invocation, operand, snapshot), async (image) => {
    print(invocation, form, await measureFor(format, { image }, options));
  });
  return 0;
}

/** Options that are no options of the format are refused as create refuses them, with a line more. */
function targetOptions(format: ImageFormat, lists: readonly string[]): CreateOptions {
  const listed = parseOptionLists(lists);
  try {
    return toCreateOptions(readCreateOptions(format, listed));
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code !== "E_FAILED") throw error;
    throw failure(
      `${error.message}${LINE_BREAK}${PROGRAM_MARK}Invalid options for file format '${format}'`,
      error,
    );
  }
}

async function openMeasured(
  invocation: ImgInvocation,
  operand: string,
  snapshot: SnapshotChoice | undefined,
): ReturnType<typeof openSource> {
  const options = { ...sourceOptions(invocation), snapshot };
  try {
    return await openSource(invocation, operand, options);
  } catch (error) {
    const cause = error instanceof ImgtxError ? error.cause : undefined;
    if (snapshot !== undefined && cause instanceof ImgtxError && cause.field === "snapshot") {
      throw failure("Failed to load snapshot: Can't find snapshot", error);
    }
    throw error;
  }
}

async function measureFor(
  format: ImageFormat,
  source: MeasureSource,
  options: CreateOptions,
): Promise<Measured> {
  if (format === "raw") return measureRaw(source);
  try {
    return await measureQcow2(source, options);
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code !== "E_USAGE") throw error;
    throw failure(error.message, error);
  }
}

function print({ console }: ImgInvocation, form: "human" | "json", measured: Measured): void {
  const { requiredBytes, fullyAllocatedBytes, bitmapsBytes } = measured;
  if (form === "json") {
    console.printJson({
      required: requiredBytes,
      "fully-allocated": fullyAllocatedBytes,
      bitmaps: bitmapsBytes,
    });
    return;
  }
  console.print(`required size: ${requiredBytes}\nfully allocated size: ${fullyAllocatedBytes}\n`);
  if (bitmapsBytes !== undefined) console.print(`bitmaps size: ${bitmapsBytes}\n`);
}

// imgtx img create

import { ImgtxError } from "../../../errors/index.ts";
import {
  createImage,
  type ImageFormat,
  type OpenedImage,
  openImage,
  planImage,
} from "../../../format/index.ts";
import { printable } from "../../render/printable.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import {
  describeOptions,
  drawOptionHelp,
  type OptionValues,
  readCreateOptions,
  toCreateOptions,
} from "../grammar/create-options.ts";
import { guardTargets, isOneFile } from "../images/guard-target.ts";
import { filesBelow, openSettled } from "../images/beside.ts";
import { backingPathOf, plainName } from "../grammar/image-name.ts";
import { holdBacking, isOtherDriver, knownFormat, parseDriver } from "../images/images.ts";
import { lockWaiting } from "../images/lock-waiting.ts";
import { failure, inFinalWords, LINE_BREAK, usageError, wordsOf } from "../grammar/messages.ts";
import { asksForHelp, parseOptionLists } from "../grammar/option-list.ts";
import { FORMAT_WORDS, objectOption, quietOption } from "../grammar/options.ts";
import { readSize } from "../grammar/size.ts";

export const create: ImgCommand = {
  kind: "img",
  definition: {
    arguments: [
      { name: "FILENAME", about: "the image to make; an existing file is emptied", completes: "file" },
      {
        name: "SIZE",
        about: "virtual size, as 64M or 1.5G; with a backing image the default is its size",
        optional: true,
        completes: "nothing",
      },
    ],
    options: [
      objectOption,
      quietOption,
      {
        short: "f",
        newer: ["format"],
        value: { name: "FMT", completes: FORMAT_WORDS },
        about: "the new image's format; raw by default",
      },
      {
        short: "b",
        newer: ["backing"],
        value: { name: "BACKING_FILE", completes: "file" },
        about: "the backing image; a relative name is relative to the new image",
      },
      {
        short: "F",
        newer: ["B", "backing-format"],
        value: { name: "BACKING_FMT", completes: FORMAT_WORDS },
        about: "the backing image's format",
      },
      { short: "u", newer: ["backing-unsafe"], about: "do not open the backing image, which may be missing" },
      {
        short: "o",
        newer: ["options"],
        value: { name: "OPTIONS", completes: "nothing" },
        repeatable: true,
        about: "options of the format, as name=value,name=value; -o help lists them",
      },
    ],
    about:
      "Makes a new, empty image, durable when the command ends with 0. A backing image is opened and must be " +
      "free of writers.",
    examples: [
      { command: "imgtx img create -f qcow2 disk.qcow2 20G", about: "a new disk of 20 GiB" },
      {
        command: "imgtx img create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2",
        about: "an overlay as large as its backing image",
      },
      {
        command: "imgtx img create -f qcow2 -o cluster_size=2M,preallocation=metadata disk.qcow2 1T",
        about: "large clusters, with all tables in place",
      },
    ],
    exits: [0, 1, 130],
    exitMeanings: {
      0: "made, and durable",
      1: "failed; what it made is removed, and a file that was there is empty, or as it was",
      130: "interrupted (143: terminated); the same",
    },
  },
  async execute(invocation) {
    const { input, console, qemuVersion } = invocation;
    const listed = parseOptionLists(input.texts("-o"));
    const formatName = input.text("-f") ?? "raw";
    const [filename, size, ...excess] = input.operands;
    if (asksForHelp(listed)) {
      console.print(drawOptionHelp(knownFormat(formatName), filename !== undefined, qemuVersion));
      return 0;
    }
    if (filename === undefined) throw usageError("Expecting image file name");
    const sizeBytes = size === undefined ? undefined : readSize("image size", size, qemuVersion);
    if (excess[0] !== undefined) throw usageError(`Unexpected argument: ${excess[0]}`);
    try {
      const path = invocation.resolveTarget(plainName(filename));
      const format = knownFormat(formatName);
      const values = mergeFlags(format, readCreateOptions(format, listed), sizeBytes, invocation);
      await makeImage(invocation, { filename, path, format, values });
    } catch (error) {
      throw named(error, filename, invocation);
    }
    return 0;
  },
};

interface NewImage {
  readonly filename: string;
  readonly path: string;
  readonly format: ImageFormat;
  readonly values: OptionValues;
}

/** -b, -F and the size win over what -o says, except that a size may be said once only. */
function mergeFlags(
  format: ImageFormat,
  listed: OptionValues,
  sizeBytes: number | undefined,
  { input }: ImgInvocation,
): OptionValues {
  const values = new Map(listed);
  const backingFile = input.text("-b");
  const backingFormat = input.text("-F");
  if (backingFile !== undefined && format === "raw") {
    throw failure("Backing file not supported for file format 'raw'");
  }
  if (backingFormat !== undefined && format === "raw") {
    throw failure("Backing format not supported for file format 'raw'");
  }
  if (backingFile !== undefined) values.set("backing_file", backingFile);
  if (backingFormat !== undefined) values.set("backing_fmt", backingFormat);
  if (sizeBytes !== undefined) {
    if (listed.has("size")) throw failure("The image size must be specified only once");
    values.set("size", String(sizeBytes));
  }
  if (values.get("backing_file") === "") throw failure("Expected backing file name, got empty string");
  return values;
}

async function makeImage(
  invocation: ImgInvocation,
  { filename, path, format, values }: NewImage,
): Promise<void> {
  const { input, console, context } = invocation;
  const backing = await openBacking(invocation, path, filename, values);
  try {
    const settled = new Map(values);
    if (!settled.has("size") && backing !== undefined) settled.set("size", String(backing.virtualSizeBytes));
    if (!settled.has("size")) throw failure("Image creation needs a size parameter");
    if (!input.flag("-q")) {
      console.print(`Formatting '${printable(filename)}', ${printable(describeOptions(format, settled))}\n`);
    }
    // qemu-img would make the overlay all the same, on shifting ground.
    if (backing !== undefined) await holdBacking(invocation, backing);
    const options = toCreateOptions(settled);
    const { backingFormat, dataFileName } = options;
    if (backingFormat !== undefined && !isDriver(backingFormat)) {
      throw failure(`Parameter 'backing-fmt' does not accept value '${backingFormat}'`);
    }
    const plan = await planImage({
      format,
      virtualSizeBytes: Number(settled.get("size")),
      backingSizeBytes: backing?.virtualSizeBytes,
      options,
    });
    const dataFilePath =
      dataFileName === undefined ? undefined : invocation.resolveTarget(plainName(dataFileName));
    const data = dataFilePath === undefined ? [] : [{ name: dataFilePath, path: dataFilePath }];
    await guardTargets(invocation, [{ name: filename, path }, ...data], backing ? [backing] : []);
    const warnings = await createImage(context.storage, plan, {
      path,
      dataFilePath,
      waiting: lockWaiting(invocation),
      gate: invocation.gate,
    });
    for (const warning of warnings) console.warning(warning);
  } finally {
    await backing?.close();
  }
}

function isDriver(name: string): boolean {
  return name === "raw" || name === "qcow2" || name === "file" || isOtherDriver(name);
}

/** Undefined where there is none, or where it is not to be opened. */
async function openBacking(
  invocation: ImgInvocation,
  path: string,
  filename: string,
  values: OptionValues,
): Promise<OpenedImage | undefined> {
  const name = values.get("backing_file");
  if (name === undefined) return undefined;
  const isUnsafe = invocation.input.flag("-u");
  const stated = values.get("backing_fmt");
  if (name === filename) {
    throw failure("Error: Trying to create an image with the same filename as the backing file");
  }
  if (isUnsafe) {
    if (await isOneFile(invocation, path, backingPathOf(path, name, invocation.context.cwd))) {
      throw failure("source and target are the same file: an image can't be its own backing image");
    }
    if (stated === undefined) throw failure("Backing file specified without backing format");
    return undefined;
  }
  const backing = await openBackingImage(invocation, path, name, stated);
  if (stated !== undefined) return backing;
  const { format } = backing;
  await backing.close();
  throw failure(`Backing file specified without backing format${LINE_BREAK}Detected format of ${format}.`);
}

async function openBackingImage(
  invocation: ImgInvocation,
  path: string,
  name: string,
  stated: string | undefined,
): Promise<OpenedImage> {
  const { context, gate, names } = invocation;
  const backingPath = backingPathOf(path, name, context.cwd);
  const open = async (format: ImageFormat | undefined): Promise<OpenedImage> =>
    await openSettled(invocation, () => openImage(context.storage, backingPath, { format, gate }), {
      filesOf: filesBelow,
      close: async (image) => await image.close(),
      isForced: false,
    });
  try {
    const format = parseDriver(stated);
    if (format !== undefined) return await open(format);
    return await open(undefined).catch((error: unknown) => {
      // The user named this file: that it may be raw is no guess of ours.
      if (error instanceof ImgtxError && error.code === "E_FORMAT_UNKNOWN") return open("raw");
      throw error;
    });
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL") throw error;
    throw inFinalWords(error, `${wordsOf(error, names)}${LINE_BREAK}Could not open backing image.`);
  }
}

function named(error: unknown, filename: string, { names }: ImgInvocation): unknown {
  if (!(error instanceof ImgtxError)) return error;
  if (["E_INTERNAL", "E_INTERRUPTED", "E_TERMINATED"].includes(error.code)) return error;
  const words = wordsOf(error, names);
  return words.startsWith(`${filename}: `) ? error : inFinalWords(error, `${filename}: ${words}`);
}

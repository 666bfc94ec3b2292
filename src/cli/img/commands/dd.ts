// imgtx img dd

import { guestRange } from "../../../units/index.ts";
import { ImgtxError, whileOpen } from "../../../errors/index.ts";
import { convertToNew, type OpenedImage, planImage, SliceImage } from "../../../format/index.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import { guardTargets } from "../images/guard-target.ts";
import { plainName } from "../grammar/image-name.ts";
import { isOtherDriver, openSource, sourceOptions } from "../images/images.ts";
import { lockWaiting } from "../images/lock-waiting.ts";
import { failure, wordsOf } from "../grammar/messages.ts";
import {
  forceShareOption,
  FORMAT_WORDS,
  formatOption,
  imageOptsOption,
  objectOption,
} from "../grammar/options.ts";
import { readSize } from "../grammar/size.ts";

const BLOCK_BYTES_DEFAULT = 512;
const BLOCK_LIMITS = { least: 1, most: 2147483647n };
const SPARSE_BYTES = 4096;
const REQUESTS = 8;

export const dd: ImgCommand = {
  kind: "img",
  definition: {
    arguments: [
      {
        name: "OPERAND",
        about:
          "if=FILE to read, of=FILE to make, bs=BYTES of a block (512), count=N blocks of the input, skip=N blocks",
        variadic: true,
        completes: "file",
      },
    ],
    options: [
      objectOption,
      imageOptsOption,
      forceShareOption,
      { ...formatOption, about: "the input's format; else it is recognised" },
      {
        short: "O",
        newer: ["output-format"],
        value: { name: "OUTPUT_FMT", completes: FORMAT_WORDS },
        about: "the output's format; raw by default",
      },
    ],
    about:
      "Copies a part of an image's guest data into a new image. count counts from the start of the input, " +
      "before what is skipped, as in qemu-img.",
    examples: [
      {
        command: "imgtx img dd -f qcow2 if=disk.qcow2 of=start.raw bs=1M count=1",
        about: "the first megabyte",
      },
    ],
    exits: [0, 1, 130],
    exitMeanings: {
      0: "copied",
      1: "failed; what it made is removed, and a file that was there is empty, or as it was",
      130: "interrupted (143: terminated); the same",
    },
  },
  async execute(invocation) {
    const operands = readOperands(invocation);
    const source = await openSource(invocation, operands.input, sourceOptions(invocation));
    await whileOpen(source, async () => {
      await copyPart(invocation, operands, source);
    });
    return 0;
  },
};

interface Operands {
  readonly input: string;
  readonly output: string;
  readonly format: "raw" | "qcow2";
  readonly blockBytes: number;
  readonly count: number | undefined;
  readonly skip: number;
}

function readOperands({ input, qemuVersion }: ImgInvocation): Operands {
  const values = new Map<string, string>();
  for (const operand of input.operands) {
    const equals = operand.indexOf("=");
    const name = equals === -1 ? operand : operand.slice(0, equals);
    if (equals === -1 || !["bs", "count", "if", "of", "skip"].includes(name)) {
      throw failure(`unrecognized operand ${name}`);
    }
    values.set(name, operand.slice(equals + 1));
  }
  const number = (name: string): number | undefined => {
    const text = values.get(name);
    const limits = name === "bs" ? BLOCK_LIMITS : undefined;
    return text === undefined ? undefined : readSize(name, text, qemuVersion, limits);
  };
  const [blockBytes, count, skip] = [number("bs"), number("count"), number("skip")];
  const [from, to] = [values.get("if"), values.get("of")];
  if (from === undefined || to === undefined) throw failure("Must specify both input and output files");
  return {
    input: from,
    output: to,
    format: outputFormat(input.text("-O") ?? "raw"),
    blockBytes: blockBytes ?? BLOCK_BYTES_DEFAULT,
    count,
    skip: skip ?? 0,
  };
}

function outputFormat(name: string): "raw" | "qcow2" {
  if (name === "raw" || name === "qcow2") return name;
  if (isOtherDriver(name)) throw failure(`imgtx does not make images in the format '${name}'`);
  throw failure("Unknown file format");
}

async function copyPart(invocation: ImgInvocation, operands: Operands, source: OpenedImage): Promise<void> {
  const { console, context, signal, gate } = invocation;
  const { blockBytes, count, skip, output, format } = operands;
  const end = Math.min(source.virtualSizeBytes, (count ?? Number.MAX_SAFE_INTEGER) * blockBytes);
  const start = Math.min(end, skip * blockBytes);
  const isBeyond = skip * blockBytes > end;
  const part = new SliceImage(source, guestRange(start, end - start));
  try {
    const plan = await planImage({ format, virtualSizeBytes: end - start, options: {} });
    const path = invocation.resolveTarget(plainName(output));
    const copy = {
      compressed: false,
      sparseBytes: SPARSE_BYTES,
      backingBytes: undefined,
      atOnce: REQUESTS,
      inOrder: true,
      inKernel: false,
      signal,
    };
    await guardTargets(invocation, [{ name: output, path }], [source]);
    await convertToNew([part], { path, plan, dataFilePath: undefined, mayClone: false }, copy, {
      storage: context.storage,
      gate,
      waiting: lockWaiting(invocation),
      durable: true,
    });
  } catch (error) {
    throw worded(error, output, invocation);
  }
  // As dd does: nothing was there to be copied, which is a warning.
  if (isBeyond) console.error(`${operands.input}: cannot skip to specified offset`);
}

function worded(error: unknown, output: string, { names }: ImgInvocation): unknown {
  if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL") return error;
  if (error.doing === "copy" || ["E_FAILED", "E_INTERRUPTED", "E_TERMINATED"].includes(error.code))
    return error;
  const message = `${output}: error while creating output image: ${wordsOf(error, names)}`;
  return new ImgtxError(error.code, message, {
    cause: error,
    ...(error.image !== undefined && { image: error.image }),
  });
}

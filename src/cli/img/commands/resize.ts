// imgtx img resize

import { ImgtxError } from "../../../errors/index.ts";
import type { OpenedImage } from "../../../format/index.ts";
import { parseSizeBytes } from "../../../units/index.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import { changeImage, type ImageInPlace, lookAtImage } from "../images/in-place.ts";
import { failure, LINE_BREAK, PROGRAM_MARK, usageError } from "../grammar/messages.ts";
import { formatOption, imageOptsOption, objectOption, quietOption } from "../grammar/options.ts";
import { isBeyondOurs, tooLargeForUs } from "../grammar/size.ts";

const PREALLOCATION = ["off", "metadata", "falloc", "full"] as const;

export const resize: ImgCommand = {
  kind: "img",
  endsInOperand: true,
  definition: {
    arguments: [
      { name: "FILENAME", about: "the image", completes: "file" },
      {
        name: "SIZE",
        about: "the size of its disk, such as 20G; +5G adds to it, -5G takes",
        completes: "nothing",
      },
    ],
    options: [
      formatOption,
      objectOption,
      imageOptsOption,
      { long: "shrink", about: "let the disk become smaller; what lies after the new end is lost" },
      {
        long: "preallocation",
        value: { name: "PREALLOC", completes: PREALLOCATION },
        about: "of a larger disk: off; metadata: entries (qcow2); falloc: space as well; full: zeros as well",
      },
      quietOption,
    ],
    about:
      "Gives the disk of an image another size, in one transaction: after a crash it has the old size or the new one. " +
      "Internal snapshots and bitmaps stay. Where the image is that of a device, the device is resized.",
    examples: [
      { command: "imgtx img resize disk.qcow2 20G", about: "a disk of 20 GiB" },
      { command: "imgtx img resize -f raw --shrink disk.raw -5G", about: "take 5 GiB off its end" },
    ],
    exits: [0, 1, 130],
    exitMeanings: {
      0: "resized",
      1: "failed; the image is as it was",
      130: "interrupted; the image is as it was",
    },
  },
  execute,
};

async function execute(invocation: ImgInvocation): Promise<number> {
  const { input, console, qemuVersion } = invocation;
  const [filename, text, ...others] = input.operands;
  const expected = "Expecting image file name and size";
  if (filename === undefined || text === undefined) {
    throw usageError(qemuVersion < 10 ? "Not enough arguments" : expected);
  }
  const preallocation = readPreallocation(input.text("--preallocation"));
  if (others.length > 0) {
    throw usageError(qemuVersion < 10 ? expected : "Extra argument(s) in command line");
  }
  const size = readSize(text);
  const judge = async (image: OpenedImage, found: ImageInPlace) => {
    const before = image.virtualSizeBytes;
    const after = size.isRelative ? before + size.bytes : size.bytes;
    if (after <= 0) throw failure("New image size must be positive");
    if (preallocation !== "off" && after <= before) {
      throw failure("Preallocation can only be used for growing images");
    }
    if (after < before && !input.flag("--shrink")) throw refuseShrinking();
    const isDevice = image.chain.links[0]?.stat.kind === "device";
    if (isDevice && found.format === "raw") throw failure("Cannot resize device files");
    if (found.part?.lengthBytes !== undefined) throw failure("Cannot resize fixed-size raw disks");
    return Promise.resolve({ place: found, isSmaller: after < before });
  };
  const { place, isSmaller } = await lookAtImage(invocation, filename, judge, { mayBePart: true });
  // A part without a length ends where its file does.
  const start = size.isRelative ? 0 : (place.part?.start ?? 0);
  await changeImage(invocation, place, (device) => [
    {
      kind: "resize",
      device,
      sizeBytes: start + size.bytes,
      isRelative: size.isRelative,
      // Asked for above, of the disk as it was; where it is another by now it is not cut.
      shrink: isSmaller,
      force: true,
      preallocation,
    },
  ]).catch((error: unknown) => {
    throw worded(error, place);
  });
  if (!input.flag("-q")) console.print("Image resized.\n");
  return 0;
}

function readPreallocation(text: string | undefined): (typeof PREALLOCATION)[number] {
  const mode = PREALLOCATION.find((one) => one === (text ?? "off"));
  if (mode === undefined) throw failure(`Invalid preallocation mode '${text}'`);
  return mode;
}

function readSize(text: string): { readonly bytes: number; readonly isRelative: boolean } {
  const [, sign = "", digits = ""] = /^([+-]?)(.*)$/s.exec(text) ?? [];
  const bytes = parseSizeBytes(digits);
  if (bytes !== undefined) return { bytes: sign === "-" ? -bytes : bytes, isRelative: sign !== "" };
  if (isBeyondOurs(digits)) throw tooLargeForUs("image size");
  throw failure(
    `Parameter 'size' expects a non-negative number below 2^64${LINE_BREAK}` +
      `Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-${LINE_BREAK}and exabytes, respectively.`,
  );
}

function refuseShrinking(): Error {
  return failure(
    `Use the --shrink option to perform a shrink operation.${LINE_BREAK}${PROGRAM_MARK}` +
      "warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an " +
      "operation, make sure there is no important data there.",
  );
}

/** What is wrong with the size is no grammar of the command line. */
function worded(error: unknown, { operand }: ImageInPlace): unknown {
  if (!(error instanceof ImgtxError) || error.code !== "E_USAGE") return error;
  return new ImgtxError("E_FAILED", error.message, { cause: error, image: operand });
}

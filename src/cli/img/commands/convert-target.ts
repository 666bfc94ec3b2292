// What convert is to make: the plan of the new image, and what it stands on.

import { elseClosed, ImgtxError } from "../../../errors/index.ts";
import { type ImagePlan, type OpenedImage, openImage, planImage } from "../../../format/index.ts";
import type { ImgInvocation } from "../command.ts";
import type { ConvertFlags } from "./convert-flags.ts";
import { type OptionValues, readCreateOptions, toCreateOptions } from "../grammar/create-options.ts";
import { backingPathOf, plainName } from "../grammar/image-name.ts";
import { knownFormat, explained, holdBacking, parseDriver } from "../images/images.ts";
import { failure, wordsOf } from "../grammar/messages.ts";

const NO_BACKING_OF_SEVERAL =
  "Having a backing file for the target makes no sense when concatenating multiple input images";

export interface TargetPlan {
  readonly path: string;
  readonly plan: ImagePlan;
  readonly dataFilePath: string | undefined;
  /** Nothing was said that asks for space to be taken. */
  readonly mayBeSparse: boolean;
  readonly backing: { readonly name: string; readonly format: string } | undefined;
}

/** E_FAILED in qemu-img's words. */
export async function planTarget(
  invocation: ImgInvocation,
  flags: ConvertFlags,
  sources: readonly OpenedImage[],
  totalBytes: number,
  output: string,
): Promise<TargetPlan> {
  const format = knownFormat(flags.outputFormat ?? "raw");
  const values = new Map(readCreateOptions(format, flags.listed));
  const backingFile = invocation.input.text("-B");
  const backingFormat = invocation.input.text("-F");
  if (format === "raw" && backingFile !== undefined) {
    throw failure("Backing file not supported for file format 'raw'");
  }
  if (backingFile !== undefined) values.set("backing_file", backingFile);
  if (backingFormat !== undefined) values.set("backing_fmt", backingFormat);
  refuseOptions(flags, format, values, sources.length);
  const options = toCreateOptions(values);
  const { dataFileName, backingFileName } = options;
  try {
    const path = invocation.resolveTarget(plainName(output));
    const plan = await planImage({ format, virtualSizeBytes: totalBytes, options });
    return {
      path,
      plan,
      dataFilePath:
        dataFileName === undefined ? undefined : invocation.resolveTarget(plainName(dataFileName)),
      mayBeSparse: (options.preallocation ?? "off") === "off",
      backing:
        backingFileName === undefined
          ? undefined
          : { name: backingFileName, format: options.backingFormat ?? "" },
    };
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL") throw error;
    const words = wordsOf(error, invocation.names);
    throw failure(`${output}: error while converting ${format}: ${words}`, error);
  }
}

function refuseOptions(
  flags: ConvertFlags,
  format: "raw" | "qcow2",
  values: OptionValues,
  sourceCount: number,
): void {
  const hasBacking = values.has("backing_file");
  if (sourceCount > 1 && hasBacking) {
    throw failure(NO_BACKING_OF_SEVERAL);
  }
  if (hasBacking && !values.has("backing_fmt")) {
    throw failure("Use of backing file requires explicit backing format");
  }
  if (values.get("keep_data_file") === "on") {
    throw failure("keep_data_file=on: a conversion writes the data file anew");
  }
  if (!flags.compressed) return;
  if (format === "raw") throw failure("Compression not supported for this file format");
  if (values.has("data_file")) throw failure("Compression and an external data file exclude each other");
  if ((values.get("preallocation") ?? "off") !== "off") {
    throw failure("Compression and preallocation not supported at the same time");
  }
}

/** What the target will stand on. */
export interface TargetBacking {
  readonly sizeBytes: number;
  /** Held against writers for as long as the conversion takes: undefined where it could not be opened here. */
  readonly image: OpenedImage | undefined;
}

/** Undefined where the target stands alone. The backing image must open before anything is made. */
export async function openTargetBacking(
  invocation: ImgInvocation,
  flags: ConvertFlags,
  target: TargetPlan | undefined,
  output: string,
  sourceCount: number,
): Promise<TargetBacking | undefined> {
  const given = invocation.input.text("-B");
  if (target === undefined) {
    if (given === undefined) return undefined;
    if (flags.targetIsZero) {
      throw failure("Cannot use --target-is-zero when the destination image has a backing file");
    }
    if (sourceCount > 1) throw failure(NO_BACKING_OF_SEVERAL);
    // Its size is not known, and nothing is left out past its end.
    return { sizeBytes: Number.MAX_SAFE_INTEGER, image: undefined };
  }
  const { backing, path } = target;
  if (backing === undefined) return undefined;
  const { context, gate } = invocation;
  return explained(invocation, output, async () => {
    try {
      const image = await openImage(context.storage, backingPathOf(path, backing.name, context.cwd), {
        format: parseDriver(backing.format),
        gate,
      });
      await elseClosed(image, async () => {
        await holdBacking(invocation, image);
      });
      return { sizeBytes: image.virtualSizeBytes, image };
    } catch (error) {
      if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL") throw error;
      throw error.within("Could not open backing file: ");
    }
  });
}

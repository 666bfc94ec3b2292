// `-o` for a new image of an action: qemu-img's options of `create`, but those that the action decides by itself.

import { ImgtxError } from "../../errors/index.ts";
import type { CreateOptions, ImageFormat } from "../../format/index.ts";
import type { OptionDefinition } from "../grammar/definition.ts";
import type { CommandInput } from "../grammar/input.ts";
import { readCreateOptions, toCreateOptions } from "../img/grammar/create-options.ts";
import { LINE_BREAK } from "../img/grammar/messages.ts";
import { parseOptionLists } from "../img/grammar/option-list.ts";

export const IMAGE_OPTIONS: OptionDefinition = {
  short: "o",
  value: {
    name: "KEY=VALUE,...",
    completes: ["cluster_size=", "preallocation=", "compression_type=", "extended_l2=on", "refcount_bits="],
  },
  repeatable: true,
  about: "how the new image is laid out, in qemu-img's words: `imgtx img create -o help` lists them",
};

const OWN_KEYS = ["backing_file", "backing_fmt", "size"];

/** E_USAGE for what the format does not have. A data file's name is made absolute. */
export function readImageOptions(input: CommandInput, format: ImageFormat): CreateOptions {
  const lists = input.texts("-o");
  if (lists.length === 0) return {};
  try {
    const listed = parseOptionLists(lists);
    const own = listed.find(({ name }) => OWN_KEYS.includes(name));
    if (own) throw new ImgtxError("E_USAGE", `${own.name}: the command sets it by itself`);
    const options = toCreateOptions(readCreateOptions(format, listed));
    const { dataFileName } = options;
    return dataFileName === undefined ? options : { ...options, dataFileName: input.resolve(dataFileName) };
  } catch (error) {
    throw asUsage(error, `\`imgtx img create -f ${format} -o help\` lists the options`);
  }
}

/** The same of an error in qemu-img's words. */
export function asUsage(error: unknown, hint: string): unknown {
  if (!(error instanceof ImgtxError)) return error;
  const [first, ...others] = error.message.split(LINE_BREAK);
  return new ImgtxError("E_USAGE", `-o: ${first}`, { hint: [...others, hint].join("; "), cause: error });
}

// Options that several commands of `imgtx img` take, as data for their definitions.

import type { OptionDefinition } from "../../grammar/definition.ts";
import { qemuVersionOption } from "./qemu-version.ts";

// Before the verb, as qemu-img has them.
export const STANDARD_OPTIONS: readonly OptionDefinition[] = [
  { long: "help", short: "h", about: "print the commands" },
  { long: "version", short: "V", about: "print the version" },
  {
    long: "trace",
    short: "T",
    value: { name: "TRACE", completes: "nothing" },
    about: "taken, without effect",
  },
  qemuVersionOption,
];

export const HELP_OPTION: OptionDefinition = { long: "help", short: "h", about: "explain the command" };

/** The drivers' names that `-f` and `-O` are completed with. */
export const FORMAT_WORDS = ["qcow2", "raw"] as const;
const CACHE_WORDS = ["none", "writeback", "writethrough", "directsync", "unsafe"] as const;

export const formatOption: OptionDefinition = {
  short: "f",
  newer: ["format"],
  value: { name: "FMT", completes: FORMAT_WORDS },
  about: "the image's format; else it is recognised, and raw where it is none that is known",
};

/** The same for the commands where qemu-img has the long name too. */
export const longFormatOption: OptionDefinition = { ...formatOption, long: "format", newer: [] };

export const imageOptsOption: OptionDefinition = {
  long: "image-opts",
  about: "take file names as lists of options: driver=qcow2,file.filename=NAME",
};

export const forceShareOption: OptionDefinition = {
  long: "force-share",
  short: "U",
  about: "read even while others write; what is read may be inconsistent then",
};

export const objectOption: OptionDefinition = {
  long: "object",
  value: { name: "OBJECTDEF", completes: "nothing" },
  repeatable: true,
  about: "refused: secrets and other objects of QEMU are not supported",
};

export const quietOption: OptionDefinition = {
  short: "q",
  newer: ["quiet"],
  about: "print nothing but errors",
};
export const progressOption: OptionDefinition = { short: "p", newer: ["progress"], about: "show progress" };

export const outputOption: OptionDefinition = {
  long: "output",
  value: { name: "OFMT", completes: ["human", "json"] },
  about: "human (the default) or json",
};

export const cacheOption: OptionDefinition = {
  short: "t",
  newer: ["cache"],
  value: { name: "CACHE", completes: CACHE_WORDS },
  about: "cache mode of the target: none, writeback, writethrough, directsync or unsafe",
};

export const sourceCacheOption: OptionDefinition = {
  short: "T",
  newer: ["cache"],
  value: { name: "SRC_CACHE", completes: CACHE_WORDS },
  about: "cache mode of the sources; taken, and without effect",
};

/** Whether QEMU knows a cache mode of this name. */
export function isCacheMode(name: string): boolean {
  return name === "off" || (CACHE_WORDS as readonly string[]).includes(name);
}

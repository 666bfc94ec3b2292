// Which qemu-img `imgtx img` prints like: `--qemu-img` and IMGTX_QEMU_IMG. What it reads is the grammar of all of them.

import { ImgtxError } from "../../../errors/index.ts";
import type { CliContext } from "../../context.ts";
import type { OptionDefinition } from "../../grammar/definition.ts";

/**
 * The form of what is printed, by the version that began it: 8 tells the file below an image, 10 has a help for each
 * command, and 11 other words in complaints.
 */
export type QemuVersion = 7.2 | 8 | 10 | 11;

const WORDS: ReadonlyMap<string, QemuVersion> = new Map([
  ["7.2", 7.2],
  ["8", 8],
  ["10", 10],
  ["11", 11],
]);
export const OLDEST: QemuVersion = 7.2;
/** Where nothing is said. */
export const CURRENT: QemuVersion = 10;
export const QEMU_VERSION = "--qemu-img";
const VARIABLE = "IMGTX_QEMU_IMG";

export const qemuVersionOption: OptionDefinition = {
  long: QEMU_VERSION.slice(2),
  value: { name: "VERSION", completes: [...WORDS.keys()] },
  about: `print as this version of qemu-img does: 7.2, 8, 10 (the default) or 11; also ${VARIABLE}`,
};

/** Of the last value that was given, else of the environment. E_USAGE for a version that is none of them. */
export function readQemuVersion(given: readonly string[], { env }: Pick<CliContext, "env">): QemuVersion {
  const last = given.at(-1);
  const inherited = env[VARIABLE];
  if (last === undefined && (inherited === undefined || inherited === "")) return CURRENT;
  const text = last ?? inherited ?? "";
  const version = WORDS.get(text);
  if (version !== undefined) return version;
  const words = [...WORDS.keys()].join(", ");
  throw new ImgtxError(
    "E_USAGE",
    `${last === undefined ? VARIABLE : QEMU_VERSION}: '${text}' is none of ${words}`,
    {
      hint: "say the version that the script was written for, or the nearest one below",
    },
  );
}

const SPOKEN: Readonly<Record<QemuVersion, string>> = {
  7.2: "7.2.0",
  8: "8.2.0",
  10: "10.0.0",
  11: "11.1.0",
};

/** What `--version` says. */
export function spokenVersion(version: QemuVersion): string {
  return SPOKEN[version];
}

// Sizes on qemu-img's command line, and how it complains of them.

import { parseSizeBytes } from "../../../units/index.ts";
import { failure, LINE_BREAK, PROGRAM_MARK } from "./messages.ts";
import type { QemuVersion } from "./qemu-version.ts";

export interface SizeLimits {
  readonly least: number;
  /** Above 2^53 only for the message: no such size is taken. */
  readonly most: bigint;
}

const ANY_SIZE: SizeLimits = { least: 0, most: 9223372036854775807n };
const NUMBER_LIKE = /^(0x[0-9a-f]+|\d+(\.\d*)?[kmgtpe]|\d+b?)$/i;

/** Above, a double does not hold every byte's place. */
const MOST_BYTES = BigInt(Number.MAX_SAFE_INTEGER);
const SUFFIXES = "bkmgtpe";

/** Whether qemu-img takes the size, and imgtx does not. */
export function isBeyondOurs(text: string): boolean {
  if (!NUMBER_LIKE.test(text)) return false;
  const digits = /^0x[0-9a-f]+$/i.test(text) ? text : text.replace(/[a-z]$/i, "");
  const power = digits === text ? 0 : SUFFIXES.indexOf(text.slice(-1).toLowerCase());
  const bytes = Number(digits) * 1024 ** power;
  return bytes > Number.MAX_SAFE_INTEGER && bytes < 2 ** 63;
}

export function tooLargeForUs(what: string): Error {
  return failure(
    `The ${what} is too large: imgtx takes sizes below 8 PiB (${MOST_BYTES + 1n} bytes), which is less than the ` +
      "format could hold",
  );
}

/** `what` names it in the complaint: "image size". */
export function readSize(
  what: string,
  text: string,
  qemuVersion: QemuVersion,
  limits: SizeLimits = ANY_SIZE,
): number {
  // strtod takes blanks and a plus in front, and a point without digits after it.
  const plain = text
    .trimStart()
    .replace(/^\+/, "")
    .replace(/\.(?=[kmgtpe]$)/i, "");
  const bytes = parseSizeBytes(plain);
  if (bytes !== undefined && bytes >= limits.least && BigInt(bytes) <= limits.most) return bytes;
  if (bytes === undefined && limits.most > MOST_BYTES && isBeyondOurs(plain)) {
    throw tooLargeForUs(what);
  }
  const isNumber = NUMBER_LIKE.test(qemuVersion < 10 ? plain : plain.replace(/^-/, ""));
  if (bytes !== undefined || isNumber) {
    throw failure(`Invalid ${what} specified. Must be between ${limits.least} and ${limits.most}.`);
  }
  if (qemuVersion >= 10) {
    throw failure(`Invalid ${what} specified: '${text}'${qemuVersion === 10 ? "." : ""}`);
  }
  throw failure(
    `Invalid ${what} specified. You may use k, M, G, T, P or E suffixes for${LINE_BREAK}` +
      `${PROGRAM_MARK}kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.`,
  );
}

interface CountLimits {
  readonly least: number;
  readonly most: number;
  /** What older versions say after its name, of one that can't be. */
  readonly words?: string;
}

/** A number without a suffix. */
export function readCount(
  what: string,
  text: string,
  qemuVersion: QemuVersion,
  { least, most, words = " specified" }: CountLimits,
): number {
  const isNumber = /^\s*[+-]?(0x[0-9a-f]+|\d+)$/i.test(text);
  const count = isNumber ? Number(text) : Number.NaN;
  if (count >= least && count <= most) return count;
  if (qemuVersion < 10) throw failure(`Invalid ${what}${words}`);
  if (isNumber) throw failure(`Invalid ${what} specified. Must be between ${least} and ${most}.`);
  throw failure(`Invalid ${what} specified: '${text}'${qemuVersion === 10 ? "." : ""}`);
}

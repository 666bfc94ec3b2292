// Sizes on qemu-img's command line, and how it complains of them.

import { parseSizeBytes } from "../../units/index.ts";
import { failure, PROGRAM_MARK } from "./messages.ts";

export interface SizeLimits {
  readonly least: number;
  /** Above 2^53 only for the message: no such size is taken. */
  readonly most: bigint;
}

const ANY_SIZE: SizeLimits = { least: 0, most: 9223372036854775807n };
const NUMBER_LIKE = /^(0x[0-9a-f]+|\d+(\.\d*)?[kmgtpe]|\d+b?)$/i;

/** `what` names it in the complaint: "image size". */
export function readSize(what: string, text: string, limits: SizeLimits = ANY_SIZE): number {
  // strtod takes blanks and a plus in front, and a point without digits behind it.
  const plain = text
    .trimStart()
    .replace(/^\+/, "")
    .replace(/\.(?=[kmgtpe]$)/i, "");
  const bytes = parseSizeBytes(plain);
  if (bytes !== undefined && bytes >= limits.least && BigInt(bytes) <= limits.most) return bytes;
  if (bytes !== undefined || NUMBER_LIKE.test(plain)) {
    throw failure(`Invalid ${what} specified. Must be between ${limits.least} and ${limits.most}.`);
  }
  throw failure(
    `Invalid ${what} specified. You may use k, M, G, T, P or E suffixes for\n` +
      `${PROGRAM_MARK}kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.`,
  );
}

// The hint of an error: its own, or one that fits each file that is missing, closed to the user, or no file.
// These are the first that anybody meets, and whoever threw them knew only a path and what the system said.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import { shellQuote } from "../../format/index.ts";

/** What nobody may do for now, not even root, where "Permission denied" is about this user. */
const NOT_PERMITTED = "Operation not permitted";

const HINT_OF_CODE: Readonly<Record<string, (path: string, reason: string | undefined) => string>> = {
  E_NOT_FOUND: (path) =>
    `check the name, and that the file system is mounted: \`ls -l ${shellQuote(posix.dirname(path))}\``,
  E_NO_PERMISSION: (path, reason) =>
    reason === NOT_PERMITTED
      ? `\`lsattr -d ${shellQuote(path)} ${shellQuote(posix.dirname(path))}\` shows flags that \`chattr -i -a\` takes away, immutable (i) and append-only (a); and \`namei -l ${shellQuote(path)}\` who owns it, which alone counts in a folder with 't'`
      : `\`namei -l ${shellQuote(path)}\` shows who may go there; run imgtx as a user who may, or have the rights changed`,
  E_READ_ONLY: (path) =>
    `mount the file system for writing; \`findmnt -T ${shellQuote(posix.dirname(path))}\` shows which one it is`,
  E_NOT_A_FILE: (path) =>
    `\`namei -m ${shellQuote(path)}\` shows which part of the name is not the file or the folder that it has to be`,
};

export function hintOf(error: ImgtxError): string | undefined {
  if (error.hint !== undefined) return error.hint;
  const causes: ImgtxError[] = [];
  for (let cause: unknown = error; cause instanceof ImgtxError && causes.length < 10; cause = cause.cause) {
    if (HINT_OF_CODE[cause.code] !== undefined) causes.push(cause);
  }
  const own = causes.find(({ hint }) => hint !== undefined)?.hint;
  const placed = causes.find(({ image }) => image !== undefined);
  return (
    own ??
    (placed?.image === undefined ? undefined : HINT_OF_CODE[placed.code]?.(placed.image, placed.reason))
  );
}

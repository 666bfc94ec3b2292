// The one place where an errno becomes an ImgtxError: its code, and its words as qemu-img prints them.

import { getSystemErrorMap } from "node:util";
import { type ErrorCode, ImgtxError } from "../errors/index.ts";

interface Meaning {
  readonly code: ErrorCode;
  readonly text: string;
  readonly hint?: string;
}

const FREE_SPACE = "free some space there, then run the command again";

const MEANING_OF_ERRNO: Readonly<Record<string, Meaning>> = {
  ENOENT: { code: "E_NOT_FOUND", text: "No such file or directory" },
  ENAMETOOLONG: { code: "E_NOT_FOUND", text: "File name too long" },
  // What Node throws for a name with a NUL byte, which no file can have.
  ERR_INVALID_ARG_VALUE: { code: "E_NOT_FOUND", text: "The name holds a NUL byte" },
  EEXIST: { code: "E_EXISTS", text: "File exists" },
  ENOTEMPTY: { code: "E_EXISTS", text: "Directory not empty" },
  EACCES: { code: "E_NO_PERMISSION", text: "Permission denied" },
  EPERM: { code: "E_NO_PERMISSION", text: "Operation not permitted" },
  EROFS: { code: "E_READ_ONLY", text: "Read-only file system" },
  ENOSPC: { code: "E_NO_SPACE", text: "No space left on device", hint: FREE_SPACE },
  EDQUOT: { code: "E_NO_SPACE", text: "Disk quota exceeded", hint: FREE_SPACE },
  EISDIR: { code: "E_NOT_A_FILE", text: "Is a directory" },
  ENOTDIR: { code: "E_NOT_A_FILE", text: "Not a directory" },
  ELOOP: { code: "E_NOT_A_FILE", text: "Too many levels of symbolic links" },
  ENXIO: { code: "E_NOT_A_FILE", text: "No such device or address" },
  EAGAIN: { code: "E_BUSY", text: "Resource temporarily unavailable" },
  EBUSY: { code: "E_BUSY", text: "Device or resource busy" },
  ETXTBSY: { code: "E_BUSY", text: "Text file busy" },
  EFBIG: { code: "E_IO", text: "File too large" },
  EIO: { code: "E_IO", text: "Input/output error" },
  EMFILE: {
    code: "E_IO",
    text: "Too many open files",
    hint: "raise the limit with `ulimit -n`, then run the command again",
  },
};

/**
 * The ImgtxError for a failed call of node:fs or SystemCalls. `attempt` opens the message:
 * "Could not open 'a.qcow2'". What is no failed call (a bug) comes back as it is, to be thrown on.
 */
export function explainError(cause: unknown, attempt: string, path: string, offset?: number): unknown {
  const meaning = meaningOf(cause);
  if (meaning === undefined) return cause;
  return new ImgtxError(meaning.code, `${attempt}: ${meaning.text}`, {
    image: path,
    cause,
    ...(offset === undefined ? {} : { offset }),
    ...(meaning.hint === undefined ? {} : { hint: meaning.hint }),
  });
}

/** The errno's name of a failed call; undefined for any other value. */
export function errnoName(cause: unknown): string | undefined {
  if (!(cause instanceof Error) || !("code" in cause) || typeof cause.code !== "string") return undefined;
  return cause.code;
}

function meaningOf(cause: unknown): Meaning | undefined {
  const name = errnoName(cause);
  if (name === undefined) return undefined;
  const known = MEANING_OF_ERRNO[name];
  if (known !== undefined) return known;
  if (!(cause instanceof Error) || !("errno" in cause) || typeof cause.errno !== "number") return undefined;
  const words = getSystemErrorMap().get(cause.errno)?.[1] ?? name;
  return { code: "E_IO", text: words.charAt(0).toUpperCase() + words.slice(1) };
}

/** Whether the call did its work; false when it failed with one of these errnos. */
export function doneUnless(errnos: ReadonlySet<string>, call: () => boolean): boolean {
  try {
    return call();
  } catch (error) {
    if (errnos.has(errnoName(error) ?? "")) return false;
    throw error;
  }
}

// The one place where an errno becomes an ImgtxError: its code, and its words as qemu-img prints them.

import { getSystemErrorMap, getSystemErrorName } from "node:util";
import { type ErrorCode, ImgtxError } from "../errors/index.ts";

interface Meaning {
  readonly code: ErrorCode;
  readonly text: string;
  readonly hint?: string;
}

const FREE_SPACE = "free some space there, then run the command again";

export const FILE_TOO_LARGE =
  "raise the limit with `ulimit -f`, or use a file system that holds files as large (FAT ends at 4 GiB)";

const SERVER_GONE =
  "the program that serves the file system (FUSE) has ended: unmount it with `umount -l`, mount it again, then run the " +
  "command again";

/** Errnos that libuv has no names for, so that Node calls them "UNKNOWN" or "Unknown system error -37". */
const NAMELESS: ReadonlyMap<number, string> = new Map([
  [37, "ENOLCK"],
  [74, "EBADMSG"],
  [116, "ESTALE"],
  [117, "EUCLEAN"],
  [122, "EDQUOT"],
  [123, "ENOMEDIUM"],
  [126, "ENOKEY"],
  [133, "EHWPOISON"],
]);

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
  EDQUOT: {
    code: "E_NO_SPACE",
    text: "Disk quota exceeded",
    hint: "free some space there or have the quota raised, then run the command again",
  },
  EISDIR: { code: "E_NOT_A_FILE", text: "Is a directory" },
  ENOTDIR: { code: "E_NOT_A_FILE", text: "Not a directory" },
  ELOOP: { code: "E_NOT_A_FILE", text: "Too many levels of symbolic links" },
  ENXIO: { code: "E_NOT_A_FILE", text: "No such device or address" },
  EAGAIN: { code: "E_BUSY", text: "Resource temporarily unavailable" },
  EBUSY: { code: "E_BUSY", text: "Device or resource busy" },
  ETXTBSY: { code: "E_BUSY", text: "Text file busy" },
  EFBIG: {
    code: "E_IO",
    text: "File too large",
    hint: FILE_TOO_LARGE,
  },
  EIO: { code: "E_IO", text: "Input/output error" },
  EBADMSG: { code: "E_IO", text: "Bad message: a checksum on the disk is wrong" },
  EUCLEAN: {
    code: "E_IO",
    text: "Structure needs cleaning",
    hint: "the file system is damaged: unmount it and have its fsck mend it, then run the command again",
  },
  EHWPOISON: { code: "E_IO", text: "Memory page has hardware error" },
  ENOMEDIUM: { code: "E_IO", text: "No medium found" },
  ESTALE: {
    code: "E_IO",
    text: "Stale file handle",
    hint: "the file server does not know the file any more: mount its file system again, then run the command again",
  },
  ENOTCONN: { code: "E_IO", text: "Transport endpoint is not connected", hint: SERVER_GONE },
  ECONNABORTED: { code: "E_IO", text: "Software caused connection abort", hint: SERVER_GONE },
  ENOKEY: {
    code: "E_NO_PERMISSION",
    text: "Required key not available",
    hint: "the folder is encrypted: unlock it, then run the command again",
  },
  ENOLCK: {
    code: "E_UNSUPPORTED",
    text: "No locks available",
    hint:
      "imgtx changes nothing without locks: on NFS start its lock service (rpc.statd) on both ends, or mount " +
      "with `-o vers=4.2`; `-o nolock` is right where this host alone uses the images",
  },
  ENOTSUP: { code: "E_IO", text: "Operation not supported" },
  EMFILE: {
    code: "E_IO",
    text: "Too many open files",
    hint: "raise the limit with `ulimit -n`, then run the command again",
  },
};

/**
 * The ImgtxError for a failed call of node:fs or SystemCalls: "Could not open 'a.qcow2': Permission denied", where
 * `doing` is "open". What is no failed call (a bug) comes back as it is, to be thrown on.
 */
export function explainError(cause: unknown, doing: string, path: string, offset?: number): unknown {
  const meaning = meaningOf(cause);
  if (meaning === undefined) return cause;
  return new ImgtxError(meaning.code, `Could not ${doing} '${path}': ${meaning.text}`, {
    image: path,
    doing,
    reason: meaning.text,
    cause,
    ...(offset === undefined ? {} : { offset }),
    ...(meaning.hint === undefined ? {} : { hint: meaning.hint }),
  });
}

/** What a file system answers that has no locks. */
const CANT_LOCK: ReadonlySet<string> = new Set(["EINVAL", "ENOLCK", "ENOSYS", "ENOTSUP"]);

/** The same for a lock: E_UNSUPPORTED where the file system has none. */
export function explainLockError(cause: unknown, path: string, offset: number): unknown {
  const explained = explainError(cause, "lock", path, offset);
  if (!(explained instanceof ImgtxError) || !CANT_LOCK.has(errnoName(cause) ?? "")) return explained;
  return new ImgtxError("E_UNSUPPORTED", explained.message, {
    image: path,
    hint:
      explained.hint ?? "imgtx changes nothing without locks; move the images to a file system that has them",
    cause,
  });
}

/** What a file system answers that has no symbolic links: exFAT, FAT, some by SMB. */
const CANT_SYMLINK: ReadonlySet<string> = new Set(["EPERM", "ENOSYS", "ENOTSUP"]);

/** The same for a symbolic link: E_UNSUPPORTED where the file system has none. */
export function explainSymlinkError(cause: unknown, path: string): unknown {
  const explained = explainError(cause, "make the symbolic link", path);
  if (!(explained instanceof ImgtxError) || !CANT_SYMLINK.has(errnoName(cause) ?? "")) return explained;
  return new ImgtxError("E_UNSUPPORTED", explained.message, {
    image: path,
    hint:
      "`devices` is made of symbolic links: make the workspace on a file system that has them, with `imgtx init` in a " +
      "folder there; the images may stay where they are",
    cause,
  });
}

/** The same for the flush of a folder: E_UNSUPPORTED where no name in it is ever durable, as in /proc. */
export function explainFlushError(cause: unknown, path: string): unknown {
  const explained = explainError(cause, "flush the folder", path);
  if (!(explained instanceof ImgtxError) || errnoName(cause) !== "EINVAL") return explained;
  return new ImgtxError("E_UNSUPPORTED", explained.message, {
    image: path,
    hint: "nothing in it outlasts a power cut; choose a folder on a disk",
    cause,
  });
}

/** The errno's name of a failed call; undefined for any other value. */
export function errnoName(cause: unknown): string | undefined {
  if (!(cause instanceof Error) || !("code" in cause) || typeof cause.code !== "string") return undefined;
  const errno = errnoOf(cause);
  return (errno === undefined ? undefined : NAMELESS.get(-errno)) ?? cause.code;
}

/** The errno's name as Node has it, and where Node has none, the C library's. errno is positive. */
export function nameErrno(errno: number): string {
  return NAMELESS.get(errno) ?? getSystemErrorName(-errno);
}

function errnoOf(cause: Error): number | undefined {
  return "errno" in cause && typeof cause.errno === "number" ? cause.errno : undefined;
}

function meaningOf(cause: unknown): Meaning | undefined {
  const name = errnoName(cause);
  if (name === undefined) return undefined;
  const known = MEANING_OF_ERRNO[name];
  if (known !== undefined) return known;
  const errno = cause instanceof Error ? errnoOf(cause) : undefined;
  if (errno === undefined) return undefined;
  const words = getSystemErrorMap().get(errno)?.[1] ?? `error ${-errno} of the operating system`;
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

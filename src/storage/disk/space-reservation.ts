// Takes what a file system has to give before anything is written that must not run out of it: space, an inode, and the
// right of a file to be as large.
//
// Invariants
// - What is taken has no name: it is given back when the process ends, however that comes, and no crash leaves it.
// - Where a file system has no files without names, gives no blocks in advance, or has no inode left, which a file that is
//   there does not need, the free space is only looked at, and how large a file may be is asked as far as that is known
//   without trying.

import { closeSync, constants, ftruncateSync, openSync, readFileSync, statfsSync } from "node:fs";
import { ImgtxError } from "../../errors/index.ts";
import { kindAt } from "../kernel/file-system.ts";
import type { NativeAccess } from "./native-access.ts";
import type { Reservation, WrittenFile } from "../storage.ts";
import { errnoName, explainError, FILE_TOO_LARGE } from "../system-error.ts";
import { quietly } from "../quietly.ts";

/** O_TMPFILE of Linux, which Node has no name for: its own bit, and O_DIRECTORY. */
const O_TMPFILE = 0o20000000 | (constants.O_DIRECTORY ?? 0);
const MODE = 0o600;
const FULL: ReadonlySet<string> = new Set(["ENOSPC", "EDQUOT"]);
const FORBIDDEN: ReadonlySet<string> = new Set(["EACCES", "EPERM", "EROFS"]);
/** This process, or the machine, has no more of them. */
const NO_DESCRIPTOR: ReadonlySet<string> = new Set(["EMFILE", "ENFILE"]);
const TOO_LARGE = "EFBIG";

/**
 * E_NO_SPACE where the folder's file system has not that much; E_IO where no file there may be so large; E_NO_PERMISSION,
 * E_READ_ONLY where no new one may be made, and it is not for one that is there.
 */
export async function reserveSpace(
  folder: string,
  { lengthBytes, written }: { readonly lengthBytes: number; readonly written: WrittenFile | undefined },
  native: NativeAccess,
): Promise<Reservation> {
  // Looked at first: a call that takes what there is before it fails would leave nothing to others meanwhile.
  assertFree(folder, lengthBytes);
  const calls = native.optional();
  const descriptor = calls && openNameless(folder, written === undefined);
  if (calls === undefined || descriptor === undefined) {
    if (written && written.endBytes > largestKnown(folder)) throw isTooLarge(folder, written, undefined);
    return TAKES_NOTHING;
  }
  let isOpen = true;
  const close = (): void => {
    if (isOpen) closeSync(descriptor);
    isOpen = false;
  };
  try {
    // Its size is a hole: the file system says by it what a file may become, and the kernel what this process may write.
    if (written) ftruncateSync(descriptor, written.endBytes);
    // Several files may share it: taken as one it may be larger than any.
    if (lengthBytes > 0) await calls.allocate(descriptor, { start: 0, lengthBytes, keepsSize: true });
  } catch (error) {
    close();
    const name = errnoName(error) ?? "";
    if (FULL.has(name)) throw isFull(folder, lengthBytes, error);
    if (written && name === TOO_LARGE) throw isTooLarge(folder, written, error);
    return TAKES_NOTHING;
  }
  return { release: async () => await Promise.resolve(close()) };
}

const TAKES_NOTHING: Reservation = { release: async () => await Promise.resolve() };

/** Undefined on NFS, FUSE and others, and everywhere before Linux 3.11: the free space has to do. */
function openNameless(folder: string, isForNew: boolean): number | undefined {
  try {
    return openSync(folder, constants.O_RDWR | O_TMPFILE, MODE);
  } catch (error) {
    const name = errnoName(error) ?? "";
    // What is there has its inode: where all are taken, space may be left all the same.
    if (!isForNew && hasInodesAllTaken(folder)) return undefined;
    if (FULL.has(name)) throw hasNoInode(folder, error);
    if (NO_DESCRIPTOR.has(name)) throw explainError(error, "take space in", folder);
    // What is there may be written to all the same.
    if (isForNew && FORBIDDEN.has(name)) throw explainError(error, "make a file in", folder);
    return undefined;
  }
}

/** Not where a file system makes them as it likes (Btrfs): a new one is refused there for want of space alone. */
function hasInodesAllTaken(folder: string): boolean {
  return quietly(() => {
    const { files, ffree } = statfsSync(folder);
    return files > 0 && ffree === 0;
  }, false);
}

/** Of the kind of file system, and of this process (`ulimit -f`). */
function largestKnown(folder: string): number {
  const limits = quietly(() => readFileSync("/proc/self/limits", "latin1"), "");
  const [, own = ""] = /^Max file size +(\d+)/m.exec(limits) ?? [];
  return Math.min(kindAt(folder).largestFileBytes ?? Infinity, own === "" ? Infinity : Number(own));
}

function assertFree(folder: string, lengthBytes: number): void {
  let freeBytes: bigint;
  try {
    const { bavail, bsize } = statfsSync(folder, { bigint: true });
    freeBytes = bavail * bsize;
  } catch (error) {
    throw explainError(error, "ask for the free space of", folder);
  }
  if (freeBytes < BigInt(lengthBytes)) throw isFull(folder, lengthBytes, undefined);
}

function isFull(folder: string, lengthBytes: number, cause: unknown): ImgtxError {
  return new ImgtxError("E_NO_SPACE", `fewer than ${lengthBytes} bytes are free in '${folder}'`, {
    image: folder,
    hint: "make room there, then run the command again",
    ...(cause !== undefined && { cause }),
  });
}

function hasNoInode(folder: string, cause: unknown): ImgtxError {
  return new ImgtxError("E_NO_SPACE", `no further file can be made in '${folder}'`, {
    image: folder,
    hint: "`df -h` and `df -i` tell what is full there: make room, then run the command again",
    cause,
  });
}

function isTooLarge(folder: string, { path, endBytes }: WrittenFile, cause: unknown): ImgtxError {
  const message = `'${path}' is to be written to up to byte ${endBytes}, and no file in '${folder}' may be that large`;
  return new ImgtxError("E_IO", message, {
    image: path,
    hint: FILE_TOO_LARGE,
    ...(cause !== undefined && { cause }),
  });
}

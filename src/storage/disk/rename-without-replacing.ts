// Moves a name to one that is free, in whatever way the file system has: none of them replaces a stranger's file.
//
// Without a call for it, by link and unlink: a crash in between leaves both names on one file, and nothing lost. Where there
// are no hard links either (exFAT), or each name is a file of its own (sshfs), a file that names the source takes the name first and is replaced; a crash in between
// leaves that, and undo knows it by what it holds.

import { closeSync, constants, lstatSync, openSync, renameSync, unlinkSync, writeSync } from "node:fs";
import { constants as osConstants } from "node:os";
import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import type { NativeAccess } from "./native-access.ts";
import { SystemCallError } from "../native/native-functions.ts";
import { errnoName } from "../system-error.ts";

// The kernel or the file system has no renameat2 with RENAME_NOREPLACE.
const CANT_RENAME_SO: ReadonlySet<string> = new Set(["EINVAL", "ENOSYS"]);
// The file system has no hard links: FAT, exFAT, many by FUSE, some by SMB.
const CANT_LINK: ReadonlySet<string> = new Set(["EPERM", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EINVAL"]);

/** Throws as node:fs does, with EEXIST where the target's name is taken. */
export function renameWithoutReplacing(
  source: string,
  target: string,
  native: NativeAccess,
  link: (source: string, target: string) => void,
): void {
  const calls = native.optional();
  if (calls !== undefined) {
    try {
      calls.renameWithoutReplacing(source, target);
      return;
    } catch (error) {
      if (!CANT_RENAME_SO.has(errnoName(error) ?? "")) throw error;
    }
  }
  if (lstatSync(source).isDirectory()) {
    const message = `Could not rename '${source}' to '${target}': this file system can't without replacing`;
    throw new ImgtxError("E_UNSUPPORTED", message, { image: target });
  }
  try {
    // A link is refused where the name is taken. A crash in between leaves both names on the one file, and
    // whoever repeats the rename finds the target taken by the very source.
    link(source, target);
  } catch (error) {
    if (!CANT_LINK.has(errnoName(error) ?? "")) throw error;
    renameOverOwn(source, target);
    return;
  }
  if (isOneFile(source, target)) {
    unlinkSync(source);
    return;
  }
  // sshfs and others number names, not files: by its new name it would be another file than the one that is open.
  unlinkSync(target);
  renameOverOwn(source, target);
}

function isOneFile(path: string, other: string): boolean {
  const [one, two] = [lstatSync(path, { bigint: true }), lstatSync(other, { bigint: true })];
  return one.dev === two.dev && one.ino === two.ino;
}

/**
 * A file of our own takes the name, which is refused where somebody has it, and is then replaced. It holds the source's
 * name: a crash in between leaves it, and the source, and whoever finds it can tell whose it is.
 */
function renameOverOwn(source: string, target: string): void {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
  const content = placeholderOf(source);
  const file = openSync(target, flags, 0o600);
  try {
    writeSync(file, content);
  } finally {
    closeSync(file);
  }
  const made = lstatSync(target, { bigint: true });
  const isStillOurs = (): boolean => isAsMade(target, made.ino, content.length);
  try {
    // Somebody who takes our file for his own, in these microseconds, keeps what he writes.
    if (!isStillOurs()) throw new SystemCallError("rename", osConstants.errno.EEXIST);
    renameSync(source, target);
  } catch (error) {
    if (isStillOurs()) unlinkSync(target);
    throw error;
  }
}

function isAsMade(path: string, inode: bigint, sizeBytes: number): boolean {
  const stats = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return stats !== undefined && stats.isFile() && stats.size === BigInt(sizeBytes) && stats.ino === inode;
}

/** What holds a name for the source until it gets it, where the file system has no better way. */
export function placeholderOf(source: string): Uint8Array {
  return new TextEncoder().encode(`${posix.basename(source)} is being moved here by imgtx\n`);
}

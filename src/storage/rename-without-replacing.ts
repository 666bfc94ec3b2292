// Moves a name to one that is free, in whatever way the file system has: none of them replaces a stranger's file.

import { closeSync, constants, lstatSync, openSync, renameSync, unlinkSync } from "node:fs";
import { constants as osConstants } from "node:os";
import { ImgtxError } from "../errors/index.ts";
import type { NativeAccess } from "./native-access.ts";
import { SystemCallError } from "./native-functions.ts";
import { errnoName } from "./system-error.ts";

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
  unlinkSync(source);
}

/**
 * An empty file of our own takes the name, which is refused where somebody has it, and is then replaced. A crash in
 * between leaves that empty file, and the source.
 */
function renameOverOwn(source: string, target: string): void {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
  closeSync(openSync(target, flags, 0o600));
  const made = lstatSync(target, { bigint: true });
  try {
    // Somebody who takes our file for his own, in these microseconds, keeps what he writes.
    if (!isStillEmpty(target, made.ino)) throw new SystemCallError("rename", osConstants.errno.EEXIST);
    renameSync(source, target);
  } catch (error) {
    if (isStillEmpty(target, made.ino)) unlinkSync(target);
    throw error;
  }
}

function isStillEmpty(path: string, inode: bigint): boolean {
  const stats = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return stats !== undefined && stats.isFile() && stats.size === 0n && stats.ino === inode;
}

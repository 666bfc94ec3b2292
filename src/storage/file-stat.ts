// What stat says of a file, in imgtx's terms.

import { type BigIntStats, statSync } from "node:fs";
import { ImgtxError } from "../errors/index.ts";
import { safeNumber } from "../units/index.ts";
import type { FileStat } from "./storage.ts";

/** stat counts allocated space in these, whatever the file system's blocks are. */
const STAT_BLOCK_BYTES = 512n;
const PERMISSION_BITS = 0o7777n;

export function describeStat(path: string, stats: BigIntStats): FileStat {
  return {
    kind: kindOf(stats),
    sizeBytes: exactly(path, stats.size),
    allocatedBytes: exactly(path, stats.blocks * STAT_BLOCK_BYTES),
    fileSystem: String(stats.dev),
    inode: String(stats.ino),
    mode: Number(stats.mode & PERMISSION_BITS),
    ownerId: Number(stats.uid),
    groupId: Number(stats.gid),
    modifiedNs: String(stats.mtimeNs),
    bornNs: birthTimesAreReal() ? String(stats.birthtimeNs) : "0",
  };
}

/** What it is, for a message: "a folder". */
export function nameOfKind(stats: BigIntStats): string {
  if (stats.isFile()) return "a regular file";
  if (stats.isDirectory()) return "a folder";
  if (stats.isFIFO()) return "a FIFO";
  if (stats.isSocket()) return "a socket";
  if (stats.isBlockDevice()) return "a block device";
  if (stats.isCharacterDevice()) return "a character device";
  return "a special file";
}

function kindOf(stats: BigIntStats): FileStat["kind"] {
  if (stats.isFile()) return "file";
  if (stats.isDirectory()) return "folder";
  return stats.isSymbolicLink() ? "symlink" : "other";
}

function exactly(path: string, value: bigint): number {
  const bytes = safeNumber(value);
  if (bytes !== undefined) return bytes;
  throw new ImgtxError("E_UNSUPPORTED", `'${path}' has ${value} bytes; imgtx counts up to 2^53`, {
    image: path,
  });
}

let realBirthTimes: boolean | undefined;

// Where a sandbox forbids statx, Node gives the time of the last change as the birth time, and a file would
// seem to be another one after each chmod. /proc keeps no birth times: one found there is made up.
function birthTimesAreReal(): boolean {
  realBirthTimes ??= statSync("/proc/self", { bigint: true }).birthtimeNs === 0n;
  return realBirthTimes;
}

// What stat says of a file, in imgtx's terms.

import { type BigIntStats, statSync } from "node:fs";
import { ImgtxError } from "../../errors/index.ts";
import { describeBlockDevice, placeOfDevice } from "../kernel/block-device.ts";
import { DEVICES, isSettled, kindOfFileSystem } from "../kernel/file-system.ts";
import { splitDeviceNumber } from "../kernel/sysfs.ts";
import type { FilePlace } from "../native/place-calls.ts";
import type { FileStat } from "../storage.ts";

/** stat counts allocated space in these, whatever the file system's blocks are. */
const STAT_BLOCK_BYTES = 512;
const PERMISSION_BITS = 0o7777;
/** S_IFMT of <sys/stat.h>, and what it is of the kinds that have a name here. */
const KIND_BITS = 0o170000;
const KINDS: Readonly<Record<number, FileStat["kind"]>> = {
  0o100000: "file",
  0o040000: "folder",
  0o120000: "symlink",
};

/** What a stat alone does not tell. */
export interface StatAround {
  /** Milliseconds since 1970, read before the stat was. */
  readonly nowMs: number;
  /** Called when it is first needed, which may be never: most stats only ask whether something is there. */
  readonly findPlace: (fileSystem: string, inode: string) => FilePlace;
  readonly bootId: () => string;
}

/** Takes a stat with what belongs to it. */
export function describeStat(path: string, stats: BigIntStats, around: StatAround): FileStat {
  if (stats.isBlockDevice()) return describeDevice(path, stats, around);
  const [fileSystem, inode] = [String(stats.dev), String(stats.ino)];
  let found: FilePlace | undefined;
  const place = (): FilePlace => (found ??= around.findPlace(fileSystem, inode));
  const changedNs = String(stats.ctimeNs);
  let birth: string | undefined;
  const born = (): string =>
    (birth ??= birthTimesAreReal() && !isBornAnew(stats, place) ? String(stats.birthtimeNs) : "0");
  const mode = Number(stats.mode);
  return {
    kind: KINDS[mode & KIND_BITS] ?? "other",
    sizeBytes: exactly(path, stats.size, 1),
    allocatedBytes: exactly(path, stats.blocks, STAT_BLOCK_BYTES),
    fileSystem,
    inode,
    names: Number(stats.nlink),
    get fileSystemId() {
      return place().fileSystemId;
    },
    get mountId() {
      return place().mountId;
    },
    get bootId() {
      return around.bootId();
    },
    mode: mode & PERMISSION_BITS,
    ownerId: Number(stats.uid),
    groupId: Number(stats.gid),
    modifiedNs: String(stats.mtimeNs),
    changedNs,
    get bornNs() {
      return born();
    },
    get settled() {
      return isSettled({ changedNs, bornNs: born(), fileSystemId: place().fileSystemId }, around.nowMs);
    },
  };
}

/**
 * A file of an overlay's lower layer (an image that a container was made with) is copied by the first who opens it for
 * writing: it keeps its inode number, and shows the birth time of the copy from then on. Not asked of file systems with
 * a device of their own, which an overlay has none of.
 */
function isBornAnew(stats: BigIntStats, place: () => FilePlace): boolean {
  const [major] = splitDeviceNumber(stats.dev);
  return major === 0n && !kindOfFileSystem(place().fileSystemId).keepsBirth;
}

/** A device keeps no times: who writes to it by another node, or from another host, moves none that is seen here. */
function describeDevice(path: string, stats: BigIntStats, around: StatAround): FileStat {
  const device = describeBlockDevice(path, stats.rdev);
  const { id, sizeBytes, attachment } = device;
  return {
    kind: "device",
    sizeBytes,
    allocatedBytes: 0,
    ...placeOfDevice(device),
    fileSystemId: `${DEVICES}:${id}`,
    mountId: attachment,
    get bootId() {
      return around.bootId();
    },
    names: Number(stats.nlink),
    mode: Number(stats.mode) & PERMISSION_BITS,
    ownerId: Number(stats.uid),
    groupId: Number(stats.gid),
    modifiedNs: "0",
    changedNs: "0",
    settled: false,
    bornNs: "0",
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

function exactly(path: string, count: bigint, unitBytes: number): number {
  // What a double can't hold exactly is no smaller as one.
  const bytes = Number(count) * unitBytes;
  if (bytes <= Number.MAX_SAFE_INTEGER) return bytes;
  const value = count * BigInt(unitBytes);
  throw new ImgtxError("E_UNSUPPORTED", `'${path}' has ${value} bytes; imgtx counts up to 2^53`, {
    image: path,
  });
}

let realBirthTimes: boolean | undefined;

// Where a sandbox forbids statx, Node gives the time of the last change as the birth time, and a file would
// seem to be another one after each chmod. /proc keeps no birth times: one found there is made up.
function birthTimesAreReal(): boolean {
  realBirthTimes ??= tellByProc() ?? OLD_FOLDERS.some(hasOwnBirthTime);
  return realBirthTimes;
}

function tellByProc(): boolean | undefined {
  const stats = statSync("/proc/self", { bigint: true, throwIfNoEntry: false });
  return stats && stats.birthtimeNs === 0n;
}

/** Without /proc, as in a rescue shell: folders that were changed since they were made, in any system. */
const OLD_FOLDERS = ["/", "/etc", "/usr", "/dev"];

function hasOwnBirthTime(folder: string): boolean {
  const stats = statSync(folder, { bigint: true, throwIfNoEntry: false });
  return stats !== undefined && stats.birthtimeNs !== stats.ctimeNs;
}

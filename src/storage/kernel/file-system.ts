// What a file system remembers of its files. Asked of the kernel, by the number of its kind.
//
// Relied on are only the times of kinds whose clock is this machine's, which move at every write, and which keep
// them. All others (network and FUSE file systems, FAT and its kin) may take writes that no time tells of: there
// the content decides.

import { statfsSync, statSync } from "node:fs";
import type { FileSystemTraits } from "../storage.ts";
import { formatDeviceNumber, readText } from "./sysfs.ts";

interface FileSystemKind extends Omit<FileSystemTraits, "sharesLocks"> {
  /** Whether a range of one file can be made that of another one, and take no space. */
  readonly sharesBlocks?: boolean;
  /** Begins the id of a file system. */
  readonly name: string;
  /** Whether a file has one birth time for as long as it lives. */
  readonly keepsBirth: boolean;
  /** Whether every write moves the change time, by the clock of this machine, and nothing else sets it. */
  readonly keepsTimes: boolean;
  /** Where its kind says so, whatever its size is. */
  readonly largestFileBytes?: number;
}

const local = (name: string): FileSystemKind => ({
  name,
  keepsBirth: true,
  keepsInodes: true,
  keepsModes: true,
  keepsTimes: true,
});
/** Its times are another machine's, or another file system's. */
const remote = (name: string): FileSystemKind => ({ ...local(name), keepsTimes: false });
/** The mount says for all files who owns them, and inode numbers may be made up. */
const foreign = (name: string): FileSystemKind => ({
  name,
  keepsBirth: true,
  keepsInodes: false,
  keepsModes: false,
  keepsTimes: false,
});

/** By `f_type` of statfs, as <linux/magic.h> has them. */
const KINDS: ReadonlyMap<number, FileSystemKind> = new Map([
  [0xef53, local("ext")],
  [0x58465342, { ...local("xfs"), sharesBlocks: true }],
  [0x9123683e, { ...local("btrfs"), sharesBlocks: true }],
  [0x01021994, local("tmpfs")],
  [0x858458f6, local("ramfs")],
  [0xf2f52010, local("f2fs")],
  [0x2fc12fc1, local("zfs")],
  [0xca451a4e, { ...local("bcachefs"), sharesBlocks: true }],
  [0x3153464a, local("jfs")],
  [0x794c7630, { ...remote("overlay"), keepsBirth: false }],
  [0x6969, remote("nfs")],
  [0x00c36400, remote("ceph")],
  [0x01161970, remote("gfs2")],
  [0x7461636f, remote("ocfs2")],
  [0x4d44, { ...foreign("fat"), largestFileBytes: 2 ** 32 - 1 }],
  [0x2011bab0, foreign("exfat")],
  [0x5346544e, foreign("ntfs")],
  [0x7366746e, foreign("ntfs3")],
  [0x65735546, foreign("fuse")],
  [0xff534d42, foreign("cifs")],
  [0xfe534d42, foreign("smb2")],
  [0x01021997, foreign("9p")],
  [0x482b, foreign("hfsplus")],
]);

/** Begins the id of each block device, where a file has its file system's. */
export const DEVICES = "device";

const KINDS_BY_NAME = new Map([...KINDS.values(), remote(DEVICES)].map((kind) => [kind.name, kind]));

/** Of any other type nothing is relied on, but that its files have modes of their own. */
function unknownKind(name: string): FileSystemKind {
  return { ...foreign(name), keepsModes: true };
}

export function kindOfType(type: number): FileSystemKind {
  return KINDS.get(type) ?? unknownKind(type.toString(16));
}

/** Of the one that the path is on. */
export function kindAt(path: string): FileSystemKind {
  return kindOfType(Number(BigInt.asUintN(32, statfsSync(path, { bigint: true }).type)));
}

/** Of the file system with this id. */
export function kindOfFileSystem(id: string): FileSystemKind {
  const colon = id.indexOf(":");
  const name = colon === -1 ? id : id.slice(0, colon);
  return KINDS_BY_NAME.get(name) ?? unknownKind(name);
}

/** Whether ranges of files there may share their blocks. Some of the kind were made without that. */
export function mayShareBlocks({ fileSystemId }: { readonly fileSystemId: string }): boolean {
  return kindOfFileSystem(fileSystemId).sharesBlocks === true;
}

export function readFileSystemTraits(path: string): FileSystemTraits {
  const { name, keepsInodes, keepsModes } = kindAt(path);
  const sharesLocks = ONE_KERNEL.has(name) || areLocksShared(readMounting(path), readBlockKinds());
  return { keepsInodes, keepsModes, sharesLocks };
}

/**
 * Mounted by one kernel at a time, which keeps its locks by the file: those of containers are in it as well. An
 * overlay must not be reached but through itself.
 */
const ONE_KERNEL: ReadonlySet<string> = new Set(
  "ext xfs btrfs tmpfs ramfs f2fs zfs bcachefs jfs overlay fat exfat ntfs ntfs3 hfsplus".split(" "),
);

/** A line of /proc/self/mountinfo: the type, and the options of the file system itself. */
export interface Mounting {
  readonly type: string;
  readonly options: readonly string[];
}

type KeepsHere = (options: readonly string[]) => boolean;

/** Kinds whose locks go to a server, or to the other machines, unless an option keeps them here. */
const SHARED_UNLESS: ReadonlyMap<string, KeepsHere> = new Map<string, KeepsHere>([
  ["nfs", (options) => !options.includes("local_lock=none")],
  ["nfs4", (options) => !options.includes("local_lock=none")],
  ["cifs", (options) => options.includes("nobrl") || options.includes("nolock")],
  ["smb3", (options) => options.includes("nobrl") || options.includes("nolock")],
  ["ceph", () => false],
  ["gfs2", (options) => options.includes("localflocks") || options.includes("lockproto=lock_nolock")],
  ["ocfs2", (options) => options.includes("localflocks")],
]);

/**
 * What lies on a block device is mounted by one kernel, but for clusters. FUSE, 9P and virtiofs forward no locks unless
 * somebody sees to it, which can't be told from here.
 */
export function areLocksShared(mounting: Mounting | undefined, blockKinds: ReadonlySet<string>): boolean {
  if (mounting === undefined) return false;
  const keepsHere = SHARED_UNLESS.get(mounting.type);
  return keepsHere ? !keepsHere(mounting.options) : blockKinds.has(mounting.type);
}

/** The mounting that a path is on, by its device's number; undefined where that can't be told. */
function readMounting(path: string): Mounting | undefined {
  const device = formatDeviceNumber(statSync(path, { bigint: true }).dev);
  return findMounting(readText("/proc/self/mountinfo"), device);
}

/** See proc_pid_mountinfo(5): optional fields end with a single dash. */
export function findMounting(mountinfo: string, device: string): Mounting | undefined {
  for (const line of mountinfo.split("\n")) {
    const fields = line.split(" ");
    const dash = fields.indexOf("-", 6);
    if (fields[2] !== device || dash === -1) continue;
    return { type: fields[dash + 1] ?? "", options: (fields[dash + 3] ?? "").split(",") };
  }
  return undefined;
}

/** Types of file systems that lie on a block device: all that /proc/filesystems does not call `nodev`. */
function readBlockKinds(): ReadonlySet<string> {
  const lines = readText("/proc/filesystems").split("\n");
  return new Set(lines.filter((line) => line.startsWith("\t")).map((line) => line.trim()));
}

const NS_PER_MS = 1_000_000;
/** The kernel stamps writes with the time of its last tick, and ticks at least 100 times a second. */
const TICK_MS = 10;
/** ext2, ext3 and small inodes of ext4 keep whole seconds; that they have no birth time either is the sign. */
const WHOLE_SECOND_MS = 1000;

/** Whether any write from `nowMs` on shows in the change time. nowMs was read before the stat was. */
export function isSettled(
  { changedNs, bornNs, fileSystemId }: { changedNs: string; bornNs: string; fileSystemId: string },
  nowMs: number,
): boolean {
  const { name, keepsTimes } = kindOfFileSystem(fileSystemId);
  const grainMs = bornNs === "0" && name === "ext" ? WHOLE_SECOND_MS : TICK_MS;
  // To the microsecond, which is little beside the grain: each look at an image asks it.
  return keepsTimes && Number(changedNs) / NS_PER_MS + grainMs < nowMs;
}

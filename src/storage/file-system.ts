// What a file system remembers of its files. Asked of the kernel, by the number of its kind.
//
// Relied on are only the times of kinds whose clock is this machine's, which move at every write, and which keep
// them. All others (network and FUSE file systems, FAT and its kin) may take writes that no time tells of: there
// the content decides.

import { statfsSync } from "node:fs";

export interface FileSystemTraits {
  /** Whether a file keeps its inode number and its birth time for as long as it lives, over mounts and reboots. */
  readonly keepsInodes: boolean;
  /** Whether owner and permissions are each file's own, and not the mount's for all of them. */
  readonly keepsModes: boolean;
}

interface FileSystemKind extends FileSystemTraits {
  /** Begins the id of a file system. */
  readonly name: string;
  /** Whether every write moves the change time, by the clock of this machine, and nothing else sets it. */
  readonly keepsTimes: boolean;
}

const local = (name: string): FileSystemKind => ({
  name,
  keepsInodes: true,
  keepsModes: true,
  keepsTimes: true,
});
/** Its times are another machine's, or another file system's. */
const remote = (name: string): FileSystemKind => ({ ...local(name), keepsTimes: false });
/** The mount says for all files who owns them, and inode numbers may be made up. */
const foreign = (name: string): FileSystemKind => ({
  name,
  keepsInodes: false,
  keepsModes: false,
  keepsTimes: false,
});

/** By `f_type` of statfs, as <linux/magic.h> has them. */
const KINDS: ReadonlyMap<number, FileSystemKind> = new Map([
  [0xef53, local("ext")],
  [0x58465342, local("xfs")],
  [0x9123683e, local("btrfs")],
  [0x01021994, local("tmpfs")],
  [0x858458f6, local("ramfs")],
  [0xf2f52010, local("f2fs")],
  [0x2fc12fc1, local("zfs")],
  [0xca451a4e, local("bcachefs")],
  [0x3153464a, local("jfs")],
  [0x794c7630, remote("overlay")],
  [0x6969, remote("nfs")],
  [0x00c36400, remote("ceph")],
  [0x01161970, remote("gfs2")],
  [0x7461636f, remote("ocfs2")],
  [0x4d44, foreign("fat")],
  [0x2011bab0, foreign("exfat")],
  [0x5346544e, foreign("ntfs")],
  [0x7366746e, foreign("ntfs3")],
  [0x65735546, foreign("fuse")],
  [0xff534d42, foreign("cifs")],
  [0xfe534d42, foreign("smb2")],
  [0x01021997, foreign("9p")],
  [0x482b, foreign("hfsplus")],
]);

const KINDS_BY_NAME = new Map([...KINDS.values()].map((kind) => [kind.name, kind]));

/** Of any other type nothing is relied on, but that its files have modes of their own. */
function unknownKind(name: string): FileSystemKind {
  return { ...foreign(name), keepsModes: true };
}

export function kindOfType(type: number): FileSystemKind {
  return KINDS.get(type) ?? unknownKind(type.toString(16));
}

/** Of the file system with this id. */
export function kindOfFileSystem(id: string): FileSystemKind {
  const name = id.split(":", 1)[0] ?? "";
  return KINDS_BY_NAME.get(name) ?? unknownKind(name);
}

export function readFileSystemTraits(path: string): FileSystemTraits {
  return kindOfType(Number(BigInt.asUintN(32, statfsSync(path, { bigint: true }).type)));
}

const NS_PER_MS = 1_000_000n;
/** The kernel stamps writes with the time of its last tick, and ticks at least 100 times a second. */
const TICK_NS = 10n * NS_PER_MS;
/** ext2, ext3 and small inodes of ext4 keep whole seconds; that they have no birth time either is the sign. */
const WHOLE_SECOND_NS = 1000n * NS_PER_MS;

/** Whether any write from `nowMs` on shows in the change time. nowMs was read before the stat was. */
export function isSettled(
  { changedNs, bornNs, fileSystemId }: { changedNs: string; bornNs: string; fileSystemId: string },
  nowMs: number,
): boolean {
  const { name, keepsTimes } = kindOfFileSystem(fileSystemId);
  const grainNs = bornNs === "0" && name === "ext" ? WHOLE_SECOND_NS : TICK_NS;
  return keepsTimes && BigInt(changedNs) + grainNs < BigInt(nowMs) * NS_PER_MS;
}

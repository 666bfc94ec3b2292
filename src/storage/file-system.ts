// What a file system remembers of its files. Asked of the kernel, by the number of its kind.

import { statfsSync } from "node:fs";

export interface FileSystemTraits {
  /** Whether a file keeps its inode number and its birth time for as long as it lives, over mounts and reboots. */
  readonly keepsInodes: boolean;
  /** Whether owner and permissions are each file's own, and not the mount's for all of them. */
  readonly keepsModes: boolean;
}

/** `f_type` of those that are known to: ext, XFS, Btrfs, tmpfs, ramfs, overlay, F2FS, ZFS, bcachefs, NFS, Ceph, GFS2, OCFS2, JFS. */
const KEEP_INODES: ReadonlySet<number> = new Set([
  0xef53, 0x58465342, 0x9123683e, 0x01021994, 0x858458f6, 0x794c7630, 0xf2f52010, 0x2fc12fc1, 0xca451a4e,
  0x6969, 0x00c36400, 0x01161970, 0x7461636f, 0x3153464a,
]);

/** Of those whose mount may say for all files who owns them: FAT, exFAT, NTFS (two drivers), FUSE, SMB (two), 9P, HFS+. */
const MOUNT_MODES: ReadonlySet<number> = new Set([
  0x4d44, 0x2011bab0, 0x5346544e, 0x7366746e, 0x65735546, 0xff534d42, 0xfe534d42, 0x01021997, 0x482b,
]);

export function readFileSystemTraits(path: string): FileSystemTraits {
  const kind = Number(BigInt.asUintN(32, statfsSync(path, { bigint: true }).type));
  return { keepsInodes: KEEP_INODES.has(kind), keepsModes: !MOUNT_MODES.has(kind) };
}

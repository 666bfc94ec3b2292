// How a simulated disk answers: what stat says of an inode, and the errors of a failed call.

import { ImgtxError, type ErrorCode } from "../../../src/errors/index.ts";
import type { FileStat } from "../../../src/storage/index.ts";
import type { Inode } from "./disk-tree.ts";
import type { SimulatedMachine } from "./simulated-disk.ts";

const FIRST_DEVICE = 64769;

/** As a machine finds it that was started so many times, each of which mounted the disk. */
export function statOfInode(
  inode: Inode,
  { bootId, clockNs, boot, mountings }: Pick<SimulatedMachine, "bootId" | "clockNs" | "boot" | "mountings">,
): FileStat {
  return {
    kind: inode.kind,
    sizeBytes: inode.kind === "symlink" ? Buffer.byteLength(inode.target) : inode.content.sizeBytes,
    allocatedBytes: inode.content.allocatedBytes,
    fileSystem: String(FIRST_DEVICE + inode.disk),
    inode: String(inode.number),
    names: 1,
    mode: inode.mode,
    ownerId: 0,
    groupId: 0,
    modifiedNs: String(inode.modifiedNs),
    changedNs: String(inode.changedNs),
    settled: inode.changedNs < clockNs,
    fileSystemId: `ext:${1 + inode.disk}`,
    mountId: inode.disk === 0 ? String(boot) : `${boot}.${inode.disk}.${mountings}`,
    bootId,
    bornNs: String(inode.bornNs),
  };
}

/** An error in the words of the real storage, which users and scripts get to see. */
export function problem(code: ErrorCode, path: string, text: string): ImgtxError {
  return new ImgtxError(code, `Could not use '${path}': ${text}`, { image: path });
}

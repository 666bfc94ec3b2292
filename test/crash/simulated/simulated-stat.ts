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
  if (inode.kind === "device") return statOfDevice(inode, { bootId, boot });
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

/** It keeps no times, and its node may be another one after each boot. */
function statOfDevice(
  { number, mode, content }: Inode,
  { bootId, boot }: Pick<SimulatedMachine, "bootId" | "boot">,
): FileStat {
  return {
    kind: "device",
    sizeBytes: content.sizeBytes,
    allocatedBytes: 0,
    fileSystem: "0",
    inode: String(number),
    names: 1,
    mode,
    ownerId: 0,
    groupId: 0,
    modifiedNs: "0",
    changedNs: "0",
    settled: false,
    fileSystemId: `device:simulated-${number}`,
    mountId: String(boot),
    bootId,
    bornNs: "0",
  };
}

/** An error in the words of the real storage, which users and scripts get to see. */
export function problem(code: ErrorCode, path: string, text: string): ImgtxError {
  return new ImgtxError(code, `Could not use '${path}': ${text}`, { image: path });
}

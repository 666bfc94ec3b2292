// What the kernel says of a block device, by its number: how large it is, and what it is called for
// good. Read from sysfs, so that nothing is opened: opening a device may already do something.
//
// Invariants
// - A device is known by a name of its own, wherever its node lies and whatever number it has in this boot: a volume that
//   is activated again gets another number, and a number that was another disk's.
// - The size is the kernel's of this moment. It is never taken from a partition table or a header.

import { createHash } from "node:crypto";
import { ImgtxError } from "../../errors/index.ts";
import { folderOf, formatDeviceNumber, namesIn, numberOf, ofDisk, readText } from "./sysfs.ts";

/** What sysfs counts sizes in, whatever the sectors of the device are. */
const SYSFS_SECTOR_BYTES = 512;
/** Where that can't be told: no device has larger ones. */
const SECTOR_BYTES_MAX = 4096;

export interface BlockDevice {
  /** `7:0` */
  readonly number: string;
  readonly sizeBytes: number;
  /** The same over reboots, for as long as the device is the same one; its number and its size where it has no name. */
  readonly id: string;
  /** Another one each time that something else is put behind the number; "" before Linux 5.15. */
  readonly attachment: string;
}

/** E_UNSUPPORTED where the kernel does not tell of it. */
export function describeBlockDevice(path: string, device: bigint): BlockDevice {
  const number = formatDeviceNumber(device);
  const sectors = readText(`${folderOf(number)}/size`);
  if (!/^\d+$/.test(sectors)) {
    throw new ImgtxError("E_UNSUPPORTED", `Could not use '${path}': /sys does not tell how large it is`, {
      image: path,
      hint: "mount sysfs at /sys, then run the command again",
    });
  }
  const sizeBytes = Number(sectors) * SYSFS_SECTOR_BYTES;
  const attachment = ofDisk(number, "diskseq");
  return { number, sizeBytes, attachment, id: findId({ number, sizeBytes, attachment }) };
}

/** The smallest piece that the device reads and writes. */
export function readSectorBytes(device: bigint): number {
  return Number(ofDisk(formatDeviceNumber(device), "queue/logical_block_size")) || SECTOR_BYTES_MAX;
}

/** Stands for the file system of all devices: no file system has this number. */
const DEVICE_SPACE = "0";

/** In place of the numbers of its node, of which there may be several: the same over reboots, as the id is. */
export function placeOfDevice({ id }: Pick<BlockDevice, "id">): { fileSystem: string; inode: string } {
  const inode = String(createHash("sha256").update(id).digest().readBigUInt64BE(0));
  return { fileSystem: DEVICE_SPACE, inode };
}

const ids = new Map<string, string>();

function findId(device: Omit<BlockDevice, "id">): string {
  const key = `${device.number} ${device.attachment} ${device.sizeBytes}`;
  let id = device.attachment === "" ? undefined : ids.get(key);
  if (id === undefined) {
    id = readId(device);
    ids.set(key, id);
  }
  return id;
}

function readId({ number, sizeBytes }: Pick<BlockDevice, "number" | "sizeBytes">): string {
  const folder = folderOf(number);
  // LVM's UUIDs of group and volume are in it.
  const mapped = readText(`${folder}/dm/uuid`);
  if (mapped !== "") return `dm-${mapped}`;
  const partition = /^PARTUUID=(.+)$/m.exec(readText(`${folder}/uevent`))?.[1];
  if (partition !== undefined) return `part-${partition}`;
  const backing = readText(`${folder}/loop/backing_file`);
  if (backing !== "") return `loop-${backing}`;
  return (
    linkTo(number, "/dev/disk/by-partuuid") ?? linkTo(number, "/dev/disk/by-id") ?? `${number}-${sizeBytes}`
  );
}

/** The first of udev's names there that leads to the device. */
function linkTo(number: string, folder: string): string | undefined {
  const name = namesIn(folder).find((each) => numberOf(`${folder}/${each}`) === number);
  return name && `${folder.slice("/dev/disk/by-".length)}-${name}`;
}

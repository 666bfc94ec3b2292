// What the kernel tells of its devices, in files of sysfs and /proc.
//
// Invariant: what is not there is empty. Each kind of device has other files, and a container may see none.

import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { quietly } from "../quietly.ts";

/** Major and minor, of a device number as stat has it: glibc and Linux lay out both parts so. */
export function splitDeviceNumber(device: bigint): [bigint, bigint] {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n);
  return [major, (device & 0xffn) | ((device >> 12n) & 0xffffff00n)];
}

/** `7:0`. */
export function formatDeviceNumber(device: bigint): string {
  return splitDeviceNumber(device).join(":");
}

/** Of a block device by a path; undefined for what is none, or not there. */
export function numberOf(path: string): string | undefined {
  const stats = quietly(() => statSync(path, { bigint: true }), undefined);
  return stats?.isBlockDevice() ? formatDeviceNumber(stats.rdev) : undefined;
}

/** What the kernel says of the device with this number. */
export function folderOf(number: string): string {
  return `/sys/dev/block/${number}`;
}

/** What only the whole disk has, also for its partitions. */
export function ofDisk(number: string, name: string): string {
  const own = readText(`${folderOf(number)}/${name}`);
  if (own !== "" || !existsSync(`${folderOf(number)}/partition`)) return own;
  return readText(`${realpathSync(folderOf(number))}/../${name}`);
}

/** Sorted; none where there is no such folder: a device that has none, or a container that does not see it. */
export function namesIn(folder: string): string[] {
  return quietly(() => readdirSync(folder).sort(), []);
}

/** Without the newline at its end; "" where there is no such file: each device, and each sandbox, has others. */
export function readText(path: string): string {
  return quietly(() => readFileSync(path, "utf8").trimEnd(), "");
}

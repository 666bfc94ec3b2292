// Whether a block device may be written to: nobody else's is, whoever asks for it.
//
// Invariant: the kernel has the last word. It opens a device exclusively for nobody while a file system, swap, RAID or
// another device lies on it, in whatever mount namespace; /proc and /sys only tell which of them it is.

import { type BigIntStats, closeSync, constants, existsSync, openSync } from "node:fs";
import { ImgtxError } from "../../errors/index.ts";
import { errnoName } from "../system-error.ts";
import { folderOf, formatDeviceNumber, namesIn, numberOf, readText } from "./sysfs.ts";

/** E_REFUSED, naming who uses the device; E_READ_ONLY where it takes no writes, which the kernel says at the first one alone. */
export function assertDeviceIsFree(path: string, stats: BigIntStats): void {
  const number = formatDeviceNumber(stats.rdev);
  if (readText(`${folderOf(number)}/ro`) === "1") {
    throw new ImgtxError("E_READ_ONLY", `Could not open '${path}': the block device is read-only`, {
      image: path,
      doing: "open",
      reason: "the block device is read-only",
      hint: "where it is meant to be written to, make it so (`lvchange -prw` for LVM, else `blockdev --setrw`)",
    });
  }
  const use =
    describeUse(number) ?? (isClaimed(path) ? "a program or the kernel has it to itself" : undefined);
  if (use === undefined) return;
  throw new ImgtxError("E_REFUSED", `'${path}' is not written to: ${use}`, {
    image: path,
    doing: "open",
    hint: "take it out of that use first, or name another device; `lsblk` shows what lies on it",
  });
}

function isClaimed(path: string): boolean {
  try {
    closeSync(openSync(path, constants.O_RDONLY | constants.O_EXCL | constants.O_NONBLOCK));
    return false;
  } catch (error) {
    // Any other failure shows again when it is opened in earnest.
    return errnoName(error) === "EBUSY";
  }
}

/** Who uses it so that nobody else may write to it, as a clause: `it is mounted at '/srv'`. Undefined: nobody. */
function describeUse(number: string): string | undefined {
  const mount = findMount(number);
  if (mount !== undefined) return `it is mounted at '${mount}'`;
  if (isSwap(number)) return "it is swap";
  const [holder] = namesIn(`${folderOf(number)}/holders`);
  if (holder !== undefined) return `${describeHolder(holder)} lies on it`;
  const partitions = namesIn(folderOf(number)).filter((name) =>
    existsSync(`${folderOf(number)}/${name}/partition`),
  );
  return partitions.length === 0 ? undefined : `it has partitions (${partitions.join(", ")})`;
}

function findMount(number: string): string | undefined {
  // See proc_pid_mountinfo(5): the third field is the device, the fifth where it is, with spaces as \040.
  const line = readText("/proc/self/mountinfo")
    .split("\n")
    .find((each) => each.split(" ")[2] === number);
  return line
    ?.split(" ")[4]
    ?.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

function isSwap(number: string): boolean {
  const areas = readText("/proc/swaps").split("\n").slice(1);
  return areas.some((line) => numberOf(line.split(/\s/, 1)[0] ?? "") === number);
}

function describeHolder(name: string): string {
  const mapped = readText(`/sys/class/block/${name}/dm/name`);
  if (mapped !== "") return `'/dev/mapper/${mapped}'`;
  return existsSync(`/sys/class/block/${name}/md`) ? `the RAID '/dev/${name}'` : `'/dev/${name}'`;
}

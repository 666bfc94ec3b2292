// Which other processes, and loop devices, have a file open, as far as /proc and /sys show it. Only ever for messages: the answer may
// be out of date when it arrives, and is empty where other users' processes are hidden.

import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { basename } from "node:path";
import type { FileStat, Holder } from "./storage.ts";

/** Pid of a holder that /proc/locks tells of and whose process it hides. */
const HIDDEN_PID = 0;
const HIDDEN_PROGRAM = "hidden";

const COMM_LENGTH_MAX = 15;
const LOCK_LINE = /^lock:/m;
/** The flags that it was opened with, in octal; the last two bits are O_WRONLY and O_RDWR. */
const WRITER_LINE = /^flags:\s*[0-7]*[1-35-7]$/m;
const INODE_LINE = /^ino:\s*(\d+)$/m;

/** Those that hold locks on the file first, then by pid. */
export function findHolders(stat: FileStat): Holder[] {
  const holders = quietly(() => readdirSync("/proc"), [])
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map((name) => inspectProcess(name, stat))
    .filter((holder) => holder !== undefined)
    .sort((a, b) => Number(b.holdsLock) - Number(a.holdsLock) || a.pid - b.pid);
  holders.push(...findLoopDevices(stat));
  if (holders.some((holder) => holder.holdsLock === true) || !isLockedByHidden(stat)) return holders;
  return [{ pid: HIDDEN_PID, program: HIDDEN_PROGRAM, holdsLock: true }, ...holders];
}

/** For a message: "pid 4711 (qemu-system-x86)"; with several, the first three. */
export function describeHolders(holders: readonly Holder[]): string {
  const locking = holders.filter((holder) => holder.holdsLock === true);
  return listHolders(locking.length > 0 ? locking : holders);
}

/** The same of those alone that may write to it. */
export function describeWriters(holders: readonly Holder[]): string {
  return listHolders(holders.filter((holder) => holder.writes === true));
}

function listHolders(holders: readonly Holder[]): string {
  const named = holders.filter((holder) => holder.pid !== HIDDEN_PID || holder.program !== HIDDEN_PROGRAM);
  if (named.length === 0) return "a process that /proc does not show (another user's, or in a container)";
  const shown = named
    .slice(0, 3)
    .map(({ pid, program }) => (pid === HIDDEN_PID ? program : `pid ${pid} (${program})`));
  if (named.length > shown.length) shown.push(`${named.length - shown.length} more`);
  return shown.join(", ");
}

function inspectProcess(pid: string, stat: FileStat): Holder | undefined {
  const descriptors = quietly(() => readdirSync(`/proc/${pid}/fd`), []).filter((descriptor) =>
    isSameFile(pid, descriptor, stat),
  );
  if (descriptors.length === 0) return undefined;
  return {
    pid: Number(pid),
    program: programOf(pid),
    holdsLock: descriptors.some((descriptor) => LOCK_LINE.test(readDescriptorInfo(pid, descriptor))),
    writes: descriptors.some((descriptor) => WRITER_LINE.test(readDescriptorInfo(pid, descriptor))),
  };
}

/** Loop devices have a file open inside the kernel, where no process shows it. */
function findLoopDevices(stat: FileStat): Holder[] {
  return quietly(() => readdirSync("/sys/block"), [])
    .filter((name) => {
      const backing = quietly(
        () => readFileSync(`/sys/block/${name}/loop/backing_file`, "utf8").trimEnd(),
        "",
      );
      const stats = backing.startsWith("/")
        ? quietly(() => statSync(backing, { bigint: true }), undefined)
        : undefined;
      return String(stats?.ino) === stat.inode && String(stats?.dev) === stat.fileSystem;
    })
    .map((name) => ({
      pid: HIDDEN_PID,
      program: `/dev/${name}`,
      holdsLock: false,
      writes: quietly(() => readFileSync(`/sys/block/${name}/ro`, "utf8").trimEnd(), "0") === "0",
    }));
}

function programOf(pid: string): string {
  const name = quietly(() => readFileSync(`/proc/${pid}/comm`, "utf8").trimEnd(), "unknown");
  if (name.length < COMM_LENGTH_MAX) return name;
  // The kernel cuts the name; the command line has all of it, unless the process is called otherwise.
  const command = quietly(() => readFileSync(`/proc/${pid}/cmdline`, "utf8"), "").split("\0", 1)[0] ?? "";
  const whole = basename(command);
  return whole.startsWith(name) ? whole : name;
}

function isSameFile(pid: string, descriptor: string, stat: FileStat): boolean {
  // Sockets, pipes and the like are told by their link, files by the inode in fdinfo. Only a file that
  // matches is stat'ed: that would hang on a dead network file system.
  const path = `/proc/${pid}/fd/${descriptor}`;
  if (!quietly(() => readlinkSync(path), "").startsWith("/")) return false;
  const inode = INODE_LINE.exec(readDescriptorInfo(pid, descriptor))?.[1];
  if (inode !== undefined && inode !== stat.inode) return false;
  const stats = quietly(() => statSync(path, { bigint: true }), undefined);
  return String(stats?.ino) === stat.inode && String(stats?.dev) === stat.fileSystem;
}

function readDescriptorInfo(pid: string, descriptor: string): string {
  return quietly(() => readFileSync(`/proc/${pid}/fdinfo/${descriptor}`, "utf8"), "");
}

/** Whether /proc/locks knows of more locks on the file than this process holds itself. */
function isLockedByHidden(stat: FileStat): boolean {
  const all = countLocks(
    quietly(() => readFileSync("/proc/locks", "utf8"), ""),
    stat,
  );
  if (all === 0) return false;
  const own = quietly(() => readdirSync("/proc/self/fd"), [])
    .map((descriptor) => countLocks(readDescriptorInfo("self", descriptor), stat))
    .reduce((sum, count) => sum + count, 0);
  return all > own;
}

// A line of either file: `1: OFDLCK  ADVISORY  READ -1 fe:00:1234 100 101`, after `lock:` in fdinfo.
function countLocks(text: string, stat: FileStat): number {
  return text
    .split("\n")
    .filter((line) => / [0-9a-f]+:[0-9a-f]+:\d+ /.test(line) && !line.includes("->"))
    .filter((line) => line.includes(`${lockIdentity(stat)} `)).length;
}

function lockIdentity(stat: FileStat): string {
  // glibc's and Linux's layout of a device number; /proc prints both parts in hexadecimal.
  const device = BigInt(stat.fileSystem);
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n);
  const minor = (device & 0xffn) | ((device >> 12n) & 0xffffff00n);
  const hex = (part: bigint) => part.toString(16).padStart(2, "0");
  return ` ${hex(major)}:${hex(minor)}:${stat.inode}`;
}

// Processes end while we look, and other users' are not ours to read: neither is an error here.
function quietly<T>(look: () => T, otherwise: T): T {
  try {
    return look();
  } catch {
    return otherwise;
  }
}

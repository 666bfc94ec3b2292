// Which other processes, and loop devices, have a file open, as far as /proc and /sys show it. Only ever for messages: the answer may
// be out of date when it arrives, and is empty where other users' processes are hidden.

import {
  closeSync,
  existsSync,
  openSync,
  read,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
} from "node:fs";
import { basename } from "node:path";
import { describeBlockDevice, placeOfDevice } from "./block-device.ts";
import type { FileStat, Holder } from "../storage.ts";
import { quietly } from "../quietly.ts";
import { splitDeviceNumber } from "./sysfs.ts";
import { errnoName } from "../system-error.ts";

/** Pid of a holder that /proc/locks tells of and whose process it hides. */
const HIDDEN_PID = 0;
const HIDDEN_PROGRAM = "hidden";

/** By a lock on it one of imgtx says that it waits for others on a device. Nobody else locks anything there. */
export const WAITING_BYTE = 2 ** 28;

const COMM_LENGTH_MAX = 15;
const LOCK_LINE = /^lock:/m;
/** The flags that it was opened with, in octal; the last two bits are O_WRONLY and O_RDWR. */
const WRITER_LINE = /^flags:\s*[0-7]*[1-35-7]$/m;
const INODE_LINE = /^ino:\s*(\d+)$/m;

/** Of each file those that hold locks on it first, then by pid. All of /proc is looked at once, for however many. */
export async function findHolders(stats: readonly FileStat[]): Promise<Holder[][]> {
  const listing = readLocks();
  const sought = {
    inodes: new Set(stats.map(({ inode }) => inode)),
    hasDevices: stats.some(({ kind }) => kind === "device"),
  };
  const processes = quietly(() => readdirSync("/proc"), [])
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map((pid) => ({ pid, open: findOpenFiles(pid, sought) }))
    .filter(({ open }) => open.length > 0);
  const loops = findLoopDevices(sought);
  const own = sought.hasDevices ? nodesWaitedFor() : NONE;
  const locks = countLocks(await listing);
  let sure: LockCounts | undefined;
  // The list comes in pages, and a lock that comes or goes between two of them has others told twice: what matters is
  // asked once more, at one go.
  const isHidden = (stat: FileStat): boolean =>
    isLockedByHidden(stat, locks) &&
    isLockedByHidden(stat, (sure ??= countLocks(quietly(() => readFileSync("/proc/locks", "utf8"), ""))));
  return stats.map((stat) => {
    const holders = processes
      .map(({ pid, open }) => inspectProcess(pid, open.filter(isOf(stat)), own))
      .filter((holder) => holder !== undefined)
      .sort((a, b) => Number(b.holdsLock) - Number(a.holdsLock) || a.pid - b.pid);
    holders.push(...loops.filter(isOf(stat)).map(({ holder }) => holder));
    if (holders.some((holder) => holder.holdsLock === true) || !isHidden(stat)) return holders;
    return [{ pid: HIDDEN_PID, program: HIDDEN_PROGRAM, holdsLock: true }, ...holders];
  });
}

/**
 * /proc/locks; "" where it can't be read. For it the kernel waits until no processor is changing locks, which takes it 10 ms: it is
 * asked by another thread, meanwhile.
 */
async function readLocks(): Promise<string> {
  const descriptor = quietly(() => openSync("/proc/locks", "r"), undefined);
  if (descriptor === undefined) return "";
  const chunks: Buffer[] = [];
  for (;;) {
    const chunk = Buffer.alloc(65_536);
    const bytes = await new Promise<number>((resolve) => {
      read(descriptor, chunk, 0, chunk.length, null, (error, count) => resolve(error ? 0 : count));
    });
    if (bytes === 0) break;
    chunks.push(chunk.subarray(0, bytes));
  }
  closeSync(descriptor);
  return Buffer.concat(chunks).toString("latin1");
}

type Place = Pick<FileStat, "fileSystem" | "inode">;

interface Sought {
  readonly inodes: ReadonlySet<string>;
  readonly hasDevices: boolean;
}

function isOf({ fileSystem, inode }: Place): (place: Place) => boolean {
  return (place) => place.inode === inode && place.fileSystem === fileSystem;
}

/** For a message: "pid 4711 (qemu-system-x86)"; with several, the first three. */
export function describeHolders(holders: readonly Holder[]): string {
  const locking = holders.filter(({ holdsLock, waits }) => holdsLock === true && waits !== true);
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

interface OpenFile extends Place {
  readonly descriptor: string;
}

function inspectProcess(
  pid: string,
  open: readonly OpenFile[],
  own: ReadonlySet<string>,
): Holder | undefined {
  if (open.length === 0) return undefined;
  const infos = open.map(({ descriptor }) => readDescriptorInfo(pid, descriptor));
  const writers = infos.filter((info) => WRITER_LINE.test(info));
  // By another node it sees none of the locks that are held here.
  const waits = writers.length > 0 && writers.every((info) => nodesIn(info).some((node) => own.has(node)));
  return {
    pid: Number(pid),
    program: programOf(pid),
    holdsLock: infos.some((info) => LOCK_LINE.test(info)),
    writes: writers.length > 0,
    ...(waits && { waits }),
  };
}

const NONE: ReadonlySet<string> = new Set();

/** Those that this process says it waits for. */
function nodesWaitedFor(): ReadonlySet<string> {
  return new Set(ownDescriptors().flatMap((descriptor) => nodesIn(readDescriptorInfo("self", descriptor))));
}

function nodesIn(info: string): string[] {
  return [...info.matchAll(WAITING_LINE)].flatMap(([, node = ""]) => node);
}

const WAITING_LINE = new RegExp(
  String.raw`^lock:.* ([0-9a-f]+:[0-9a-f]+:\d+) ${WAITING_BYTE} ${WAITING_BYTE}$`,
  "gm",
);

function ownDescriptors(): string[] {
  return quietly(() => readdirSync("/proc/self/fd"), []);
}

/** Loop devices have a file open inside the kernel, where no process shows it. One that is free has no such folder. */
function findLoopDevices(sought: Sought): (Place & { readonly holder: Holder })[] {
  return quietly(() => readdirSync("/sys/block"), [])
    .filter((name) => name.startsWith("loop") && existsSync(`/sys/block/${name}/loop`))
    .flatMap((name) => {
      const backing = quietly(
        () => readFileSync(`/sys/block/${name}/loop/backing_file`, "utf8").trimEnd(),
        "",
      );
      const place = backing.startsWith("/") ? placeOf(backing, sought) : undefined;
      if (!place) return [];
      const writes = quietly(() => readFileSync(`/sys/block/${name}/ro`, "utf8").trimEnd(), "0") === "0";
      return [{ ...place, holder: { pid: HIDDEN_PID, program: `/dev/${name}`, holdsLock: false, writes } }];
    });
}

function programOf(pid: string): string {
  const name = quietly(() => readFileSync(`/proc/${pid}/comm`, "utf8").trimEnd(), "unknown");
  if (name.length < COMM_LENGTH_MAX) return name;
  // The kernel cuts the name; the command line has all of it, unless the process is called otherwise.
  const command = quietly(() => readFileSync(`/proc/${pid}/cmdline`, "utf8"), "").split("\0", 1)[0] ?? "";
  const whole = basename(command);
  return whole.startsWith(name) ? whole : name;
}

function findOpenFiles(pid: string, sought: Sought): OpenFile[] {
  const open: OpenFile[] = [];
  for (const descriptor of quietly(() => readdirSync(`/proc/${pid}/fd`), [])) {
    const path = `/proc/${pid}/fd/${descriptor}`;
    const link = readLinkOf(path);
    // What a process has open is hidden as a whole, and its descriptors may be thousands.
    if (link === undefined) break;
    const place = findPlace(path, link, { pid, descriptor, sought });
    if (place) open.push({ ...place, descriptor });
  }
  return open;
}

/** "" where it was closed meanwhile; undefined where it may not be read. */
function readLinkOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch (error) {
    return ["EACCES", "EPERM"].includes(errnoName(error) ?? "") ? undefined : "";
  }
}

/** What most processes have as their inputs and outputs, and is no image. */
const NO_IMAGE = /^\/dev\/(?:null|pts\/\d+)$/;

function findPlace(
  path: string,
  link: string,
  { pid, descriptor, sought }: { readonly pid: string; readonly descriptor: string; readonly sought: Sought },
): Place | undefined {
  // Sockets, pipes and the like are told by their link, files by the inode in fdinfo. Only a file that
  // matches is stat'ed: that would hang on a dead network file system.
  if (!link.startsWith("/") || NO_IMAGE.test(link)) return undefined;
  // A device may be open by a node of another /dev, with an inode of its own.
  const mayBeDevice = sought.hasDevices && link.startsWith("/dev/");
  const inode = INODE_LINE.exec(readDescriptorInfo(pid, descriptor))?.[1];
  if (inode !== undefined && !sought.inodes.has(inode) && !mayBeDevice) return undefined;
  return placeOf(path, sought);
}

function placeOf(path: string, { inodes }: Sought): Place | undefined {
  const stats = quietly(() => statSync(path, { bigint: true }), undefined);
  if (stats === undefined) return undefined;
  const place = stats.isBlockDevice()
    ? quietly(() => placeOfDevice(describeBlockDevice(path, stats.rdev)), undefined)
    : { inode: String(stats.ino), fileSystem: String(stats.dev) };
  return place && inodes.has(place.inode) ? place : undefined;
}

function readDescriptorInfo(pid: string, descriptor: string): string {
  return quietly(() => readFileSync(`/proc/${pid}/fdinfo/${descriptor}`, "utf8"), "");
}

/** How many locks there are on each file that has some, by its identity. */
type LockCounts = ReadonlyMap<string, number>;

/** Whether /proc/locks, by its counts, knows of more locks on the file than this process holds itself. */
function isLockedByHidden(stat: FileStat, locks: LockCounts): boolean {
  if (locks.size === 0) return false;
  const identity = lockIdentity(stat);
  const all = locks.get(identity) ?? 0;
  if (all === 0) return false;
  const own = ownDescriptors()
    .map((descriptor) => countLocks(readDescriptorInfo("self", descriptor)).get(identity) ?? 0)
    .reduce((sum, count) => sum + count, 0);
  return all > own;
}

// A line of either file: `1: OFDLCK  ADVISORY  READ -1 fe:00:1234 100 101`, after `lock:` in fdinfo. Who only waits has `->`.
function countLocks(text: string): LockCounts {
  const counts = new Map<string, number>();
  for (const line of text.split("\n")) {
    const identity = line.includes("->") ? undefined : LOCKED_FILE.exec(line)?.[1];
    if (identity !== undefined) counts.set(identity, (counts.get(identity) ?? 0) + 1);
  }
  return counts;
}

const LOCKED_FILE = / ([0-9a-f]+:[0-9a-f]+:\d+) /;

function lockIdentity(stat: FileStat): string {
  // glibc's and Linux's layout of a device number; /proc prints both parts in hexadecimal.
  const parts = splitDeviceNumber(BigInt(stat.fileSystem)).map((part) => part.toString(16).padStart(2, "0"));
  return `${parts.join(":")}:${stat.inode}`;
}

// The real disk: Storage by node:fs, and by SystemCalls where Node has no call for it.
//
// Invariants
// - Names change (open, rename, unlink, link, mkdir) on the main thread, in the order of the program; only
//   flushes and large transfers run on the thread pool, where many of them run at once.
// - A file that is opened is a regular one, or a block device where those are allowed: a FIFO does not hang us, and no
//   other device is touched.
// - Nothing is imported at start-up but what Node has loaded anyway.

import {
  type BigIntStats,
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmdirSync,
  statfsSync,
  statSync,
  symlinkSync,
  unlinkSync,
} from "node:fs";
import { ImgtxError } from "../../errors/index.ts";
import { CANT } from "./cant.ts";
import { DeviceFile } from "./device-file.ts";
import { assertDeviceIsFree } from "../kernel/device-use.ts";
import { describeStat, nameOfKind } from "./file-stat.ts";
import { readFileSystemTraits } from "../kernel/file-system.ts";
import { openPastLeases } from "../locks/leased-file.ts";
import { findHolders } from "../kernel/holders.ts";
import { aroundStat, makeNativeAccess, type NativeAccess } from "./native-access.ts";
import { NodeFile } from "./node-file.ts";
import { keepsInodes, listedPath, pathAsListed } from "./listed-name.ts";
import { makeNodeHost } from "../process/node-host.ts";
import type { PlaceToAsk } from "../native/place-calls.ts";
import { fsyncInPool } from "./pool-calls.ts";
import type {
  AttributeName,
  FileStat,
  FolderKinds,
  OpenOptions,
  RemoveFolderOptions,
  Space,
  Storage,
  StorageFile,
} from "../storage.ts";
import { loadSystemCalls, type SystemCalls } from "../native/system-calls.ts";
import { renameWithoutReplacing } from "./rename-without-replacing.ts";
import { reserveSpace } from "./space-reservation.ts";
import {
  doneUnless,
  errnoName,
  explainError,
  explainFlushError,
  explainSymlinkError,
} from "../system-error.ts";
import { actAs } from "../process/users.ts";

export interface NodeStorageParts {
  /** Throws where system calls can't be had. Called once, when one is first needed. */
  readonly loadSystemCalls?: () => SystemCalls;
  /** Throws as node:fs does where the file system has no hard links. */
  readonly link?: (source: string, target: string) => void;
  /** Of the file system with this number, on which the path is. */
  readonly keepsInodes?: (path: string, fileSystem: string) => boolean;
}

/** Flushed at once: with fewer the threads would cost more than they save, and more threads than these find the disk busy. */
const MANY_FILES = 8;
const MOST_THREADS = 16;

const ACCESS_BITS = 0o777;
/** The group's bit, which new folders have of the one that they are in. */
const INHERITED_BITS = 0o2000;

export function makeNodeStorage(parts: NodeStorageParts = {}): Storage {
  const native = makeNativeAccess(parts.loadSystemCalls ?? loadSystemCalls);
  return {
    host: makeNodeHost(),
    openFile: async (path, access, options = {}) =>
      await openExisting(path, access, options, { native, keeps: parts.keepsInodes ?? keepsInodes }),
    createFile: async (path, mode) => createFile(path, mode, native),
    stat: async (path) => statListed(path, native),
    statLink: async (path) => statOf({ path, follow: false }, native),
    readAttribute: async (path, name) =>
      explained(`read '${name}' of`, path, () => native.optional()?.getAttribute(path, name)),
    setAttribute: async (path, name, value) => setAttribute(path, native.optional(), name, value),
    describeFileSystem: async (path) =>
      explained("ask for the file system of", path, () => readFileSystemTraits(path)),
    realPath: async (path) => explained("resolve", path, () => listedPath(realpathSync.native(path))),
    readFolder: async (path) => explained("read the folder", path, () => readdirSync(path).sort()),
    readKinds: async (path) => explained("read the folder", path, () => readKinds(path)),
    async makeFolder(path, mode) {
      explained("make the folder", path, () => {
        mkdirSync(path, { mode });
        // The umask has cleared bits of it, and a folder's default ACL may have.
        const made = lstatSync(path).mode;
        if ((made & ACCESS_BITS) !== mode) chmodSync(path, mode | (made & INHERITED_BITS));
      });
    },
    removeFolder,
    flushFolder,
    expectFlushes: (files) => askForThreads(files, native),
    async rename(source, target) {
      explained(`rename '${source}' to`, target, () => {
        renameSync(source, target);
      });
    },
    async renameWithoutReplacing(source, target) {
      explained(`rename '${source}' to`, target, () => {
        renameWithoutReplacing(source, target, native, parts.link ?? linkSync);
      });
    },
    async removeFile(path) {
      explained("remove", path, () => {
        unlinkSync(path);
      });
    },
    makeSymlink: makerOfSymlinks(parts.link ?? linkSync),
    async setOwner(path, ownerId, groupId) {
      explained("set the owner of", path, () => {
        lchownSync(path, ownerId, groupId);
      });
    },
    readSymlink: async (path) => explained("read the symbolic link", path, () => readlinkSync(path)),
    reserveSpace: async (folder, lengthBytes, written) =>
      await reserveSpace(folder, { lengthBytes, written }, native),
    findHolders: async (stat) => (await findHolders([stat]))[0] ?? [],
    findAllHolders: findHolders,
    measureSpace: async (path) => explained("ask for the space of", path, () => spaceOf(path)),
  };
}

function spaceOf(path: string): Space {
  const { bavail, blocks, bsize } = statfsSync(path);
  return { freeBytes: bavail * bsize, totalBytes: blocks * bsize };
}

async function openExisting(
  path: string,
  access: "read" | "write",
  options: OpenOptions,
  { native, keeps }: { readonly native: NativeAccess; readonly keeps: typeof keepsInodes },
): Promise<StorageFile> {
  // Looked at first, since opening a device node may do something (a watchdog starts, a tape rewinds);
  // looked at again by descriptor, since the name may have changed hands in between.
  const listed = explained("open", path, () => {
    const stats = statSync(path, { bigint: true });
    refuseOtherKinds(path, stats, options);
    if (access === "write" && stats.isBlockDevice()) assertDeviceIsFree(path, stats);
    return pathAsListed(path, String(stats.dev));
  });
  const flags =
    (access === "write" ? constants.O_RDWR : constants.O_RDONLY) |
    constants.O_NONBLOCK |
    constants.O_NOCTTY |
    (options.refuseSymlink === true ? constants.O_NOFOLLOW : 0);
  const open = (): number => explained("open", path, () => openSync(listed, flags));
  const { as } = options;
  // Each attempt anew: who holds a lease may lead the name elsewhere meanwhile.
  const openAs = as === undefined ? undefined : () => actAs(as, open);
  const descriptor = await openPastLeases(path, openAs ?? open);
  try {
    const isDevice = explained("open", path, () => {
      const stats = fstatSync(descriptor, { bigint: true });
      refuseOtherKinds(path, stats, options);
      // FUSE and shares answer from what they have asked before: a size from then has a sound image look cut off. Only
      // now: it is the open that has sshfs ask the other end.
      if (!stats.isBlockDevice() && !keeps(path, String(stats.dev)))
        native.optional()?.refreshStat(descriptor);
      return stats.isBlockDevice();
    });
    return isDevice ? new DeviceFile(path, descriptor, native) : new NodeFile(path, descriptor, native);
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}

function refuseOtherKinds(path: string, stats: BigIntStats, { mayBeDevice = false }: OpenOptions): void {
  if (stats.isFile() || (mayBeDevice && stats.isBlockDevice())) return;
  const reason = `it is ${nameOfKind(stats)}, not a regular file`;
  throw new ImgtxError("E_NOT_A_FILE", `Could not open '${path}': ${reason}`, {
    image: path,
    doing: "open",
    reason,
    ...(stats.isBlockDevice() && {
      hint: "if it is meant, allow it with --allow-devices; IMGTX_ALLOW_DEVICES=1 does so for all commands",
    }),
  });
}

function createFile(path: string, mode: number, native: NativeAccess): StorageFile {
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;
  const descriptor = explained("create", path, () => openSync(path, flags, mode));
  return new NodeFile(path, descriptor, native);
}

function statOf(place: Exclude<PlaceToAsk, number>, native: NativeAccess): FileStat | undefined {
  const { path, follow } = place;
  try {
    const around = aroundStat(place, native);
    const stats = (follow ? statSync : lstatSync)(path, { bigint: true, throwIfNoEntry: false });
    return stats === undefined ? undefined : describeStat(path, stats, around);
  } catch (error) {
    // Nothing is there where the way leads through a file, or in a circle. (A missing entry Node tells without an
    // error.)
    const name = errnoName(error);
    if (name === "ENOTDIR" || (name === "ELOOP" && !follow)) return undefined;
    throw explainError(error, "stat", path);
  }
}

/** A file has one identity, in whatever letters it is named. */
function statListed(path: string, native: NativeAccess): FileStat | undefined {
  const stat = statOf({ path, follow: true }, native);
  const listed = stat === undefined ? path : pathAsListed(path, stat.fileSystem);
  return listed === path ? stat : statOf({ path: listed, follow: true }, native);
}

function setAttribute(
  path: string,
  native: SystemCalls | undefined,
  name: AttributeName,
  value: Uint8Array,
): boolean {
  if (native === undefined) return false;
  return explained("set attributes of", path, () =>
    doneUnless(CANT.setAttribute, () => {
      native.setAttributeAt(path, name, value);
      return true;
    }),
  );
}

/**
 * Gives a symbolic link that says the target a second name, which takes no new inode. False where it can't be had so, for
 * whatever reason: it is made anew then, and that says what is wrong with the place.
 */
function gaveName(
  like: string,
  { path, target }: { readonly path: string; readonly target: string },
  link: (source: string, target: string) => void,
): boolean {
  try {
    if (readlinkSync(like) !== target) return false;
    link(like, path);
    return true;
  } catch (error) {
    if (errnoName(error) === undefined) throw error;
    return false;
  }
}

function makerOfSymlinks(link: (source: string, target: string) => void): Storage["makeSymlink"] {
  return async (target, path, like) => {
    if (like !== undefined && gaveName(like, { path, target }, link)) return;
    try {
      symlinkSync(target, path);
    } catch (error) {
      throw explainSymlinkError(error, path);
    }
  };
}

function askForThreads(files: number, native: NativeAccess): void {
  if (files >= MANY_FILES) native.optional()?.growPool(Math.min(files, MOST_THREADS));
}

function readKinds(path: string): FolderKinds {
  const [names, special]: [string[], string[]] = [[], []];
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    names.push(entry.name);
    // What a file system tells no kind of in its folders may be either.
    if (!entry.isFile() && !entry.isDirectory()) special.push(entry.name);
  }
  return { names, special };
}

async function flushFolder(path: string): Promise<void> {
  try {
    const descriptor = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      await fsyncInPool(descriptor);
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    throw explainFlushError(error, path);
  }
}

async function removeFolder(
  path: string,
  { onlyFlat = false, onlyEmpty = false }: RemoveFolderOptions = {},
): Promise<void> {
  try {
    const stats = lstatSync(path, { throwIfNoEntry: false });
    if (stats === undefined) return;
    const entries = stats.isDirectory() && !onlyEmpty ? readdirSync(path, { withFileTypes: true }) : [];
    if (!onlyFlat && entries.some((entry) => entry.isDirectory())) {
      // A tree. Loading fs-extra takes 30 ms, which a flat folder must not pay.
      const { default: fsExtra } = await import("fs-extra");
      fsExtra.removeSync(path);
      return;
    }
    for (const entry of entries) unlinkSync(`${path}/${entry.name}`);
    rmdirSync(path);
  } catch (error) {
    throw explainError(error, "remove the folder", path);
  }
}

function explained<T>(doing: string, path: string, call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw explainError(error, doing, path);
  }
}

// Where a file lies: on which file system, and by which mounting of it. Of stat's numbers neither lasts: st_dev is
// another one after a reboot, and may be the same one for another disk within it.
//
// Invariants
// - Asked is the kernel alone; what it can't tell stays empty, which callers take for doubt.
// - A mounting has a name of its own: unmounted and mounted again within a boot, the file system may have lost the
//   times of writes that are durable, as it does in a power cut.

import { closeSync, constants, openSync, readdirSync, readlinkSync, statSync } from "node:fs";
import { basename } from "node:path";
import { kindOfType } from "../kernel/file-system.ts";
import { loadForeign } from "./foreign.ts";
import type { NativeFunction } from "./foreign-library.ts";
import { bindCall } from "./numbered-calls.ts";
import { folderOf, formatDeviceNumber } from "../kernel/sysfs.ts";
import { quietly } from "../quietly.ts";

/** An open file, or a path whose last link is followed or not. */
export type PlaceToAsk = number | { readonly path: string; readonly follow: boolean };

export interface FilePlace {
  readonly fileSystemId: string;
  readonly mountId: string;
}

export const UNKNOWN_PLACE: FilePlace = { fileSystemId: "", mountId: "" };

/** The C functions that it takes. Each returns -1 for an error. */
interface PlaceFunctions {
  readonly statx: NativeFunction;
  readonly statfs: NativeFunction;
  readonly fstatfs: NativeFunction;
  readonly ioctl: NativeFunction;
}

// <linux/stat.h>: the mask's bits, and where struct statx (256 bytes) has what is read here.
const STATX_INO = 0x100;
const STATX_MNT_ID_UNIQUE = 0x4000;
const STATX_BYTES = 256;
const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_EMPTY_PATH = 0x1000;
const AT_STATX_FORCE_SYNC = 0x2000;
const STATX_BASIC_STATS = 0x7ff;

// struct statfs with 64-bit words: f_type at 0, f_fsid (two of 32 bits) at 56; 120 bytes.
const STATFS_BYTES = 120;
const FSID_OFFSET = 56;

// struct xfs_fsop_geom_v1 (112 bytes) has the UUID at 64; struct fsuuid2 its length at 0 and the UUID after it.
const XFS_IOC_FSGEOMETRY_V1 = 0x80705864;
const FS_IOC_GETFSUUID = 0x80111500;

/** One for all calls: they run one after the other, and each fills it anew. */
const STATX = new Uint8Array(STATX_BYTES);
const STATX_VIEW = new DataView(STATX.buffer);

export function bindPlaces(): PlaceFunctions {
  const libc = loadForeign().load(null);
  return {
    statx: bindCall(libc, "int statx(int folder, str path, int flags, unsigned int mask, void *into)"),
    statfs: libc.func("int statfs(str path, void *into)"),
    fstatfs: libc.func("int fstatfs(int fd, void *into)"),
    ioctl: libc.func("int ioctl(int fd, unsigned long request, void *into)"),
  };
}

/** Answers where a file is, that stat found as this device and inode. */
export class Places {
  readonly #functions: PlaceFunctions;
  /** By device and mounting. */
  readonly #fileSystems = new Map<string, string>();
  #last = { major: 0, minor: 0, device: "0" };

  constructor(functions: PlaceFunctions) {
    this.#functions = functions;
  }

  find(place: PlaceToAsk, device: string, inode: string): FilePlace {
    const unique = this.#findMount(place, device, inode);
    if (unique === undefined) return UNKNOWN_PLACE;
    const key = `${device} ${unique}`;
    let fileSystem = this.#fileSystems.get(key);
    if (fileSystem === undefined) {
      fileSystem = this.#findFileSystem(place);
      this.#fileSystems.set(key, fileSystem);
    }
    return { fileSystemId: fileSystem, mountId: unique || mountBySysfs(fileSystem, device) };
  }

  /** Has the kernel ask the file system anew for what stat says. What fails is told by the next stat. */
  refresh(descriptor: number): void {
    this.#functions.statx(descriptor, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, STATX);
  }

  /** The kernel's own number of the mounting; "" before Linux 6.8. Undefined where it is not that file any more. */
  #findMount(place: PlaceToAsk, device: string, inode: string): string | undefined {
    const { statx } = this.#functions;
    const mask = STATX_INO | STATX_MNT_ID_UNIQUE;
    const status =
      typeof place === "number"
        ? statx(place, "", AT_EMPTY_PATH, mask, STATX)
        : statx(AT_FDCWD, place.path, place.follow ? 0 : AT_SYMLINK_NOFOLLOW, mask, STATX);
    if (status !== 0) return undefined;
    if (this.#deviceFound() !== device || String(STATX_VIEW.getBigUint64(32, true)) !== inode)
      return undefined;
    const isNumbered = (STATX_VIEW.getUint32(0, true) & STATX_MNT_ID_UNIQUE) !== 0;
    return isNumbered ? `u${STATX_VIEW.getBigUint64(144, true)}` : "";
  }

  /** In stat's form. Nearly all files lie on the file system of the one before. */
  #deviceFound(): string {
    const [major, minor] = [STATX_VIEW.getUint32(136, true), STATX_VIEW.getUint32(140, true)];
    if (major !== this.#last.major || minor !== this.#last.minor)
      this.#last = { major, minor, device: String(joinDevice(major, minor)) };
    return this.#last.device;
  }

  #findFileSystem(place: PlaceToAsk): string {
    const found = new Uint8Array(STATFS_BYTES);
    const status =
      typeof place === "number"
        ? this.#functions.fstatfs(place, found)
        : this.#functions.statfs(place.path, found);
    if (status !== 0) return "";
    const type = Number(new DataView(found.buffer).getBigUint64(0, true));
    const { name } = kindOfType(type);
    return `${name}:${this.#ownId(name, place, found.subarray(FSID_OFFSET, FSID_OFFSET + 8))}`;
  }

  /** The id that a file system gives itself. XFS and F2FS make theirs of the device's number, and keep a UUID. */
  #ownId(name: string, place: PlaceToAsk, fsid: Uint8Array): string {
    if (name === "xfs") return this.#readUuid(place, XFS_IOC_FSGEOMETRY_V1, 112, 64);
    if (name === "f2fs") return this.#readUuid(place, FS_IOC_GETFSUUID, 17, 1);
    const id = toHex(fsid);
    return Number(`0x${id}`) === 0 ? "" : id;
  }

  #readUuid(place: PlaceToAsk, request: number, lengthBytes: number, offset: number): string {
    const found = new Uint8Array(lengthBytes);
    const ask = (descriptor: number): boolean => this.#functions.ioctl(descriptor, request, found) === 0;
    const isFound = typeof place === "number" ? ask(place) : withDescriptor(place, ask);
    return isFound ? toHex(found.subarray(offset, offset + 16)) : "";
  }
}

function withDescriptor(
  { path, follow }: Exclude<PlaceToAsk, number>,
  ask: (descriptor: number) => boolean,
): boolean {
  const { O_RDONLY, O_NONBLOCK, O_NOCTTY, O_NOFOLLOW } = constants;
  // Of a file that may not be read the file system stays without an id.
  return quietly(() => {
    const descriptor = openSync(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | (follow ? 0 : O_NOFOLLOW));
    try {
      return ask(descriptor);
    } finally {
      closeSync(descriptor);
    }
  }, false);
}

/** Kinds that have a folder in /sys/fs for each mounted file system, made anew at each mount. */
const SYSFS_FOLDERS: ReadonlyMap<string, { readonly folder: string; readonly byDevice: boolean }> = new Map([
  ["ext", { folder: "/sys/fs/ext4", byDevice: true }],
  ["xfs", { folder: "/sys/fs/xfs", byDevice: true }],
  ["f2fs", { folder: "/sys/fs/f2fs", byDevice: true }],
  ["btrfs", { folder: "/sys/fs/btrfs", byDevice: false }],
  ["bcachefs", { folder: "/sys/fs/bcachefs", byDevice: false }],
]);

/**
 * For kernels that don't number mountings: inodes in sysfs are never given twice. Where the folder can't be told from
 * the device, all of that kind have to do: another one that is mounted meanwhile is a doubt more, and no harm.
 */
function mountBySysfs(fileSystem: string, device: string): string {
  const [name = ""] = fileSystem.split(":", 1);
  // What is in memory goes with its mounting.
  if (name === "tmpfs") return "memory";
  const place = SYSFS_FOLDERS.get(name);
  if (place === undefined) return "";
  return quietly(() => {
    const names = place.byDevice
      ? [basename(readlinkSync(folderOf(formatDeviceNumber(BigInt(device)))))]
      : readdirSync(place.folder).sort();
    const inodes = names.map((one) => statSync(`${place.folder}/${one}`, { bigint: true }).ino);
    return `s${inodes.join("+")}`;
  }, "");
}

function joinDevice(major: number, minor: number): bigint {
  const [high, low] = [BigInt(major), BigInt(minor)];
  return (
    ((high & 0xfffff000n) << 32n) | ((high & 0xfffn) << 8n) | ((low & 0xffffff00n) << 12n) | (low & 0xffn)
  );
}

function toHex(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += 1) text += (bytes[at] ?? 0).toString(16).padStart(2, "0");
  return text;
}

// The system calls that Node does not offer, behind one small interface. koffi makes them; nothing else
// in imgtx knows it. Linux with 64-bit little-endian structures only (x64, arm64, riscv64, loong64).
//
// Invariants
// - koffi is loaded at the first call that needs it, never at start-up: it costs 6 ms.
// - A call that fails throws a SystemCallError, whose code is the errno's name, as Node's own errors have it.
// - Calls that may take long (copying, cloning) run on a thread of koffi's; all others on the main thread.

import { getAttribute, setAttribute, setAttributeAt } from "./file-attributes.ts";
import type { NativeFunction } from "./foreign-library.ts";
import {
  attempt,
  bindNative,
  callInThread,
  check,
  ERRNO,
  type NativeFunctions,
  SystemCallError,
} from "./native-functions.ts";
import { IS_NODE } from "./foreign.ts";
import { bindPlaces, type FilePlace, Places, type PlaceToAsk } from "./place-calls.ts";
import type { ByteRange, LockKind } from "../storage.ts";
import { doneUnless } from "../system-error.ts";

export interface SystemCalls {
  /** F_OFD_SETLK. False when another open file description holds a conflicting lock. */
  lock(descriptor: number, range: ByteRange, kind: LockKind): boolean;
  unlock(descriptor: number, range: ByteRange): void;
  /** F_OFD_GETLK: whether another open file description holds a lock that conflicts with this one. */
  wouldConflict(descriptor: number, range: ByteRange, kind: LockKind): boolean;
  /** fcntl with a number as its argument. Returns what it returns. */
  control(descriptor: number, command: number, argument: number): number;
  /** SEEK_DATA or SEEK_HOLE. Undefined where the kernel answers that nothing follows (ENXIO). */
  seek(descriptor: number, offset: number, target: "data" | "hole"): number | undefined;
  /** One copy_file_range call. Returns the bytes copied, 0 at the end of the source. */
  copyFileRange(
    source: number,
    sourceOffset: number,
    target: number,
    targetOffset: number,
    lengthBytes: number,
  ): Promise<number>;
  /** sync_file_range, whole file: begins to write back dirty pages. Where a file system can't, nothing happens. */
  beginWriteback(descriptor: number): void;
  /**
   * How many threads the single file's runtime may make for its pool, as calls need them: heeded by the first call there alone, and
   * not where the environment says it (setenv). Node has made its own long before.
   */
  growPool(threads: number): void;
  /** posix_fadvise: begins to read the range into memory, or drops pages of it that nobody uses or has to write. */
  adviseOn(descriptor: number, range: ByteRange, use: keyof typeof USES): void;
  /**
   * preadv2 with RWF_NOWAIT: fills target with what is in memory already. Returns the bytes read; 0 where the
   * first of them are not, and for any error.
   */
  readCached(descriptor: number, target: Uint8Array, offset: number): number;
  /** FICLONE: target gets all of source's blocks, shared. */
  clone(source: number, target: number): Promise<void>;
  /** FALLOC_FL_PUNCH_HOLE, keeping the size. */
  punchHole(descriptor: number, range: ByteRange): void;
  /** FALLOC_FL_ZERO_RANGE, keeping the size. */
  zeroRange(descriptor: number, range: ByteRange): void;
  /** fallocate: gives the range its blocks, and grows the file to its end unless it keeps its size. */
  allocate(descriptor: number, range: ByteRange & { readonly keepsSize?: boolean }): Promise<void>;
  /** fallocate, keeping the size. A hint: false where it failed. */
  reserve(descriptor: number, range: ByteRange): boolean;
  /** FS_IOC_SETFLAGS with FS_NOCOW_FL added. */
  disableCopyOnWrite(descriptor: number): void;
  /** FS_IOC_FSSETXATTR with FS_XFLAG_EXTSIZE added, and this extent size. */
  setExtentSizeHint(descriptor: number, sizeBytes: number): void;
  /** Of FS_IOC_FSGETXATTR; 0 where none was set. */
  extentSizeHint(descriptor: number): number;
  /** futimens: the last modification alone, in nanoseconds since 1970. False where only the owner may (EPERM). */
  setModified(descriptor: number, modifiedNs: bigint): boolean;
  /** fgetxattr, or getxattr of a path. Undefined where there is none (ENODATA, ENOTSUP). */
  getAttribute(file: number | string, name: string): Uint8Array | undefined;
  /** fsetxattr; fremovexattr where the value is undefined. */
  setAttribute(descriptor: number, name: string, value: Uint8Array | undefined): void;
  /** setxattr. */
  setAttributeAt(path: string, name: string, value: Uint8Array): void;
  /** renameat2 with RENAME_NOREPLACE. */
  renameWithoutReplacing(source: string, target: string): void;
  /** On which file system, and by which mounting, the file lies that stat found as this device and inode. */
  findPlace(place: PlaceToAsk, device: string, inode: string): FilePlace;
  /** statx with AT_STATX_FORCE_SYNC: what stat says from then on is no older. */
  refreshStat(descriptor: number): void;
}

const SUPPORTED_ARCHITECTURES: readonly string[] = ["x64", "arm64", "riscv64", "loong64"];

// <fcntl.h> and <linux/fs.h>; the same numbers on every supported architecture.
const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const FALLOC_FL_ZERO_RANGE = 16;
const FICLONE = 0x40049409;
const FS_IOC_GETFLAGS = 0x80086601;
const FS_IOC_SETFLAGS = 0x40086602;
const FS_NOCOW_FL = 0x00800000;
// struct fsxattr: fsx_xflags at 0, fsx_extsize at 4 (32 bits each), 28 bytes in all.
const FS_IOC_FSGETXATTR = 0x801c581f;
const FS_IOC_FSSETXATTR = 0x401c5820;
const FS_XFLAG_EXTSIZE = 0x00000800;
const FSXATTR_BYTES = 28;
const AT_FDCWD = -100;
const RENAME_NOREPLACE = 1;
const SYNC_FILE_RANGE_WRITE = 2;
/** POSIX_FADV_WILLNEED and POSIX_FADV_DONTNEED. */
const USES = { soon: 3, "no more": 4 } as const;
const RWF_NOWAIT = 8;
/** What the kernel answers where another one has the lock. */
const HELD_BY_OTHERS: ReadonlySet<number> = new Set([ERRNO.EAGAIN, ERRNO.EACCES]);
const ONLY_OWNER: ReadonlySet<string> = new Set(["EPERM"]);
const UTIME_OMIT = 0x3ffffffen;
const NS_PER_SECOND = 1_000_000_000n;

// struct flock: l_type (16 bits) at 0, l_whence (16 bits) at 2, l_start at 8, l_len at 16 (64 bits each),
// l_pid (32 bits, must be 0 for these locks) at 24.
const FLOCK_BYTES = 32;

/** Loads koffi and binds the calls. Throws what koffi throws when it can't be loaded. */
export function loadSystemCalls(): SystemCalls {
  if (process.platform !== "linux" || !SUPPORTED_ARCHITECTURES.includes(process.arch)) {
    throw new Error(`system calls of ${process.platform} on ${process.arch} are not known`);
  }
  const native = bindNative();
  let bound: Places | undefined;
  const places = (): Places => (bound ??= new Places(bindPlaces()));
  return {
    findPlace: (place, device, inode) => places().find(place, device, inode),
    refreshStat: (descriptor) => places().refresh(descriptor),
    lock: (descriptor, range, kind) =>
      setLock(native, descriptor, encodeLock(kind === "shared" ? F_RDLCK : F_WRLCK, range)),
    unlock(descriptor, range) {
      setLock(native, descriptor, encodeLock(F_UNLCK, range));
    },
    wouldConflict: (descriptor, range, kind) => queryLock(native, descriptor, range, kind),
    control: (descriptor, command, argument) =>
      check(native, "fcntl", native.fcntlWith, descriptor, command, argument),
    seek: (descriptor, offset, target) => seek(native, descriptor, offset, target),
    copyFileRange: (source, sourceOffset, target, targetOffset, lengthBytes) =>
      callInThread(
        native,
        "copy_file_range",
        native.copyFileRange,
        source,
        BigInt64Array.of(BigInt(sourceOffset)),
        target,
        BigInt64Array.of(BigInt(targetOffset)),
        lengthBytes,
        0,
      ),
    beginWriteback(descriptor) {
      // A hint: what fails here fails again, and is reported, in the flush.
      native.syncFileRange(descriptor, 0, 0, SYNC_FILE_RANGE_WRITE);
    },
    growPool: (threads) => growPool(native, threads),
    adviseOn(descriptor, range, use) {
      // A hint too.
      native.fileAdvise(descriptor, range.start, range.lengthBytes, USES[use]);
    },
    readCached: makeCachedReader(native),
    async clone(source, target) {
      await callInThread(native, "ioctl FICLONE", native.ioctl, target, FICLONE, source);
    },
    reserve: (descriptor, range) =>
      Number(native.fallocate(descriptor, FALLOC_FL_KEEP_SIZE, range.start, range.lengthBytes)) === 0,
    punchHole: (descriptor, range) => clear(native, FALLOC_FL_PUNCH_HOLE, descriptor, range),
    zeroRange: (descriptor, range) => clear(native, FALLOC_FL_ZERO_RANGE, descriptor, range),
    allocate: (descriptor, range) => allocate(native, descriptor, range),
    disableCopyOnWrite: (descriptor) => disableCopyOnWrite(native, descriptor),
    setExtentSizeHint: (descriptor, sizeBytes) => setExtentSizeHint(native, descriptor, sizeBytes),
    extentSizeHint: (descriptor) => readAttributes(native, descriptor).getUint32(4, true),
    setModified: (descriptor, modifiedNs) => setModified(native, descriptor, modifiedNs),
    getAttribute: (file, name) => getAttribute(native, file, name),
    setAttribute: (descriptor, name, value) => setAttribute(native, descriptor, name, value),
    setAttributeAt: (path, name, value) => setAttributeAt(native, path, name, value),
    renameWithoutReplacing: (source, target) => renameWithoutReplacing(native, source, target),
  };
}

function growPool(native: NativeFunctions, threads: number): void {
  if (!IS_NODE) native.setenv("UV_THREADPOOL_SIZE", String(threads), 0);
}

function makeCachedReader(native: NativeFunctions): SystemCalls["readCached"] {
  let preadv2: NativeFunction | undefined;
  let isBound = false;
  return (descriptor, target, offset) => {
    if (!isBound) preadv2 = native.bindPreadv2();
    isBound = true;
    if (preadv2 === undefined) return 0;
    // struct iovec: an address and a length.
    const vector = BigUint64Array.of(native.address(target), BigInt(target.length));
    return Math.max(0, Number(preadv2(descriptor, vector, 1, offset, RWF_NOWAIT)));
  };
}

/** One for all calls: they run one after the other, and each fills it anew. */
const FLOCK = new Uint8Array(FLOCK_BYTES);
const FLOCK_WORDS = new Uint32Array(FLOCK.buffer);

const allocate = async (
  native: NativeFunctions,
  descriptor: number,
  { start, lengthBytes, keepsSize = false }: Parameters<SystemCalls["allocate"]>[1],
): Promise<void> => {
  const mode = keepsSize ? FALLOC_FL_KEEP_SIZE : 0;
  await callInThread(native, "fallocate", native.fallocate, descriptor, mode, start, lengthBytes);
};

function clear(native: NativeFunctions, mode: number, descriptor: number, range: ByteRange): void {
  const keeping = mode | FALLOC_FL_KEEP_SIZE;
  check(native, "fallocate", native.fallocate, descriptor, keeping, range.start, range.lengthBytes);
}

function disableCopyOnWrite(native: NativeFunctions, descriptor: number): void {
  const flags = new Uint8Array(8);
  const view = new DataView(flags.buffer);
  check(native, "ioctl FS_IOC_GETFLAGS", native.ioctlWith, descriptor, FS_IOC_GETFLAGS, flags);
  view.setUint32(0, (view.getUint32(0, true) | FS_NOCOW_FL) >>> 0, true);
  check(native, "ioctl FS_IOC_SETFLAGS", native.ioctlWith, descriptor, FS_IOC_SETFLAGS, flags);
}

function setExtentSizeHint(native: NativeFunctions, descriptor: number, sizeBytes: number): void {
  const view = readAttributes(native, descriptor);
  const attributes = new Uint8Array(view.buffer);
  view.setUint32(0, (view.getUint32(0, true) | FS_XFLAG_EXTSIZE) >>> 0, true);
  view.setUint32(4, sizeBytes, true);
  check(native, "ioctl FS_IOC_FSSETXATTR", native.ioctlWith, descriptor, FS_IOC_FSSETXATTR, attributes);
}

function renameWithoutReplacing(native: NativeFunctions, source: string, target: string): void {
  check(native, "renameat2", native.renameat2, AT_FDCWD, source, AT_FDCWD, target, RENAME_NOREPLACE);
}

/** A struct fsxattr. */
function readAttributes(native: NativeFunctions, descriptor: number): DataView {
  const attributes = new Uint8Array(FSXATTR_BYTES);
  check(native, "ioctl FS_IOC_FSGETXATTR", native.ioctlWith, descriptor, FS_IOC_FSGETXATTR, attributes);
  return new DataView(attributes.buffer);
}

function encodeLock(type: number, range: ByteRange): Uint8Array {
  // A length of 0 would mean "up to the end, wherever that is": never what a caller here wants.
  if (range.lengthBytes <= 0) throw new RangeError(`not a range to lock: ${range.lengthBytes} bytes`);
  FLOCK_WORDS[0] = type;
  // In two halves each, cut off by the array: a bigint would take longer than the call.
  FLOCK_WORDS[2] = range.start;
  FLOCK_WORDS[3] = range.start / 2 ** 32;
  FLOCK_WORDS[4] = range.lengthBytes;
  FLOCK_WORDS[5] = range.lengthBytes / 2 ** 32;
  // A question's answer has the holder there.
  FLOCK_WORDS[6] = 0;
  return FLOCK;
}

function setModified(native: NativeFunctions, descriptor: number, modifiedNs: bigint): boolean {
  return doneUnless(ONLY_OWNER, () => {
    check(native, "futimens", native.futimens, descriptor, encodeModified(modifiedNs));
    return true;
  });
}

/** Two struct timespec, access and modification: seconds and nanoseconds, 64 bits each. */
function encodeModified(modifiedNs: bigint): BigInt64Array {
  const nanoseconds = ((modifiedNs % NS_PER_SECOND) + NS_PER_SECOND) % NS_PER_SECOND;
  return BigInt64Array.of(0n, UTIME_OMIT, (modifiedNs - nanoseconds) / NS_PER_SECOND, nanoseconds);
}

function setLock(native: NativeFunctions, descriptor: number, lock: Uint8Array): boolean {
  const result = attempt(native, native.fcntl, descriptor, F_OFD_SETLK, lock);
  if (result >= 0) return true;
  if (HELD_BY_OTHERS.has(-result)) return false;
  throw new SystemCallError("fcntl F_OFD_SETLK", -result);
}

function queryLock(native: NativeFunctions, descriptor: number, range: ByteRange, kind: LockKind): boolean {
  const lock = encodeLock(kind === "shared" ? F_RDLCK : F_WRLCK, range);
  check(native, "fcntl F_OFD_GETLK", native.fcntl, descriptor, F_OFD_GETLK, lock);
  return FLOCK[0] !== F_UNLCK;
}

function seek(
  native: NativeFunctions,
  descriptor: number,
  offset: number,
  target: "data" | "hole",
): number | undefined {
  const result = attempt(native, native.lseek, descriptor, offset, target === "data" ? SEEK_DATA : SEEK_HOLE);
  if (result >= 0) return result;
  if (-result === ERRNO.ENXIO) return undefined;
  throw new SystemCallError("lseek", -result);
}

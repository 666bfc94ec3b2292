// The C functions that system calls are made by, and what becomes of a call that failed.
//
// Invariant: the library is loaded at the first call that needs it. Where it can't be, files can be read, and every lock is
// refused with the way to mend it; nothing that needs a lock goes on without.

import { loadForeign } from "./foreign.ts";
import type { NativeFunction, NativeValue } from "./foreign-library.ts";
import { bindCall } from "./numbered-calls.ts";
import { nameErrno } from "../system-error.ts";

/** Of <errno.h>, the same on every supported architecture: node:os would have them, and takes time to load. */
export const ERRNO = {
  EINTR: 4,
  ENXIO: 6,
  EAGAIN: 11,
  EACCES: 13,
  ERANGE: 34,
  ENODATA: 61,
  ENOTSUP: 95,
} as const;

/** A failed system call, in the shape of the errors that node:fs throws. */
export class SystemCallError extends Error {
  override readonly name = "SystemCallError";
  /** Name of the errno, the one that Node uses where it has two: EAGAIN, ENOTSUP. */
  readonly code: string;
  /** Negative, as in Node's errors. */
  readonly errno: number;

  constructor(call: string, errno: number) {
    const code = nameErrno(errno);
    super(`${code}: ${call}`);
    this.code = code;
    this.errno = -errno;
  }
}

const PROTOTYPES = {
  fcntl: "int fcntl(int fd, int command, void *lock)",
  /** The same call, whose argument is a number. */
  fcntlWith: "int fcntl(int fd, int command, long argument)",
  lseek: "int64_t lseek(int fd, int64_t offset, int whence)",
  copyFileRange:
    "int64_t copy_file_range(int from, void *fromOffset, int to, void *toOffset, size_t length, unsigned int flags)",
  ioctl: "int ioctl(int fd, unsigned long request, long argument)",
  /** The same call, whose argument is an address. */
  ioctlWith: "int ioctl(int fd, unsigned long request, void *argument)",
  fallocate: "int fallocate(int fd, int mode, int64_t offset, int64_t length)",
  renameat2: "int renameat2(int fromFolder, str from, int toFolder, str to, unsigned int flags)",
  syncFileRange: "int sync_file_range(int fd, int64_t offset, int64_t length, unsigned int flags)",
  fileAdvise: "int posix_fadvise(int fd, int64_t offset, int64_t length, int advice)",
  setenv: "int setenv(str name, str value, int replace)",
  futimens: "int futimens(int fd, void *times)",
  fgetxattr: "int64_t fgetxattr(int fd, str name, void *value, size_t size)",
  getxattr: "int64_t getxattr(str path, str name, void *value, size_t size)",
  fsetxattr: "int fsetxattr(int fd, str name, void *value, size_t size, int flags)",
  setxattr: "int setxattr(str path, str name, void *value, size_t size, int flags)",
  fremovexattr: "int fremovexattr(int fd, str name)",
} as const;

export interface NativeFunctions extends Readonly<Record<keyof typeof PROTOTYPES, NativeFunction>> {
  /** Not every C library has it. */
  readonly bindPreadv2: () => NativeFunction | undefined;
  /** Where the bytes lie in memory. */
  readonly address: (bytes: Uint8Array) => bigint;
  readonly errno: () => number;
}

/** Each is bound when it is first called: most commands call two or three of them. */
export function bindNative(): NativeFunctions {
  const foreign = loadForeign();
  const libc = foreign.load(null);
  const native = {
    bindPreadv2() {
      try {
        return libc.func("int64_t preadv2(int fd, void *vector, int count, int64_t offset, int flags)");
      } catch {
        // An older musl: nothing is lost but speed.
        return undefined;
      }
    },
    address: (bytes: Uint8Array) => foreign.address(bytes),
    errno: () => foreign.errno(),
  };
  for (const [name, prototype] of Object.entries(PROTOTYPES)) {
    const get = (): NativeFunction => {
      const value = bindCall(libc, prototype);
      Object.defineProperty(native, name, { value });
      return value;
    };
    Object.defineProperty(native, name, { configurable: true, get });
  }
  return native as NativeFunctions;
}

/** What it returns; a failure's errno, negative, as the kernel itself has it. No error is made: that costs more than the call. */
export function attempt(native: NativeFunctions, call: NativeFunction, ...values: NativeValue[]): number {
  for (;;) {
    const result = Number(call(...values));
    if (result !== -1) return result;
    const errno = native.errno();
    if (errno !== ERRNO.EINTR) return -errno;
  }
}

/** The same of a call whose result is never below 0, where any failure is an error. */
export function check(
  native: NativeFunctions,
  name: string,
  call: NativeFunction,
  ...values: NativeValue[]
): number {
  const result = attempt(native, call, ...values);
  if (result < 0) throw new SystemCallError(name, -result);
  return result;
}

/**
 * Runs a call on another thread. errno belongs to that thread and can't be read from here, so a call that
 * failed is repeated on this one, which fails alike and says why, or simply does the work.
 */
export async function callInThread(
  native: NativeFunctions,
  name: string,
  bound: NativeFunction,
  ...values: NativeValue[]
): Promise<number> {
  const result = await new Promise<number>((resolve, reject) => {
    bound.async(...values, (error, value) => {
      if (error === null) resolve(Number(value));
      else reject(error);
    });
  });
  return result === -1 ? check(native, name, bound, ...values) : result;
}

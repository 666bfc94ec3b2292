// Extended attributes: ACLs, labels and what imgtx notes of a file, by the system calls for them.

import { attempt, check, ERRNO, type NativeFunctions, SystemCallError } from "./native-functions.ts";

/** The kernel's limit for a value. */
const ATTRIBUTE_BYTES_MAX = 64 * 1024;
/** Most files have none, so this is no failure. */
const NO_ATTRIBUTE: ReadonlySet<number> = new Set([ERRNO.ENODATA, ERRNO.ENOTSUP]);

/** Undefined where there is none. */
export function getAttribute(
  native: NativeFunctions,
  file: number | string,
  name: string,
): Uint8Array | undefined {
  for (const sizeBytes of [256, ATTRIBUTE_BYTES_MAX]) {
    const value = new Uint8Array(sizeBytes);
    const call = typeof file === "number" ? native.fgetxattr : native.getxattr;
    const result = attempt(native, call, file, name, value, sizeBytes);
    if (result >= 0) return value.subarray(0, result);
    if (NO_ATTRIBUTE.has(-result)) return undefined;
    if (-result !== ERRNO.ERANGE || sizeBytes === ATTRIBUTE_BYTES_MAX)
      throw new SystemCallError("getxattr", -result);
  }
  return undefined;
}

/** Undefined removes it. */
export function setAttribute(
  native: NativeFunctions,
  descriptor: number,
  name: string,
  value: Uint8Array | undefined,
): void {
  if (value) {
    check(native, "fsetxattr", native.fsetxattr, descriptor, name, value, value.length, 0);
    return;
  }
  const result = attempt(native, native.fremovexattr, descriptor, name);
  if (result < 0 && !NO_ATTRIBUTE.has(-result)) throw new SystemCallError("fremovexattr", -result);
}

/** Of whatever the path leads to. */
export function setAttributeAt(native: NativeFunctions, path: string, name: string, value: Uint8Array): void {
  check(native, "setxattr", native.setxattr, path, name, value, value.length, 0);
}

// Extended attributes: ACLs and labels, by the system calls for them.

import { check, type NativeFunctions, SystemCallError } from "./native-functions.ts";

/** The kernel's limit for a value. */
const ATTRIBUTE_BYTES_MAX = 64 * 1024;
const NO_ATTRIBUTE: ReadonlySet<string> = new Set(["ENODATA", "ENOTSUP", "EOPNOTSUPP"]);

/** Undefined where there is none. */
export function getAttribute(
  native: NativeFunctions,
  file: number | string,
  name: string,
): Uint8Array | undefined {
  const read = (value: Uint8Array): number =>
    check(native, "getxattr", () =>
      typeof file === "number"
        ? native.fgetxattr(file, name, value, value.length)
        : native.getxattr(file, name, value, value.length),
    );
  for (const sizeBytes of [256, ATTRIBUTE_BYTES_MAX]) {
    const value = new Uint8Array(sizeBytes);
    try {
      return value.subarray(0, read(value));
    } catch (error) {
      if (!(error instanceof SystemCallError)) throw error;
      if (NO_ATTRIBUTE.has(error.code)) return undefined;
      if (error.code !== "ERANGE" || sizeBytes === ATTRIBUTE_BYTES_MAX) throw error;
    }
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
    check(native, "fsetxattr", () => native.fsetxattr(descriptor, name, value, value.length, 0));
    return;
  }
  try {
    check(native, "fremovexattr", () => native.fremovexattr(descriptor, name));
  } catch (error) {
    if (!(error instanceof SystemCallError) || !NO_ATTRIBUTE.has(error.code)) throw error;
  }
}

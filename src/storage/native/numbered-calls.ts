// System calls by their numbers, for C libraries that have no function for them yet: musl before 1.2.6 (Alpine) has no
// renameat2, and glibc before 2.28 has neither that nor statx.

import type { NativeFunction, NativeLibrary } from "./foreign-library.ts";

/** By name: the number on x64, and that of all other supported architectures (<asm-generic/unistd.h>). */
const NUMBERS: ReadonlyMap<string, { readonly x64: number; readonly others: number }> = new Map([
  ["renameat2", { x64: 316, others: 276 }],
  ["copy_file_range", { x64: 326, others: 285 }],
  ["statx", { x64: 332, others: 291 }],
]);

/** The C library's function, or the call itself where it has none. Throws where there is neither. */
export function bindCall(libc: NativeLibrary, prototype: string): NativeFunction {
  try {
    return libc.func(prototype);
  } catch (error) {
    const [, name = "", parameters = ""] = /(\w+)\((.*)\)$/.exec(prototype) ?? [];
    const numbers = NUMBERS.get(name);
    if (numbers === undefined) throw error;
    return withNumber(libc.func(`long syscall(long number, ${parameters})`), numbers);
  }
}

function withNumber(call: NativeFunction, { x64, others }: { x64: number; others: number }): NativeFunction {
  const number = process.arch === "x64" ? x64 : others;
  const async: NativeFunction["async"] = (...values) => {
    call.async(number, ...values);
  };
  return Object.assign((...values: Parameters<NativeFunction>) => call(number, ...values), { async });
}

// bun:ffi in the shape that foreign.ts asks for: the single file has no koffi, which would have to be unpacked to a file
// at each start.
//
// Invariants
// - errno is read from where the C library keeps it, right after the call, before the runtime gets to do anything else.
// - There is no other thread to call on: an async call is made here, and answered from the event loop, so that signals
//   and timers get their turn between two of them.

import { createRequire } from "node:module";
import type { Foreign, NativeFunction, NativeResult, NativeValue } from "./foreign-library.ts";

type BunFunction = (...values: Exclude<NativeValue, string>[]) => number | bigint | null;

/** What is used of it. */
interface BunFfi {
  dlopen(
    library: string,
    functions: Readonly<Record<string, { readonly args: readonly string[]; readonly returns: string }>>,
  ): { readonly symbols: Readonly<Record<string, BunFunction>> };
  ptr(bytes: Uint8Array): number;
  readonly read: { i32(address: number, offset: number): number };
}

/** The single file is made for glibc. */
const C_LIBRARY = "libc.so.6";

/** The types of C that prototypes are written with. Numbers of 64 bits are plain ones, as far as they fit. */
const TYPES: Readonly<Record<string, string>> = {
  int: "i32",
  "unsigned int": "u32",
  long: "i64_fast",
  int64_t: "i64_fast",
  "unsigned long": "u64_fast",
  size_t: "u64_fast",
  "void *": "ptr",
  str: "ptr",
};

export function loadBunForeign(): Foreign {
  const ffi = createRequire(import.meta.url)("bun:ffi") as BunFfi;
  const errnoAt = Number(bind(ffi, C_LIBRARY, "void *__errno_location()")());
  return {
    load: (name) => ({ func: (prototype) => withAsync(bind(ffi, name ?? C_LIBRARY, prototype)) }),
    address: (bytes) => BigInt(ffi.ptr(bytes)),
    errno: () => ffi.read.i32(errnoAt, 0),
  };
}

function withAsync(call: (...values: NativeValue[]) => NativeResult): NativeFunction {
  const async: NativeFunction["async"] = (...given) => {
    const done = given.pop() as (error: Error | null, result: NativeResult) => void;
    const result = call(...(given as NativeValue[]));
    setImmediate(() => {
      done(null, result);
    });
  };
  return Object.assign(call, { async });
}

function bind(ffi: BunFfi, library: string, prototype: string): (...values: NativeValue[]) => NativeResult {
  const [, returns = "", name = "", list = ""] = /^(.*?)(\w+)\((.*)\)$/.exec(prototype) ?? [];
  const args = list === "" ? [] : list.split(",").map((each) => typeOf(each.replace(/\w+$/, "")));
  const { symbols } = ffi.dlopen(library, { [name]: { args, returns: typeOf(returns) } });
  const call = symbols[name] as BunFunction;
  if (typeOf(returns) === "ptr") return (...values) => BigInt(call(...values.map(asBytes)) ?? 0);
  const plain = call as (...values: NativeValue[]) => NativeResult;
  // As it is where no value is a text: what goes through here takes several times as long as the call itself.
  if (!list.includes("str ")) return plain;
  const texts = list.split(",").flatMap((each, index) => (each.includes("str ") ? [index] : []));
  return (...values) => {
    for (const index of texts) values[index] = asBytes(values[index] ?? null);
    return plain(...values);
  };
}

/** Of texts that are no path: a few names, and the empty one, again and again. */
const bytesOfNames = new Map<string, Uint8Array>();
const MOST_NAMES = 16;

function asBytes(value: NativeValue): Exclude<NativeValue, string> {
  if (typeof value !== "string") return value;
  const known = bytesOfNames.get(value);
  if (known) return known;
  const bytes = new TextEncoder().encode(`${value}\0`);
  if (!value.includes("/") && bytesOfNames.size < MOST_NAMES) bytesOfNames.set(value, bytes);
  return bytes;
}

function typeOf(written: string): string {
  const type = TYPES[written.trim()];
  if (type === undefined) throw new Error(`a function of C with '${written}' can't be bound`);
  return type;
}

// How far local time is ahead of UTC, as the single file has it: the first local time takes its runtime 3.5 ms, a quarter of
// a small command, and the C library 0.1.
//
// Invariant: where TZ names a zone the runtime is asked all the same, as it is for what is typed: it knows zones that the
// system has no file of, and the C library would say UTC for them.

/** Of bun:ffi. */
interface Library {
  readonly symbols: { localtime_r(seconds: BigInt64Array, into: Uint8Array): number | null };
}

// struct tm of glibc has its offset from UTC, in seconds, at 40.
const TM_BYTES = 56;
const GMTOFF_AT = 40;

let library: Library | null | undefined;

export function minutesAhead(milliseconds: number): number {
  const seconds = process.env["TZ"] === undefined ? secondsAhead(milliseconds) : undefined;
  return seconds === undefined ? -new Date(milliseconds).getTimezoneOffset() : Math.round(seconds / 60);
}

function secondsAhead(milliseconds: number): number | undefined {
  library ??= loadLibrary();
  const found = new Uint8Array(TM_BYTES);
  const seconds = BigInt64Array.of(BigInt(Math.floor(milliseconds / 1000)));
  if (!library?.symbols.localtime_r(seconds, found)) return undefined;
  return Number(new DataView(found.buffer).getBigInt64(GMTOFF_AT, true));
}

/** Null where no code may be made at run time, as the call needs. */
function loadLibrary(): Library | null {
  try {
    const ffi = require("bun:ffi") as { dlopen(name: string, functions: object): Library };
    return ffi.dlopen("libc.so.6", { localtime_r: { args: ["ptr", "ptr"], returns: "ptr" } });
  } catch {
    return null;
  }
}

// What is read and written on the main thread, where a call takes microseconds: up to 64 KiB.

import { readSync, writeSync } from "node:fs";
import { explainError } from "../system-error.ts";
import { takesNoMore } from "./write-queue.ts";

export const SHORT_BYTES_MAX = 64 * 1024;

/** Repeats the call until all bytes are there, or one reads none. Returns the bytes read. */
export function readNow(path: string, descriptor: number, target: Uint8Array, offset: number): number {
  let done = 0;
  try {
    while (done < target.length) {
      const count = readSync(descriptor, target, done, target.length - done, offset + done);
      if (count === 0) break;
      done += count;
    }
  } catch (error) {
    throw explainError(error, "read from", path, offset + done);
  }
  return done;
}

/** Repeats the call until all bytes are written. */
export function writeNow(path: string, descriptor: number, source: Uint8Array, offset: number): void {
  let done = 0;
  try {
    while (done < source.length) {
      const count = writeSync(descriptor, source, done, source.length - done, offset + done);
      if (count === 0) break;
      done += count;
    }
  } catch (error) {
    throw explainError(error, "write to", path, offset + done);
  }
  if (done < source.length) throw takesNoMore(path, offset + done);
}

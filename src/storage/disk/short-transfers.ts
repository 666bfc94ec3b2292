// What is read and written on the main thread, where a call takes microseconds: up to 64 KiB.

import { readSync, writeSync } from "node:fs";
import { explainError } from "../system-error.ts";
import { takesNoMore } from "./write-queue.ts";

export const SHORT_BYTES_MAX = 64 * 1024;

/** Repeats the call until all bytes are there, or one reads none. Returns the bytes read. */
export function readNow(path: string, descriptor: number, target: Uint8Array, offset: number): number {
  return transferNow({ call: readSync, doing: "read from", path }, descriptor, target, offset);
}

/** Repeats the call until all bytes are written. */
export function writeNow(path: string, descriptor: number, source: Uint8Array, offset: number): void {
  const done = transferNow({ call: writeSync, doing: "write to", path }, descriptor, source, offset);
  if (done < source.length) throw takesNoMore(path, offset + done);
}

interface Transfer {
  readonly call: (
    descriptor: number,
    bytes: Uint8Array,
    start: number,
    length: number,
    position: number,
  ) => number;
  readonly doing: string;
  readonly path: string;
}

function transferNow(
  { call, doing, path }: Transfer,
  descriptor: number,
  bytes: Uint8Array,
  offset: number,
): number {
  let done = 0;
  try {
    while (done < bytes.length) {
      const count = call(descriptor, bytes, done, bytes.length - done, offset + done);
      if (count === 0) break;
      done += count;
    }
  } catch (error) {
    throw explainError(error, doing, path, offset + done);
  }
  return done;
}

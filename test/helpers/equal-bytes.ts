// Bytes are compared at once: `toEqual` takes a second for each 60 KiB of them, one property after the other.

import { expect } from "vitest";

let isKnown = false;

/** For all files that this process runs. */
export function compareBytesAtOnce(): void {
  if (isKnown) return;
  isKnown = true;
  expect.addEqualityTesters([areEqualBytes]);
}

/** Undefined where it is for others to say. */
function areEqualBytes(one: unknown, other: unknown): boolean | undefined {
  return one instanceof Uint8Array && other instanceof Uint8Array && one.constructor === other.constructor
    ? Buffer.compare(one, other) === 0
    : undefined;
}

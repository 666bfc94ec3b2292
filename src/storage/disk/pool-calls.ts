// Calls of Node's thread pool, as promises, and how many of them are under way. Made by hand: a copy waits for what lies
// between two of them.

import { fsync, read, write, writev } from "node:fs";

/** The kernel transfers at most 2 GiB less a page at once. */
export const CALL_BYTES_MAX = 1024 * 1024 * 1024;

/** Two for each core of a small machine, or one for each thread of Node's: so none stands idle while this thread reads. */
const BUSY_POOL_CALLS = 4;

/** Of all files. */
let underWay = 0;

/** Whether the pool has enough to do. */
export function isPoolBusy(): boolean {
  return underWay >= BUSY_POOL_CALLS;
}

/** Calls that use one descriptor. */
export class CallsUnderWay {
  readonly #calls = new Set<Promise<unknown>>();

  async keep<T>(call: Promise<T>): Promise<T> {
    this.#calls.add(call);
    try {
      return await call;
    } finally {
      this.#calls.delete(call);
    }
  }

  /** Waits until there is none. */
  async idle(): Promise<void> {
    while (this.#calls.size > 0) await Promise.allSettled(this.#calls);
  }
}

/** Returns the bytes read. */
export function readInPool(descriptor: number, target: Uint8Array, position: number): Promise<number> {
  return counted((done) => {
    read(descriptor, target, 0, target.length, position, done);
  });
}

/** The pieces one after the other. Returns the bytes written. */
export function writeInPool(
  descriptor: number,
  pieces: readonly Uint8Array[],
  position: number,
): Promise<number> {
  const [only] = pieces;
  return counted((done) => {
    if (only === undefined || pieces.length > 1) writev(descriptor, pieces, position, done);
    else write(descriptor, only, 0, only.length, position, done);
  });
}

export async function fsyncInPool(descriptor: number): Promise<void> {
  await counted((done) => {
    fsync(descriptor, (error) => {
      done(error, 0);
    });
  });
}

function counted(call: (done: (error: Error | null, count: number) => void) => void): Promise<number> {
  return new Promise((resolve, reject) => {
    call((error, count) => {
      underWay -= 1;
      if (error) reject(error);
      else resolve(count);
    });
    underWay += 1;
  });
}

// A thread of its own that compares bytes of files that are in memory. It reads both sides in pieces that stay in its
// processor's cache: reading them on the thread pool, and comparing them on another thread, takes half as long again.
//
// Invariants
// - A yes alone counts. What differs, lies past an end or can't be read is a no, and so is a thread that has ended: who asked
//   reads for himself then, finds where, and tells of errors as ever.
// - It is started when it is first asked, lives as long as the process, and keeps none alive but while it has work. Where it
//   can't be started, or there is one processor, it has no room.
// - The descriptors stay open until it has answered: the caller's promise.

import type { Worker } from "node:worker_threads";
import type { RangePair } from "../comparable-file.ts";

/** One that it works on, and those that it has next without being woken. */
const QUESTIONS_MAX = 3;

/** What runs there: JavaScript as text, since a second file would have to be found, and compiled, apart from all others. */
const PROGRAM = `
const { parentPort } = require("node:worker_threads");
const { readSync } = require("node:fs");
const one = new Uint8Array(256 * 1024);
const other = new Uint8Array(one.length);
const isRead = (descriptor, target, length, offset) => readSync(descriptor, target, 0, length, offset) === length;
function areEqual([first, firstAt, second, secondAt, lengthBytes]) {
  for (let at = 0; at < lengthBytes; at += one.length) {
    const length = Math.min(one.length, lengthBytes - at);
    if (!isRead(first, one, length, firstAt + at) || !isRead(second, other, length, secondAt + at)) return false;
    if (Buffer.compare(one.subarray(0, length), other.subarray(0, length)) !== 0) return false;
  }
  return true;
}
parentPort.on("message", (ranges) => {
  let isYes = false;
  try {
    isYes = ranges.every(areEqual);
  } catch {}
  parentPort.postMessage(isYes);
});
parentPort.postMessage("ready");
`;

export class ComparingThread {
  readonly #start: (program: string) => Promise<Worker | undefined>;
  #state: "none" | "starting" | "ready" | "gone" = "none";
  #worker: Worker | undefined;
  /** In the order of asking, as it answers. */
  readonly #waiting: ((isYes: boolean) => void)[] = [];

  constructor(start: (program: string) => Promise<Worker | undefined> = startWorker) {
    this.#start = start;
  }

  /** Whether all of them are equal in both files. Undefined where it has no room: not asked then. */
  areEqual(ranges: readonly RangePair[]): Promise<boolean> | undefined {
    if (this.#state === "none") void this.#begin();
    if (this.#state !== "ready" || this.#waiting.length >= QUESTIONS_MAX) return undefined;
    this.#worker?.ref();
    this.#worker?.postMessage(ranges.map(placesOf));
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  }

  async #begin(): Promise<void> {
    this.#state = "starting";
    try {
      this.#worker = await this.#start(PROGRAM);
    } catch {
      // No room, then: see above.
    }
    if (this.#worker === undefined) this.#state = "gone";
    this.#worker?.unref();
    this.#worker?.on("message", (message: unknown) => {
      this.#state = "ready";
      this.#waiting.shift()?.(message === true);
      if (this.#waiting.length === 0) this.#worker?.unref();
    });
    for (const end of ["error", "exit"]) {
      this.#worker?.on(end, () => {
        this.#end();
      });
    }
  }

  #end(): void {
    this.#state = "gone";
    for (const resolve of this.#waiting.splice(0)) resolve(false);
  }
}

/** One for all files. */
export const comparingThread = new ComparingThread();

/** A descriptor and an offset, the other's, and how many bytes. Where a file has none, nothing can be read: a no. */
function placesOf({ files: [one, other], offsets, lengthBytes }: RangePair): readonly number[] {
  return [one.open?.() ?? -1, offsets[0], other.open?.() ?? -1, offsets[1], lengthBytes];
}

async function startWorker(program: string): Promise<Worker | undefined> {
  const { availableParallelism } = await import("node:os");
  if (availableParallelism() === 1) return undefined;
  const { Worker } = await import("node:worker_threads");
  return new Worker(program, { eval: true, execArgv: [] });
}

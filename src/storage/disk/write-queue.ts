// Large writes to one file, on the thread pool, one at a time: two at once wait for each other in the kernel, and burn a core
// by that. What has come meanwhile, and follows in the file, goes out in one call: waking a thread takes as long as copying a
// megabyte does.
//
// Invariants
// - A write has ended when all of its bytes are written, or it has failed; its memory is not looked at any more then.
// - A failure is that of one write. Those that wait are made as if they had been called alone.
// - Blocks are reserved when nothing is written to the file: the kernel makes who reserves them wait for that.

import { ImgtxError } from "../../errors/index.ts";
import type { ByteRange } from "../storage.ts";
import { explainError } from "../system-error.ts";
import { CALL_BYTES_MAX, writeInPool } from "./pool-calls.ts";

const PIECES_MAX = 64;
/** Joined with another no call writes more: who copies would have no memory left to read into meanwhile. */
const JOINED_BYTES_MAX = 4 * 1024 * 1024;

interface Write {
  readonly descriptor: number;
  /** What is still to be written, and where. */
  rest: Uint8Array;
  offset: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class WriteQueue {
  readonly #path: string;
  readonly #reserve: (descriptor: number, range: ByteRange) => void;
  readonly #waiting: Write[] = [];
  #isWriting = false;

  /** reserve gives a range its blocks before it is written. It throws nothing. */
  constructor(path: string, reserve: (descriptor: number, range: ByteRange) => void) {
    this.#path = path;
    this.#reserve = reserve;
  }

  /** The descriptor stays open until it has ended. */
  async write(descriptor: number, source: Uint8Array, offset: number): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#waiting.push({ descriptor, rest: source, offset, resolve, reject });
      if (!this.#isWriting) void this.#writeAll();
    });
  }

  async #writeAll(): Promise<void> {
    this.#isWriting = true;
    for (let [first] = this.#waiting; first !== undefined; [first] = this.#waiting) {
      const { descriptor, offset } = first;
      const pieces = this.#joinWaiting(first);
      const lengthBytes = pieces.reduce((sum, { length }) => sum + length, 0);
      try {
        this.#reserve(descriptor, { start: offset, lengthBytes });
        this.#advance(await writeInPool(descriptor, pieces, offset));
      } catch (error) {
        this.#waiting.shift();
        first.reject(explainError(error, "write to", this.#path, offset));
      }
    }
    this.#isWriting = false;
  }

  /** The first, and what follows it in the file. */
  #joinWaiting(first: Write): Uint8Array[] {
    const pieces = [first.rest.subarray(0, CALL_BYTES_MAX)];
    let end = first.offset + first.rest.length;
    for (const { descriptor, rest, offset } of this.#waiting.slice(1, PIECES_MAX)) {
      const isJoined = offset === end && descriptor === first.descriptor;
      if (!isJoined || end + rest.length - first.offset > JOINED_BYTES_MAX) break;
      pieces.push(rest);
      end += rest.length;
    }
    return pieces;
  }

  #advance(writtenBytes: number): void {
    if (writtenBytes === 0) throw takesNoMore(this.#path, this.#waiting[0]?.offset);
    let left = writtenBytes;
    for (let [first] = this.#waiting; first !== undefined; [first] = this.#waiting) {
      const count = Math.min(left, first.rest.length);
      first.rest = first.rest.subarray(count);
      first.offset += count;
      left -= count;
      if (first.rest.length > 0) return;
      this.#waiting.shift();
      first.resolve();
      if (left === 0) return;
    }
  }
}

export function takesNoMore(path: string, offset: number | undefined): ImgtxError {
  return new ImgtxError("E_IO", `Could not write to '${path}': the file takes no more bytes`, {
    image: path,
    ...(offset === undefined ? {} : { offset }),
  });
}

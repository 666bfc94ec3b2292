// The requests of `imgtx img bench`: so many, of one size, one step after the other around the disk, several at once.

import type { Image, WritableImage } from "../../../format/index.ts";
import { guestOffset } from "../../../units/index.ts";
import { failure, wordsOf } from "../grammar/messages.ts";
import { ImgtxError } from "../../../errors/index.ts";

export interface Load {
  readonly isWrite: boolean;
  readonly count: number;
  /** How many are made at once. */
  readonly depth: number;
  readonly start: number;
  readonly sizeBytes: number;
  readonly stepBytes: number;
  /** The byte that is written. */
  readonly pattern: number;
  /** After how many requests; 0: never. */
  readonly flushEvery: number;
  /** Whether a flush waits until all before it are done, and holds up those after it. */
  readonly drains: boolean;
  /** Whether flushes are left out. */
  readonly isUnsafe: boolean;
  readonly isWriteThrough: boolean;
}

export interface Target {
  readonly image: Image;
  /** The same, where it is open for writing. */
  readonly writable?: WritableImage;
  close(): Promise<void>;
}

const FLUSH_PURPOSE = "bench";

/** E_FAILED, in qemu-img's words, for a request beyond the end of the disk, and one that fails. */
export async function sendAll(load: Load, target: Target, signal: AbortSignal): Promise<void> {
  const { count, flushEvery, drains, isUnsafe } = load;
  const requests = new Requests(load, target, signal);
  const flushes: Promise<void>[] = [];
  const flush = async (): Promise<void> => {
    if (!isUnsafe) await target.writable?.flush(FLUSH_PURPOSE);
  };
  try {
    for (let left = count; left > 0; ) {
      const some = flushEvery === 0 ? left : Math.min(left, flushEvery);
      await requests.send(some);
      left -= some;
      if (some !== flushEvery) continue;
      if (drains) await flush();
      else flushes.push(flush());
    }
    await Promise.all(flushes);
  } catch (error) {
    await Promise.allSettled(flushes);
    if (!(error instanceof ImgtxError) || error.code !== "E_IO") throw error;
    throw failure(`Failed request: ${wordsOf(error, [])}`, error);
  }
}

class Requests {
  readonly #load: Load;
  readonly #target: Target;
  readonly #signal: AbortSignal;
  readonly #buffers: Uint8Array[] = [];
  #next: number;

  constructor(load: Load, target: Target, signal: AbortSignal) {
    this.#load = load;
    this.#target = target;
    this.#signal = signal;
    this.#next = load.start;
  }

  /** The next ones, as many at once as may be. All have ended when it returns or throws. */
  async send(count: number): Promise<void> {
    const { depth } = this.#load;
    let left = count;
    const work = async (worker: number): Promise<void> => {
      while (left > 0) {
        left -= 1;
        this.#signal.throwIfAborted();
        await this.#one(worker).catch((error: unknown) => {
          left = 0;
          throw error;
        });
      }
    };
    const workers = Array.from({ length: Math.min(depth, count) }, (_, worker) => work(worker));
    const ended = await Promise.allSettled(workers);
    for (const each of ended) if (each.status === "rejected") throw each.reason;
  }

  async #one(worker: number): Promise<void> {
    const { sizeBytes, stepBytes, pattern, isWriteThrough } = this.#load;
    const { image, writable } = this.#target;
    const at = this.#next;
    if (at + sizeBytes > image.virtualSizeBytes) throw failure("Failed request: Input/output error");
    this.#next = (at + stepBytes) % image.virtualSizeBytes;
    const buffer = (this.#buffers[worker] ??= new Uint8Array(sizeBytes).fill(pattern));
    if (writable === undefined) return await image.read(buffer, guestOffset(at));
    await writable.write(buffer, guestOffset(at));
    if (isWriteThrough) await writable.flush(FLUSH_PURPOSE);
  }
}

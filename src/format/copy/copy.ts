// Copies the guest data of one or several images, one after the other, into one image.
//
// Invariants
// - What is known to read as zeros is not read; what reads as zeros is not written where the target reads so
//   already, and else is written as zeros, which the target may give back to the file.
// - Writes are called in guest order unless the caller wants them as they come, so that a format that
//   allocates lays its clusters out in that order.
// - Several requests are under way at once. Memory is bounded by their number.
// - Nothing is flushed here. After an error no request is under way any more.

import { ImgtxError, settleAll } from "../../errors/index.ts";
import { earliest, endOf, type GuestOffset, offsetBy } from "../../units/index.ts";
import { BufferPool } from "../read/buffer-pool.ts";
import type { Extent, Image, WritableImage } from "../image.ts";
import {
  CHUNK_BYTES,
  inSource,
  layOut,
  listSteps,
  type Part,
  type Step,
  type StepOptions,
} from "./copy-steps.ts";
import { copiesInKernel, copyInKernel, takeOver } from "./copy-in-kernel.ts";
import { trackIn } from "../read/limited.ts";
import { readIn } from "../read/extent-cursor.ts";
import { Pipeline } from "../read/pipeline.ts";
import { readSalvaging } from "../read/salvage.ts";
import { isZero } from "../read/zero-blocks.ts";
import { type DataRun, findDataRuns } from "../read/data-runs.ts";

export interface CopyOptions extends StepOptions {
  /** Where nothing is written, the target reads as zeros. */
  readonly targetIsZero: boolean;
  /** Chunks under way at once, as far as that helps. */
  readonly atOnce: number;
  readonly inOrder: boolean;
  /** Asked between steps. Where it is due, all before the offset is copied when it is called. */
  readonly checkpoint?: Checkpoint | undefined;
  /** Called with the bytes that are about to be written; resolves when they may be. */
  readonly throttle?: ((lengthBytes: number) => Promise<void>) | undefined;
  readonly onProgress?: ((doneBytes: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

interface Checkpoint {
  isDue(): boolean;
  reach(offset: GuestOffset, target: WritableImage): Promise<void>;
}

/** More in flight leaves the processor's caches. */
const CHUNKS_AT_ONCE = 6;
/** Of compressed clusters each has a state, and there are four threads. */
const COMPRESSED_AT_ONCE = 4;

export async function copyImages(
  sources: readonly Image[],
  target: WritableImage,
  options: CopyOptions,
): Promise<void> {
  const parts = layOut(sources);
  const copier = new Copier(parts, target, options);
  const most = options.compressed ? COMPRESSED_AT_ONCE : CHUNKS_AT_ONCE;
  const pipeline = new Pipeline<never>(Math.min(options.atOnce, most));
  try {
    for await (const step of listSteps(parts, options)) {
      options.signal?.throwIfAborted();
      if (pipeline.isSettled) break;
      if (options.checkpoint?.isDue() === true) {
        await pipeline.drain();
        if (pipeline.isSettled) break;
        await options.checkpoint.reach(step.start, target);
      }
      const isThere = step.kind === "zero" && options.targetIsZero && options.sparseBytes > 0;
      if (step.kind !== "below" && !isThere) {
        await options.throttle?.(step.lengthBytes);
        options.signal?.throwIfAborted();
        await pipeline.add(() => copier.copy(step));
      }
    }
  } finally {
    // Throws what a job threw, which comes before an error of the walk.
    await pipeline.finish();
  }
}

/** Guest bytes that copyImages would call data: what progress counts. */
export async function countBytesToCopy(sources: readonly Image[], options: CopyOptions): Promise<number> {
  let total = 0;
  for await (const { kind, lengthBytes } of listSteps(layOut(sources), options)) {
    options.signal?.throwIfAborted();
    if (countsAsProgress(kind, options)) total += lengthBytes;
  }
  return total;
}

/** As far as it lies in one place. */
function forget({ part, extent, start, lengthBytes }: Step): void {
  const { kind, hostOffset, depth } = extent;
  if (kind !== "data" || hostOffset === undefined) return;
  const skipped = inSource(part, start) - extent.start;
  const range = {
    start: offsetBy(hostOffset, skipped),
    lengthBytes: Math.min(lengthBytes, extent.lengthBytes - skipped),
  };
  part.image.layers[depth]?.dataFile.forget?.(range);
}

function countsAsProgress(kind: Step["kind"], { sparseBytes }: CopyOptions): boolean {
  return kind === "data" || (kind === "zero" && sparseBytes === 0);
}

class Copier {
  readonly #parts: readonly Part[];
  readonly #target: WritableImage;
  readonly #options: CopyOptions;
  readonly #buffers: BufferPool;
  #inKernel: boolean;
  /** Compressed clusters that are being written. */
  readonly #writing = new Set<Promise<void>>();
  #turn: Promise<void> = Promise.resolve();
  #doneBytes = 0;

  constructor(parts: readonly Part[], target: WritableImage, options: CopyOptions) {
    this.#parts = parts;
    this.#target = target;
    this.#options = options;
    this.#inKernel = options.inKernel && copiesInKernel(target);
    this.#buffers = new BufferPool(CHUNK_BYTES);
  }

  async copy(step: Step): Promise<undefined> {
    const turn = this.#takeTurn();
    try {
      await this.#copyInTurn(step, turn.before, turn.pass);
    } finally {
      turn.pass();
    }
    if (this.#options.goes === true && step.kind === "data") forget(step);
    if (countsAsProgress(step.kind, this.#options)) {
      this.#doneBytes += step.lengthBytes;
      this.#options.onProgress?.(this.#doneBytes);
    }
  }

  async #copyInTurn(step: Step, before: Promise<void>, pass: () => void): Promise<void> {
    if (step.kind === "data" && this.#inKernel && (await this.#copyInKernel(step))) return;
    if (step.kind === "data" && this.#options.shares === true) {
      await before;
      if (await takeOver({ ...step, source: step.part.image, shift: step.part.start }, this.#target)) return;
    }
    if (step.kind === "zero" && this.#options.sparseBytes > 0) {
      await before;
      const written = this.#target.writeZeroes(step, true);
      pass();
      await written;
      return;
    }
    await this.#buffers.lend(async (buffer) => {
      const bytes = buffer.subarray(0, step.lengthBytes);
      if (step.kind === "data") await this.#read(bytes, step);
      else bytes.fill(0);
      if (!this.#options.compressed) {
        const runs = this.#findRuns(bytes, step.start);
        await before;
        const written = this.#write(bytes, step.start, runs);
        pass();
        await settleAll(written);
        return;
      }
      await before;
      const written = await this.#writeCompressed(bytes, step.start);
      pass();
      await settleAll(written);
    });
  }

  /** Before it is the chunk's turn: others are written meanwhile. */
  #findRuns(bytes: Uint8Array, start: GuestOffset): readonly DataRun[] {
    const { sparseBytes, clusterBytes = 1 } = this.#options;
    if (sparseBytes === 0) return [{ start: 0, end: bytes.length }];
    return findDataRuns(bytes, start, { blockBytes: sparseBytes, clusterBytes });
  }

  /** Calls every write of the chunk, and waits for none. */
  #write(bytes: Uint8Array, start: GuestOffset, runs: readonly DataRun[]): Promise<void>[] {
    const { targetIsZero } = this.#options;
    const written: Promise<void>[] = [];
    let at = 0;
    const zeroUntil = (end: number): void => {
      if (end > at && !targetIsZero) {
        written.push(this.#target.writeZeroes({ start: offsetBy(start, at), lengthBytes: end - at }, true));
      }
    };
    for (const run of runs) {
      zeroUntil(run.start);
      written.push(this.#target.write(bytes.subarray(run.start, run.end), offsetBy(start, run.start)));
      at = run.end;
    }
    zeroUntil(bytes.length);
    return written;
  }

  /** Calls every write of the chunk, as soon as there is room for it, and waits for no more. */
  async #writeCompressed(bytes: Uint8Array, start: GuestOffset): Promise<Promise<void>[]> {
    const { clusterBytes = bytes.length, sparseBytes, targetIsZero } = this.#options;
    const written: Promise<void>[] = [];
    for (let at = 0; at < bytes.length; at += clusterBytes) {
      const cluster = bytes.subarray(at, at + clusterBytes);
      if (sparseBytes === 0 || !isZero(cluster)) {
        while (this.#writing.size >= COMPRESSED_AT_ONCE) await Promise.race(this.#writing);
        written.push(trackIn(this.#writing, this.#target.writeCompressed(cluster, offsetBy(start, at))));
      } else if (!targetIsZero) {
        const range = { start: offsetBy(start, at), lengthBytes: cluster.length };
        // With a handler from the start: it may fail while this waits for room.
        written.push(trackIn(this.#writing, this.#target.writeZeroes(range, true)));
      }
    }
    return written;
  }

  async #read(bytes: Uint8Array, { part, extent, start, ends }: Step): Promise<void> {
    try {
      if (ends.length === 1 && endOf(extent) >= inSource(part, offsetBy(start, bytes.length)))
        await this.#readPart(part, bytes, start, extent);
      else await this.#readRange(bytes, start);
    } catch (error) {
      // Which of the extents it is, reading them one by one tells: messages name the place that qemu-img names.
      const end = offsetBy(start, bytes.length);
      let at = start;
      for (const extentEnd of ends.length > 1 ? ends : []) {
        const stop = earliest(extentEnd, end);
        if (at < stop) await this.#readRange(bytes.subarray(at - start, stop - start), at);
        if (stop > at) at = stop;
      }
      throw error;
    }
  }

  /** A chunk may reach over the end of one source into the next. */
  async #readRange(bytes: Uint8Array, start: GuestOffset): Promise<void> {
    for (const part of this.#parts) {
      const from = start > part.start ? start : part.start;
      const to = earliest(offsetBy(start, bytes.length), part.end);
      if (from >= to) continue;
      await this.#readPart(part, bytes.subarray(from - start, to - start), from);
    }
  }

  /** In one source; of an extent, where all of it lies in that. */
  async #readPart(part: Part, piece: Uint8Array, targetOffset: GuestOffset, extent?: Extent): Promise<void> {
    const { image } = part;
    const { salvage } = this.#options;
    const offset = inSource(part, targetOffset);
    if (salvage !== undefined) {
      await readSalvaging(image, piece, offset, salvage);
      return;
    }
    try {
      await readIn(extent, image, piece, offset);
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      const message = `error while reading at byte ${targetOffset}: ${error.message}`;
      throw error.reworded(message, { doing: "copy" });
    }
  }

  async #copyInKernel({ part, start, lengthBytes, extent }: Step): Promise<boolean> {
    const done = await copyInKernel(
      part.image,
      extent,
      inSource(part, start),
      this.#target,
      start,
      lengthBytes,
    );
    this.#inKernel = done; // As qemu-img does: what could not be copied so once is not tried again.
    return done;
  }

  #takeTurn(): { before: Promise<void>; pass: () => void } {
    // Plain writes keep their order in any case: they are as fast so.
    if (this.#options.compressed && !this.#options.inOrder)
      return { before: Promise.resolve(), pass: () => undefined };
    const before = this.#turn;
    let pass = (): void => undefined;
    this.#turn = new Promise((resolve) => {
      pass = resolve;
    });
    return { before, pass };
  }
}

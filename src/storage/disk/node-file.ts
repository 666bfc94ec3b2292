// A regular file of this machine, by its descriptor.
//
// Invariants
// - Up to 64 KiB are read and written on the main thread, where a call takes microseconds and the order of
//   calls is the order in the program; more goes through Node's thread pool, as every flush does, but for what
//   can be read without waiting while the pool is busy, or by who compares. Large writes follow each other (write-queue.ts).
// - A descriptor is closed only when no call on the thread pool uses it any more: its number may be
//   somebody else's a moment later.
// - A flush that failed has lost its writes, whatever a second one says: every further flush of this file fails.
// - A read can be announced (beginRead): small ones are synchronous, and a cold disk would serve one at a time.

import { closeSync, fchmodSync, fchownSync, fstatSync, ftruncateSync } from "node:fs";
import { ImgtxError } from "../../errors/index.ts";
import { BlockReserver } from "./block-reserver.ts";
import { CANT } from "./cant.ts";
import type { RangePair } from "../comparable-file.ts";
import { comparingThread } from "./comparing-thread.ts";
import { copyBetween, copyThroughMemory } from "./copy-range.ts";
import { FileLease } from "../locks/file-lease.ts";
import { describeStat } from "./file-stat.ts";
import { aroundStat, type NativeAccess } from "./native-access.ts";
import { UNKNOWN_PLACE } from "../native/place-calls.ts";
import { CALL_BYTES_MAX, CallsUnderWay, fsyncInPool, isPoolBusy, readInPool } from "./pool-calls.ts";
import type {
  AttributeName,
  ByteRange,
  FileAccess,
  FileStat,
  LeaseAnswer,
  LeaseBeside,
  LockKind,
  StorageFile,
} from "../storage.ts";
import { readNow, SHORT_BYTES_MAX, writeNow } from "./short-transfers.ts";
import type { SystemCalls } from "../native/system-calls.ts";
import { doneUnless, errnoName, explainError, explainLockError } from "../system-error.ts";
import { WriteQueue } from "./write-queue.ts";
import { fillHoles, writeZeros } from "./zero-ranges.ts";

const KERNEL_COPY_BYTES = 16 * 1024 * 1024;

export class NodeFile implements StorageFile {
  readonly path: string;
  readonly #native: NativeAccess;
  readonly #inPool = new CallsUnderWay();
  readonly #writes: WriteQueue;
  readonly #lease = new FileLease();
  #descriptor: number | undefined;
  #failedFlush: unknown;
  #place = UNKNOWN_PLACE;

  constructor(path: string, descriptor: number, native: NativeAccess) {
    this.path = path;
    this.#descriptor = descriptor;
    this.#native = native;
    const blocks = new BlockReserver();
    this.#writes = new WriteQueue(path, (open, range) => {
      blocks.reserve(native.optional(), open, range);
    });
  }

  async stat(): Promise<FileStat> {
    try {
      const descriptor = this.open();
      const { nowMs, findPlace, bootId } = aroundStat(descriptor, this.#native);
      return describeStat(this.path, fstatSync(descriptor, { bigint: true }), {
        nowMs,
        // Where an open file lies does not change.
        findPlace: (device, inode) => {
          if (this.#place === UNKNOWN_PLACE) this.#place = findPlace(device, inode);
          return this.#place;
        },
        bootId,
      });
    } catch (error) {
      throw explainError(error, "stat", this.path);
    }
  }

  async read(target: Uint8Array, offset: number): Promise<number> {
    let done = 0;
    while (target.length - done > SHORT_BYTES_MAX) {
      const count = await this.#readLarge(target.subarray(done, done + CALL_BYTES_MAX), offset + done);
      if (count === 0) return done;
      done += count;
    }
    const rest = done === 0 ? target : target.subarray(done);
    return done + readNow(this.path, this.open(), rest, offset + done);
  }

  async #readLarge(target: Uint8Array, offset: number): Promise<number> {
    try {
      return (
        this.#readCached(target, offset) || (await this.#inPool.keep(readInPool(this.open(), target, offset)))
      );
    } catch (error) {
      throw explainError(error, "read from", this.path, offset);
    }
  }

  /** While the pool is at work for every core, what is in memory is read here: waiting would take longer. */
  #readCached(target: Uint8Array, offset: number): number {
    return isPoolBusy() ? this.readNow(target, offset) : 0;
  }

  readNow(target: Uint8Array, offset: number): number {
    return this.#native.optional()?.readCached(this.open(), target, offset) ?? 0;
  }

  areEqualElsewhere(ranges: readonly RangePair[]): Promise<boolean> | undefined {
    const files = new Set(ranges.flatMap(({ files: pair }) => pair));
    const own = [...files].filter((file) => #inPool in file);
    const answer = own.length === files.size ? comparingThread.areEqual(ranges) : undefined;
    if (answer) for (const file of own) void file.#inPool.keep(answer);
    return answer;
  }

  beginRead(range: ByteRange): void {
    this.#explained("begin to read", range.start, () => {
      this.#native.optional()?.adviseOn(this.open(), range, "soon");
    });
  }

  forget(range: ByteRange): void {
    this.#explained("forget", range.start, () => {
      this.#native.optional()?.adviseOn(this.open(), range, "no more");
    });
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    if (source.length > SHORT_BYTES_MAX) {
      await this.#inPool.keep(this.#writes.write(this.open(), source, offset));
      return;
    }
    writeNow(this.path, this.open(), source, offset);
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.#explained("resize", undefined, () => {
      ftruncateSync(this.open(), sizeBytes);
    });
  }

  async setAccess({ mode, ownerId, groupId }: FileAccess): Promise<void> {
    this.#explained("set the owner and the permissions of", undefined, () => {
      // The owner first: changing it clears bits of the mode.
      fchownSync(this.open(), ownerId, groupId);
      fchmodSync(this.open(), mode);
    });
  }

  async readAttribute(name: AttributeName): Promise<Uint8Array | undefined> {
    const native = this.#native.optional();
    return this.#explained("read a right of", undefined, () => native?.getAttribute(this.open(), name));
  }

  async setAttribute(name: AttributeName, value: Uint8Array | undefined): Promise<boolean> {
    return this.#unlessItCant(CANT.setAttribute, (native, descriptor) =>
      native.setAttribute(descriptor, name, value),
    );
  }

  async setModified(modifiedNs: string): Promise<boolean> {
    const native = this.#native.required(`Could not date '${this.path}'`, this.path);
    return this.#explained("date", undefined, () => native.setModified(this.open(), BigInt(modifiedNs)));
  }

  beginFlush(): void {
    this.#explained("begin to flush", undefined, () => this.#native.optional()?.beginWriteback(this.open()));
  }

  async flush(): Promise<void> {
    const descriptor = this.open();
    try {
      if (this.#failedFlush !== undefined) throw this.#failedFlush;
      await this.#inPool.keep(fsyncInPool(descriptor));
    } catch (error) {
      this.#failedFlush = error;
      throw explainError(error, "flush", this.path);
    }
  }

  async seekData(offset: number): Promise<number | undefined> {
    return this.#seek(offset, "data");
  }

  async seekHole(offset: number): Promise<number> {
    return this.#seek(offset, "hole") ?? offset;
  }

  #seek(offset: number, target: "data" | "hole"): number | undefined {
    try {
      const native = this.#native.optional();
      if (native !== undefined) return native.seek(this.open(), offset, target);
      const { size } = fstatSync(this.open());
      if (target === "hole") return Math.max(offset, size);
      return offset < size ? offset : undefined;
    } catch (error) {
      throw explainError(error, "seek in", this.path, offset);
    }
  }

  async punchHole(range: ByteRange): Promise<void> {
    if (range.lengthBytes === 0) return;
    const native = this.#native.optional();
    const punched = this.#explained("punch a hole into", range.start, () =>
      doneUnless(CANT.punch, () => native?.punchHole(this.open(), range) ?? native !== undefined),
    );
    if (!punched) await writeZeros(this, range);
  }

  async allocate(range: ByteRange): Promise<void> {
    if (range.lengthBytes === 0) return;
    const native = this.#native.optional();
    if (native !== undefined) {
      try {
        await this.#inPool.keep(native.allocate(this.open(), range));
        return;
      } catch (error) {
        if (!CANT.allocate.has(errnoName(error) ?? "")) {
          throw explainError(error, "allocate space for", this.path, range.start);
        }
      }
    }
    await this.#growTo(range.start + range.lengthBytes);
    await fillHoles(this, range);
  }

  disableCopyOnWrite(): boolean {
    return this.#unlessItCant(CANT.advise, (native, descriptor) => native.disableCopyOnWrite(descriptor));
  }

  setExtentSizeHint(sizeBytes: number): boolean {
    return this.#unlessItCant(CANT.advise, (native, open) => native.setExtentSizeHint(open, sizeBytes));
  }

  extentSizeHint(): number {
    let sizeBytes = 0;
    this.#unlessItCant(CANT.advise, (native, open) => (sizeBytes = native.extentSizeHint(open)));
    return sizeBytes;
  }

  async copyRangeFrom(
    source: StorageFile,
    sourceOffset: number,
    targetOffset: number,
    lengthBytes: number,
  ): Promise<void> {
    const range = { source, sourceOffset, target: this, targetOffset, lengthBytes };
    await copyBetween(range, {
      copyData: async (from, to, length) => {
        const copied = await this.#copyInKernel(source, from, to, length);
        if (copied < length) {
          await copyThroughMemory(source, from + copied, this, to + copied, length - copied);
        }
      },
      growTo: async (sizeBytes) => {
        await this.#growTo(sizeBytes);
      },
    });
  }

  async cloneFrom(source: StorageFile): Promise<boolean> {
    const native = this.#native.optional();
    if (native === undefined || !(#inPool in source)) return false;
    const call = native.clone(source.open(), this.open());
    try {
      await Promise.all([this.#inPool.keep(call), source.#inPool.keep(call)]);
      return true;
    } catch (error) {
      if (CANT.clone.has(errnoName(error) ?? "")) return false;
      throw explainError(error, `clone '${source.path}' to`, this.path);
    }
  }

  lock(range: ByteRange, kind: LockKind): boolean {
    try {
      return this.#lockCalls().lock(this.open(), range, kind);
    } catch (error) {
      throw explainLockError(error, this.path, range.start);
    }
  }

  unlock(range: ByteRange): void {
    // Closing has dropped the lock already.
    if (this.#descriptor === undefined) return;
    try {
      this.#lockCalls().unlock(this.#descriptor, range);
    } catch (error) {
      throw explainLockError(error, this.path, range.start);
    }
  }

  wouldConflict(range: ByteRange, kind: LockKind): boolean {
    try {
      return this.#lockCalls().wouldConflict(this.open(), range, kind);
    } catch (error) {
      throw explainLockError(error, this.path, range.start);
    }
  }

  takeLease(beside?: LeaseBeside): LeaseAnswer {
    const native = this.#native.optional();
    return this.#explained("take a lease on", undefined, () => this.#lease.take(native, this.open(), beside));
  }

  isLeaseWanted(): boolean {
    return this.#explained("ask for the lease on", undefined, () => this.#lease.isWanted());
  }

  dropLease(): void {
    this.#explained("give back the lease on", undefined, () => {
      this.#lease.drop();
    });
  }

  async close(): Promise<void> {
    const descriptor = this.#descriptor;
    if (descriptor === undefined) return;
    this.#descriptor = undefined;
    this.#lease.drop();
    await this.#inPool.idle();
    try {
      closeSync(descriptor);
    } catch (error) {
      throw explainError(error, "close", this.path);
    }
  }

  open(): number {
    if (this.#descriptor !== undefined) return this.#descriptor;
    throw new ImgtxError("E_INTERNAL", `'${this.path}' was used after it was closed`, { image: this.path });
  }

  /** Copies what the kernel is able to copy. Returns the bytes copied. */
  async #copyInKernel(
    source: StorageFile,
    sourceOffset: number,
    targetOffset: number,
    lengthBytes: number,
  ): Promise<number> {
    const native = this.#native.optional();
    if (native === undefined || !(#inPool in source)) return 0;
    let done = 0;
    while (done < lengthBytes) {
      const length = Math.min(lengthBytes - done, KERNEL_COPY_BYTES);
      const call = native.copyFileRange(
        source.open(),
        sourceOffset + done,
        this.open(),
        targetOffset + done,
        length,
      );
      try {
        const [count] = await Promise.all([this.#inPool.keep(call), source.#inPool.keep(call)]);
        if (count === 0) break;
        done += count;
      } catch (error) {
        if (CANT.copy.has(errnoName(error) ?? "")) break;
        throw explainError(error, `copy '${source.path}' to`, this.path, targetOffset + done);
      }
    }
    return done;
  }

  /** Never shrinks: the size is looked at while no write on the pool can change it. */
  async #growTo(sizeBytes: number): Promise<void> {
    await this.#inPool.idle();
    this.#explained("resize", undefined, () => {
      if (fstatSync(this.open()).size < sizeBytes) ftruncateSync(this.open(), sizeBytes);
    });
  }

  #lockCalls(): SystemCalls {
    return this.#native.optional() ?? this.#native.required(`Could not lock '${this.path}'`, this.path);
  }

  #unlessItCant(
    codes: ReadonlySet<string>,
    call: (native: SystemCalls, descriptor: number) => void,
  ): boolean {
    const native = this.#native.optional();
    if (native === undefined) return false;
    return this.#explained("set attributes of", undefined, () =>
      doneUnless(codes, () => {
        call(native, this.open());
        return true;
      }),
    );
  }

  #explained<T>(doing: string, offset: number | undefined, call: () => T): T {
    try {
      return call();
    } catch (error) {
      throw explainError(error, doing, this.path, offset);
    }
  }
}

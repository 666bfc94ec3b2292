// A file of a staged storage whose changes go into a redo log: what everybody else sees of it stays as it is.
//
// Invariants
// - The file itself is open for reading, whatever was asked for.
// - Locks and leases are taken on the file itself. What has no place in a log (owners, attributes, times) is refused
//   as a bug of the caller's.
// - Flushes do nothing: the whole log is made durable at once, by seal.

import { ImgtxError } from "../../errors/index.ts";
import type {
  ByteRange,
  FileStat,
  LeaseAnswer,
  LeaseBeside,
  LockKind,
  StorageFile,
} from "../../storage/index.ts";
import type { StagedImage } from "./staged-image.ts";

const COPY_BYTES = 256 * 1024;

export class StagedFile implements StorageFile {
  readonly path: string;
  readonly #base: StorageFile;
  readonly #image: StagedImage;
  readonly #isWritable: boolean;
  #isOpen = true;

  /** base: open for reading, and owned by this file from now on. */
  constructor(base: StorageFile, image: StagedImage, access: "read" | "write") {
    this.path = base.path;
    this.#base = base;
    this.#image = image;
    this.#isWritable = access === "write";
  }

  get onDisk(): StorageFile {
    return this.#base.onDisk ?? this.#base;
  }

  async stat(): Promise<FileStat> {
    return { ...(await this.#base.stat()), sizeBytes: this.#opened("read").sizeBytes };
  }

  async read(target: Uint8Array, offset: number): Promise<number> {
    return await this.#opened("read").read(this.#base, target, offset);
  }

  beginRead(range: ByteRange): void {
    this.#base.beginRead?.(range);
  }

  forget(range: ByteRange): void {
    this.#base.forget?.(range);
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    await this.#opened("write").write(this.#base, source, offset);
  }

  async truncate(sizeBytes: number): Promise<void> {
    await this.#opened("write").truncate(this.#base, sizeBytes);
  }

  async punchHole(range: ByteRange): Promise<void> {
    await this.#opened("write").punchHole(this.#base, range);
  }

  /** Blocks are given when the log is applied. */
  async allocate({ start, lengthBytes }: ByteRange): Promise<void> {
    if (lengthBytes > 0) await this.#opened("write").growTo(this.#base, start + lengthBytes);
  }

  async seekData(offset: number): Promise<number | undefined> {
    return await this.#opened("read").seekData(this.#base, offset);
  }

  async seekHole(offset: number): Promise<number> {
    return await this.#opened("read").seekHole(this.#base, offset);
  }

  beginFlush(): void {
    this.#opened("read");
  }

  async flush(): Promise<void> {
    this.#opened("read");
  }

  async copyRangeFrom(
    source: StorageFile,
    sourceOffset: number,
    targetOffset: number,
    lengthBytes: number,
  ): Promise<void> {
    const { sizeBytes } = await source.stat();
    if (sizeBytes < sourceOffset + lengthBytes) {
      throw new ImgtxError(
        "E_IO",
        `'${source.path}' ends at ${sizeBytes}, and was to be copied beyond that`,
        {
          image: source.path,
          offset: sizeBytes,
        },
      );
    }
    for (let done = 0; done < lengthBytes; ) {
      const piece = new Uint8Array(Math.min(COPY_BYTES, lengthBytes - done));
      await source.read(piece, sourceOffset + done);
      await this.write(piece, targetOffset + done);
      done += piece.length;
    }
  }

  async cloneFrom(): Promise<boolean> {
    return false;
  }

  disableCopyOnWrite(): boolean {
    return false;
  }

  setExtentSizeHint(): boolean {
    return false;
  }

  extentSizeHint(): number {
    return 0;
  }

  async setAccess(): Promise<void> {
    throw this.#notStaged("its owner and its permissions");
  }

  async readAttribute(...request: Parameters<StorageFile["readAttribute"]>): Promise<Uint8Array | undefined> {
    return await this.#base.readAttribute(...request);
  }

  async setAttribute(): Promise<boolean> {
    throw this.#notStaged("its attributes");
  }

  async setModified(): Promise<boolean> {
    throw this.#notStaged("its time of modification");
  }

  lock(range: ByteRange, kind: LockKind): boolean {
    return this.#base.lock(range, kind);
  }

  unlock(range: ByteRange): void {
    this.#base.unlock(range);
  }

  wouldConflict(range: ByteRange, kind: LockKind): boolean {
    return this.#base.wouldConflict(range, kind);
  }

  takeLease(beside?: LeaseBeside): LeaseAnswer {
    return this.#base.takeLease(beside);
  }

  isLeaseWanted(): boolean {
    return this.#base.isLeaseWanted();
  }

  dropLease(): void {
    this.#base.dropLease();
  }

  async close(): Promise<void> {
    this.#isOpen = false;
    // A write that nobody waits for any more reads from the file still.
    await this.#image.queue.run(() => this.#base.close());
  }

  #opened(access: "read" | "write"): StagedImage {
    if (!this.#isOpen) {
      throw new ImgtxError("E_INTERNAL", "the file is used after it was closed", { image: this.path });
    }
    if (access === "write" && !this.#isWritable) {
      throw new ImgtxError("E_INTERNAL", "the file was opened for reading", { image: this.path });
    }
    return this.#image;
  }

  #notStaged(what: string): ImgtxError {
    return new ImgtxError("E_INTERNAL", `${what} can't be changed before the commit mark`, {
      image: this.path,
    });
  }
}

// An open file of a simulated process.

import type {
  ByteRange,
  FileStat,
  LeaseAnswer,
  LeaseBeside,
  LockKind,
  StorageFile,
} from "../../../src/storage/index.ts";
import { copyBetween, copyThroughMemory } from "../../../src/storage/disk/copy-range.ts";
import type { Content } from "./content.ts";
import type { Change } from "./disk-log.ts";
import type { SimulatedMachine } from "./simulated-disk.ts";
import { problem, statOfInode } from "./simulated-stat.ts";

/** What an open file needs of the process that opened it. */
export interface FileOwner {
  readonly machine: SimulatedMachine;
  turn(): Promise<void>;
}

export class SimulatedFile implements StorageFile {
  readonly path: string;
  readonly process: FileOwner;
  readonly #machine: SimulatedMachine;
  readonly #inode: number;
  readonly #access: "read" | "write";
  #open = true;

  constructor(process: FileOwner, inode: number, path: string, access: "read" | "write") {
    this.process = process;
    this.path = path;
    this.#machine = process.machine;
    this.#inode = inode;
    this.#access = access;
    this.#machine.leases.opened(this, inode, access);
  }

  async stat(): Promise<FileStat> {
    await this.#turn();
    return statOfInode(this.#machine.tree.get(this.#inode), this.#machine);
  }

  async read(target: Uint8Array, offset: number): Promise<number> {
    await this.#turn();
    return this.content().read(target, offset);
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    await this.#turn();
    // Taken only now, as the kernel does: who changes the buffer before the call is done writes that. A Buffer's
    // own slice would share its bytes with whoever fills it next.
    this.#write(Uint8Array.from(source), offset);
  }

  async truncate(sizeBytes: number): Promise<void> {
    await this.#turn();
    this.#change((path, atNs) => ({ kind: "truncate", path, atNs, inode: this.#inode, sizeBytes }));
  }

  async setModified(modifiedNs: string): Promise<boolean> {
    await this.#turn();
    this.#change((path) => ({ kind: "time", path, atNs: BigInt(modifiedNs), inode: this.#inode }));
    return true;
  }

  /** A hint that promises nothing: the simulated disk keeps all writes pending until the flush. */
  beginFlush(): void {
    this.#checkUsable();
  }

  async flush(purpose: string): Promise<void> {
    await this.#turn();
    this.#machine.perform(this.process, (atNs) => ({
      kind: "flush",
      inode: this.#inode,
      of: "file",
      path: this.path,
      purpose,
      atNs,
      outcome: "persists",
    }));
  }

  async seekData(offset: number): Promise<number | undefined> {
    await this.#turn();
    return this.content().seekData(offset);
  }

  async seekHole(offset: number): Promise<number> {
    await this.#turn();
    return this.content().seekHole(offset);
  }

  async punchHole({ start, lengthBytes }: ByteRange): Promise<void> {
    await this.#turn();
    // By name: a range may be an extent, which has a kind of its own.
    this.#change((path, atNs) => ({ kind: "punch", path, atNs, inode: this.#inode, start, lengthBytes }));
  }

  /** Not simulated: no promise rests on owners and permissions. */
  async readAttribute(): Promise<undefined> {
    return undefined;
  }

  async setAttribute(): Promise<boolean> {
    return false;
  }

  async setAccess(): Promise<void> {
    await this.#turn();
    this.#checkUsable();
  }

  /** Blocks are not counted here: only the size changes. */
  async allocate(range: ByteRange): Promise<void> {
    await this.#turn();
    const end = range.start + range.lengthBytes;
    if (this.content().sizeBytes < end) await this.truncate(end);
  }

  disableCopyOnWrite(): boolean {
    this.#checkUsable();
    return false;
  }

  setExtentSizeHint(): boolean {
    this.#checkUsable();
    return false;
  }

  extentSizeHint(): number {
    this.#checkUsable();
    return 0;
  }

  async copyRangeFrom(
    source: StorageFile,
    sourceOffset: number,
    targetOffset: number,
    lengthBytes: number,
  ): Promise<void> {
    await this.#turn();
    await copyBetween(
      { source, sourceOffset, target: this, targetOffset, lengthBytes },
      {
        copyData: (from, to, length) => copyThroughMemory(source, from, this, to, length),
        growTo: async (sizeBytes) => {
          if (this.content().sizeBytes < sizeBytes) await this.truncate(sizeBytes);
        },
      },
    );
  }

  async cloneFrom(): Promise<boolean> {
    await this.#turn();
    return false;
  }

  lock(range: ByteRange, kind: LockKind): boolean {
    this.#checkUsable();
    if (kind === "exclusive") this.#checkWritable();
    return this.#machine.lock(this.#inode, this, range, kind);
  }

  unlock(range: ByteRange): void {
    this.#machine.checkAlive(this.process);
    this.#machine.unlock(this.#inode, this, range);
  }

  wouldConflict(range: ByteRange, kind: LockKind): boolean {
    this.#checkUsable();
    return this.#machine.wouldConflict(this.#inode, this, range, kind);
  }

  takeLease(beside?: LeaseBeside): LeaseAnswer {
    this.#checkUsable();
    return this.#machine.leases.take(this, this.#inode, beside);
  }

  isLeaseWanted(): boolean {
    this.#checkUsable();
    return this.#machine.leases.isWanted(this);
  }

  dropLease(): void {
    this.#machine.checkAlive(this.process);
    this.#machine.leases.drop(this);
  }

  async close(): Promise<void> {
    await this.process.turn();
    this.#open = false;
    this.#machine.unlockAll(this.#inode, this);
    this.#machine.leases.closed(this);
  }

  async #turn(): Promise<void> {
    await this.process.turn();
    this.#checkUsable();
  }

  protected content(): Content {
    return this.#machine.tree.get(this.#inode).content;
  }

  #write(bytes: Uint8Array, offset: number): void {
    if (bytes.length === 0) return;
    const grows = offset + bytes.length > this.content().sizeBytes;
    this.#change((path, atNs) => ({ kind: "write", path, atNs, inode: this.#inode, offset, bytes, grows }));
  }

  #change(make: (path: string, atNs: bigint) => Change): void {
    this.#checkWritable();
    this.#machine.perform(this.process, (atNs) => make(this.path, atNs));
  }

  #checkUsable(): void {
    this.#machine.checkAlive(this.process);
    if (!this.#open) throw problem("E_INTERNAL", this.path, "the file is closed");
  }

  #checkWritable(): void {
    if (this.#access !== "write") throw problem("E_IO", this.path, "Bad file descriptor");
  }
}

// A storage in which some images are as a transaction will leave them. Whoever works on it (the qcow2 writer, a plan
// of a later statement) reads and writes as ever; the images themselves are not touched.
//
// Invariants
// - A file is staged by what it is (file system and inode), so that every name of it leads to its log. A block device keeps
//   the name that it was given: what that leads to now (`/dev/dm-3`) is another one's after a reboot.
// - Everything else passes through to the storage below, as it is. But a change writes to nothing else.
// - What seal returned is durable, and a place to go back to: resume takes a log up there, and cuts off what came after it.

import { posix } from "node:path";
import { elseClosed, ImgtxError, settleAll, whileOpen } from "../../errors/index.ts";
import type { FileStat, FileSystemTraits, Holder, Host, Space } from "../../storage/index.ts";
import type { OpenOptions, Reservation, Storage, StorageFile, WrittenFile } from "../../storage/index.ts";
import { RedoLog } from "./redo-log.ts";
import { describeLog, type SealedLog } from "./sealed-log.ts";
import { StagedFile } from "./staged-file.ts";
import { StagedImage } from "./staged-image.ts";

/** Whose log it is, and how its changes will be kept from colliding with others': see guard.ts. */
export interface StagingOptions {
  readonly transaction: string;
  /** The log's name: redoLogName. */
  readonly log: string;
  /** `digests` where no fence can be: raw, version 2 of qcow2, data files; `owner`: see guard.ts. */
  readonly guardedBy: "fence" | "digests" | "owner";
  /** Where the log lies. Default: beside the image. */
  readonly folder?: string;
}

/** Gives the file back as it is to be read from then on. */
export type ObserveFile = (file: StorageFile) => Promise<StorageFile>;

export class StagedStorage implements Storage {
  readonly #below: Storage;
  readonly #observe: ObserveFile;
  readonly #images = new Map<string, StagedImage>();
  #isChanging = false;

  /** observe: told of each file that is opened, with what it holds on the disk. */
  constructor(below: Storage, observe: ObserveFile = async (file) => await Promise.resolve(file)) {
    this.#below = below;
    this.#observe = observe;
  }

  get host(): Host {
    return this.#below.host;
  }

  /** Begins a log for the image at path. Returns the path of the log. */
  async stage(path: string, { transaction, log: name, guardedBy, folder }: StagingOptions): Promise<string> {
    const real = await this.#below.realPath(path);
    const logPath = posix.join(folder ?? posix.dirname(real), name);
    return await whileOpen(await this.#below.openFile(real, "read", AS_IMAGE), async (file) => {
      const stat = await file.stat();
      this.#requireNew(stat, path);
      const image = stat.kind === "device" ? path : real;
      const { fileSystemId, inode, bornNs } = stat;
      const log = await RedoLog.create(this.#below, logPath, {
        identity: { transaction, image, fileSystemId, inode, bornNs },
        baseSizeBytes: stat.sizeBytes,
        checksHoles: guardedBy === "digests",
        keepsReplaced: true,
      });
      this.#images.set(keyOf(stat), new StagedImage(log, stat));
      return log.path;
    });
  }

  /** Takes up a log that seal made durable, for the image at path. The errors are those of RedoLog.open. */
  async resume(
    path: string,
    sealed: Pick<SealedLog, "log" | "end"> & Pick<StagingOptions, "folder">,
    access: "read" | "write",
  ): Promise<void> {
    const image = await this.#below.realPath(path);
    const stat = await this.#below.stat(image);
    if (stat === undefined) throw new ImgtxError("E_NOT_FOUND", "the image is not there", { image });
    this.#requireNew(stat, path);
    const logPath = posix.join(sealed.folder ?? posix.dirname(image), sealed.log);
    const log = await RedoLog.open(this.#below, logPath, sealed.end, access);
    this.#images.set(keyOf(stat), new StagedImage(log, stat));
  }

  isStaged(stat: FileStat): boolean {
    return this.#images.has(keyOf(stat));
  }

  /** The log of a staged image. */
  logOf(stat: FileStat): string | undefined {
    return this.#images.get(keyOf(stat))?.log.path;
  }

  /** A change is made meanwhile: E_INTERNAL where it opens something for writing that has no log, before it is touched. */
  async whileChanging<T>(change: () => Promise<T>): Promise<T> {
    this.#isChanging = true;
    try {
      return await change();
    } finally {
      this.#isChanging = false;
    }
  }

  /** Has these bytes of a staged image written when its log is applied, be they changed or not: where a fence lies. */
  async include(path: string, start: number, lengthBytes: number): Promise<void> {
    await whileOpen(await this.#open(path, "read", AS_IMAGE), async (file) => {
      const image = this.#images.get(keyOf(await file.stat()));
      if (image === undefined) throw new ImgtxError("E_INTERNAL", "the image is not staged", { image: path });
      await image.include(file, { start, lengthBytes });
    });
  }

  /** Makes all logs durable, and tells what a journal needs of them. */
  async seal(): Promise<SealedLog[]> {
    const images = [...this.#images.values()];
    const sealed = await settleAll(
      images.map(async ({ log, queue }) => {
        return await queue.run(async () => {
          await log.flush();
          return describeLog(log);
        });
      }),
    );
    const unnamed = images.filter(({ log }) => !log.isNameDurable);
    for (const folder of new Set(unnamed.map(({ log }) => posix.dirname(log.path)))) {
      await this.#below.flushFolder(folder, "redo log's name");
    }
    for (const { log } of unnamed) log.isNameDurable = true;
    return sealed;
  }

  /** Closes the logs. They stay where they are. */
  async close(): Promise<void> {
    for (const [key, { log, queue }] of this.#images) {
      await queue.run(() => log.close());
      this.#images.delete(key);
    }
  }

  async openFile(path: string, access: "read" | "write", options?: OpenOptions): Promise<StorageFile> {
    if (this.#images.size === 0) return await this.#open(path, access, options);
    const stat = await this.#below.stat(path);
    if (stat === undefined || !this.isStaged(stat)) {
      if (stat !== undefined) await this.#requireSame(path);
      if (access === "write" && this.#isChanging)
        throw new ImgtxError("E_INTERNAL", "a file is to be changed that has no redo log", { image: path });
      return await this.#open(path, access, options);
    }
    return await elseClosed(await this.#open(path, "read", options), async (base) => {
      const image = this.#images.get(keyOf(await base.stat()));
      if (image === undefined) throw replaced(path);
      return new StagedFile(base, image, access);
    });
  }

  async #open(...request: Parameters<Storage["openFile"]>): Promise<StorageFile> {
    return await elseClosed(await this.#below.openFile(...request), this.#observe);
  }

  async createFile(path: string, mode: number): Promise<StorageFile> {
    return await this.#below.createFile(path, mode);
  }

  async stat(path: string): Promise<FileStat | undefined> {
    return this.#asStaged(await this.#below.stat(path));
  }

  async statLink(path: string): Promise<FileStat | undefined> {
    return this.#asStaged(await this.#below.statLink(path));
  }

  async readAttribute(...request: Parameters<Storage["readAttribute"]>): Promise<Uint8Array | undefined> {
    return await this.#below.readAttribute(...request);
  }

  async setAttribute(...request: Parameters<Storage["setAttribute"]>): Promise<boolean> {
    return await this.#below.setAttribute(...request);
  }

  async describeFileSystem(path: string): Promise<FileSystemTraits> {
    return await this.#below.describeFileSystem(path);
  }

  async realPath(path: string): Promise<string> {
    return await this.#below.realPath(path);
  }

  async readFolder(path: string): Promise<string[]> {
    return await this.#below.readFolder(path);
  }

  async readKinds(path: string): ReturnType<Storage["readKinds"]> {
    return await this.#below.readKinds(path);
  }

  async makeFolder(path: string, mode: number): Promise<void> {
    await this.#below.makeFolder(path, mode);
  }

  async removeFolder(path: string): Promise<void> {
    await this.#below.removeFolder(path);
  }

  async flushFolder(path: string, purpose: string): Promise<void> {
    await this.#below.flushFolder(path, purpose);
  }

  async rename(source: string, target: string): Promise<void> {
    await this.#below.rename(source, target);
  }

  async renameWithoutReplacing(source: string, target: string): Promise<void> {
    await this.#below.renameWithoutReplacing(source, target);
  }

  async removeFile(path: string): Promise<void> {
    await this.#below.removeFile(path);
  }

  async makeSymlink(target: string, path: string, like?: string): Promise<void> {
    await this.#below.makeSymlink(target, path, like);
  }

  async setOwner(path: string, ownerId: number, groupId: number): Promise<void> {
    await this.#below.setOwner(path, ownerId, groupId);
  }

  async readSymlink(path: string): Promise<string> {
    return await this.#below.readSymlink(path);
  }

  async reserveSpace(folder: string, lengthBytes: number, written?: WrittenFile): Promise<Reservation> {
    return await this.#below.reserveSpace(folder, lengthBytes, written);
  }

  async findHolders(stat: FileStat): Promise<Holder[]> {
    return await this.#below.findHolders(stat);
  }

  async findAllHolders(stats: readonly FileStat[]): Promise<Holder[][]> {
    return await this.#below.findAllHolders(stats);
  }

  async measureSpace(path: string): Promise<Space> {
    return await this.#below.measureSpace(path);
  }

  #asStaged(stat: FileStat | undefined): FileStat | undefined {
    const image = stat && this.#images.get(keyOf(stat));
    return stat && image ? { ...stat, sizeBytes: image.sizeBytes } : stat;
  }

  /** What stands in the place of a staged image must not be written to as if it were one. */
  async #requireSame(path: string): Promise<void> {
    if (this.#images.size === 0) return;
    const real = await this.#below.realPath(path);
    for (const { log } of this.#images.values()) {
      if (log.identity.image === real || log.identity.image === path) throw replaced(path);
    }
  }

  #requireNew(stat: FileStat, image: string): void {
    if (this.isStaged(stat)) throw new ImgtxError("E_INTERNAL", "the image is staged already", { image });
  }
}

const replaced = (image: string): ImgtxError => isReplaced(image, "run the command again");

/** `andThen` is what to do when the file is back. */
export function isReplaced(image: string, andThen: string): ImgtxError {
  return new ImgtxError("E_CHANGED", "another file stands there than the one that imgtx was to change", {
    image,
    hint: `put back the file that was there, then ${andThen}`,
  });
}

/** Whoever stages an image was let have it. */
const AS_IMAGE = { mayBeDevice: true } as const;

function keyOf({ fileSystem, inode }: FileStat): string {
  return `${fileSystem}:${inode}`;
}

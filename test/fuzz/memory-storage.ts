// A Storage in memory that notes everything done to it: what was opened, what was asked to be read, what was
// changed, and what is still open. Small files, no durability; the crash rigs have a disk for that.
//
// Invariants
// - A file that holds 4 KiB of zeros has a hole there, as an image that was copied sparsely.
// - What a real disk would refuse is refused as there: a missing name, a device node, a file above the limit.

import { posix } from "node:path";
import { ImgtxError } from "../../src/errors/index.ts";
import type { FileStat, Host, LeaseAnswer, Storage, StorageFile } from "../../src/storage/index.ts";

const BLOCK_BYTES = 4096;
const FILE_BYTES_MAX = 32 * 1024 * 1024;

export interface MemoryNode {
  readonly kind: "file" | "folder" | "other";
  readonly inode: number;
  content: Buffer;
  /** Calls that changed it. */
  changes: number;
}

export interface Watch {
  /** Paths in the order of their opening. */
  readonly opened: string[];
  /** The longest single read that was asked for. */
  longestReadBytes: number;
  openFiles: number;
}

export class MemoryDisk {
  readonly watch: Watch = { opened: [], longestReadBytes: 0, openFiles: 0 };
  readonly storage: Storage;
  readonly #nodes = new Map<string, MemoryNode>();
  #inodes = 0;

  constructor() {
    this.storage = makeStorage(this, this.watch);
  }

  /** Puts a file there, with the folders above it. The content is used as it is, not copied. */
  put(path: string, content: Buffer): void {
    this.#putFolders(posix.dirname(path));
    this.#nodes.set(path, this.makeNode("file", content));
  }

  /** A device node, where opening a file is refused. */
  putDevice(path: string): void {
    this.#putFolders(posix.dirname(path));
    this.#nodes.set(path, this.makeNode("other", Buffer.alloc(0)));
  }

  makeNode(kind: MemoryNode["kind"], content: Buffer): MemoryNode {
    this.#inodes += 1;
    return { kind, inode: this.#inodes, content, changes: 0 };
  }

  find(path: string): MemoryNode | undefined {
    return this.#nodes.get(posix.normalize(path).replace(/(?<=.)\/$/, ""));
  }

  require(path: string): MemoryNode {
    const node = this.find(path);
    if (node === undefined) throw new ImgtxError("E_NOT_FOUND", "there is no such file", { image: path });
    return node;
  }

  set(path: string, node: MemoryNode | undefined): void {
    const name = posix.normalize(path);
    if (node === undefined) this.#nodes.delete(name);
    else this.#nodes.set(name, node);
  }

  namesIn(folder: string): string[] {
    const start = folder.endsWith("/") ? folder : `${folder}/`;
    return [...this.#nodes.keys()]
      .filter((path) => path.startsWith(start) && !path.slice(start.length).includes("/"))
      .map((path) => path.slice(start.length))
      .sort();
  }

  #putFolders(path: string): void {
    if (this.#nodes.has(path)) return;
    this.#nodes.set(path, this.makeNode("folder", Buffer.alloc(0)));
    if (path !== "/") this.#putFolders(posix.dirname(path));
  }
}

const HOST: Host = {
  pid: 1,
  userId: 0,
  userName: "root",
  nameOfUser: (id) => `#${id}`,
  groupsOfUser: () => undefined,
  currentFolder: "/",
  temporaryFolder: "/",
  bootId: "00000000-0000-0000-0000-000000000000",
  machineId: "",
  origin: { processes: "", login: null, loginUser: null, service: null, sessions: [], ancestors: [] },
  process: { pid: 1, started: null, processes: "", boot: "", machine: "" },
  lifeOf: () => "self",
  now: () => 0,
  monotonicMs: () => 0,
  randomName: () => "aaaaaaaaaa",
  sleep: () => Promise.resolve(),
};

function makeStorage(disk: MemoryDisk, watch: Watch): Storage {
  const notHere = (): never => {
    throw new Error("the fuzzers need no such call");
  };
  return {
    host: HOST,
    async openFile(path, access) {
      watch.opened.push(path);
      const node = disk.require(path);
      if (node.kind !== "file") {
        throw new ImgtxError("E_NOT_A_FILE", `it is a ${node.kind}, not a file`, { image: path });
      }
      return new MemoryFile(path, node, access === "write", watch);
    },
    async createFile(path) {
      if (disk.find(path) !== undefined) {
        throw new ImgtxError("E_EXISTS", "it is there already", { image: path });
      }
      const node = disk.makeNode("file", Buffer.alloc(0));
      disk.set(path, node);
      return new MemoryFile(path, node, true, watch);
    },
    stat: async (path) => statOf(disk.find(path)),
    statLink: async (path) => statOf(disk.find(path)),
    reserveSpace: async () => ({ release: async () => undefined }),
    readAttribute: async () => undefined,
    setAttribute: async () => false,
    describeFileSystem: async () => ({ keepsInodes: false, keepsModes: true, sharesLocks: true }),
    realPath: async (path) => {
      disk.require(path);
      return posix.normalize(path).replace(/(?<=.)\/$/, "");
    },
    readFolder: async (path) => disk.namesIn(path),
    readKinds: async (path) => ({ names: disk.namesIn(path), special: [] }),
    makeFolder: notHere,
    removeFolder: notHere,
    flushFolder: async () => undefined,
    async rename(source, target) {
      disk.set(target, disk.require(source));
      disk.set(source, undefined);
    },
    renameWithoutReplacing: notHere,
    removeFile: async (path) => disk.set(path, undefined),
    makeSymlink: notHere,
    setOwner: notHere,
    readSymlink: notHere,
    findHolders: async () => [],
    findAllHolders: async (stats) => stats.map(() => []),
    measureSpace: notHere,
  };
}

function statOf(node: MemoryNode | undefined): FileStat | undefined {
  if (node === undefined) return undefined;
  return {
    kind: node.kind,
    sizeBytes: node.content.length,
    allocatedBytes: countAllocated(node.content),
    fileSystem: "1",
    inode: String(node.inode),
    names: 1,
    mode: 0o600,
    ownerId: 0,
    groupId: 0,
    modifiedNs: String(node.changes),
    changedNs: String(node.changes),
    settled: true,
    fileSystemId: "ext:1",
    mountId: "1",
    bootId: HOST.bootId,
    bornNs: "0",
  };
}

const ZEROS = Buffer.alloc(BLOCK_BYTES);

function isHole(content: Buffer, start: number): boolean {
  const block = content.subarray(start, start + BLOCK_BYTES);
  return block.equals(ZEROS.subarray(0, block.length));
}

function countAllocated(content: Buffer): number {
  let bytes = 0;
  for (let at = 0; at < content.length; at += BLOCK_BYTES) if (!isHole(content, at)) bytes += BLOCK_BYTES;
  return bytes;
}

class MemoryFile implements StorageFile {
  readonly path: string;
  readonly #node: MemoryNode;
  readonly #isWritable: boolean;
  readonly #watch: Watch;
  #isOpen = true;

  constructor(path: string, node: MemoryNode, isWritable: boolean, watch: Watch) {
    this.path = path;
    this.#node = node;
    this.#isWritable = isWritable;
    this.#watch = watch;
    watch.openFiles += 1;
  }

  async stat(): Promise<FileStat> {
    const stat = statOf(this.#node);
    if (stat === undefined) throw new Error("an open file without a node");
    return stat;
  }

  async read(target: Uint8Array, offset: number): Promise<number> {
    this.#require("read", offset);
    this.#watch.longestReadBytes = Math.max(this.#watch.longestReadBytes, target.length);
    const found = this.#node.content.subarray(offset, offset + target.length);
    target.set(found);
    return found.length;
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    this.#require("write", offset);
    const end = offset + source.length;
    if (end > this.#node.content.length) this.#resize(end);
    this.#node.content.set(source, offset);
    this.#node.changes += 1;
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.#require("write", sizeBytes);
    this.#resize(sizeBytes);
    this.#node.changes += 1;
  }

  #resize(sizeBytes: number): void {
    if (sizeBytes > FILE_BYTES_MAX) {
      throw new ImgtxError("E_NO_SPACE", "the disk is full", { image: this.path });
    }
    const grown = Buffer.alloc(sizeBytes);
    this.#node.content.copy(grown, 0, 0, Math.min(sizeBytes, this.#node.content.length));
    this.#node.content = grown;
  }

  async readAttribute(): Promise<undefined> {
    return undefined;
  }

  async setAttribute(): Promise<boolean> {
    return false;
  }

  async setAccess(): Promise<void> {
    this.#require("write", 0);
  }

  async setModified(): Promise<boolean> {
    this.#require("write", 0);
    return true;
  }

  beginFlush(): void {
    this.#require("read", 0);
  }

  async flush(): Promise<void> {
    this.#require("read", 0);
  }

  async seekData(offset: number): Promise<number | undefined> {
    this.#require("read", offset);
    return this.#seek(offset, false);
  }

  async seekHole(offset: number): Promise<number> {
    this.#require("read", offset);
    return this.#seek(offset, true) ?? Math.max(offset, this.#node.content.length);
  }

  #seek(offset: number, hole: boolean): number | undefined {
    const { content } = this.#node;
    let at = offset;
    while (at < content.length) {
      const block = at - (at % BLOCK_BYTES);
      if (isHole(content, block) === hole) return at;
      at = block + BLOCK_BYTES;
    }
    return undefined;
  }

  async punchHole({ start, lengthBytes }: { start: number; lengthBytes: number }): Promise<void> {
    this.#require("write", start);
    if (start >= this.#node.content.length) return;
    this.#node.content.fill(0, start, Math.min(start + lengthBytes, this.#node.content.length));
    this.#node.changes += 1;
  }

  async allocate({ start, lengthBytes }: { start: number; lengthBytes: number }): Promise<void> {
    this.#require("write", start);
    if (start + lengthBytes > this.#node.content.length) this.#resize(start + lengthBytes);
    this.#node.changes += 1;
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

  async copyRangeFrom(source: StorageFile, from: number, to: number, lengthBytes: number): Promise<void> {
    const bytes = new Uint8Array(lengthBytes);
    if ((await source.read(bytes, from)) < lengthBytes) {
      throw new ImgtxError("E_IO", "the source ends before that", { image: this.path });
    }
    await this.write(bytes, to);
  }

  async cloneFrom(): Promise<boolean> {
    return false;
  }

  lock(): boolean {
    return true;
  }

  unlock(): void {
    // Nobody else is here.
  }

  wouldConflict(): boolean {
    return false;
  }

  takeLease(): LeaseAnswer {
    return "unavailable";
  }

  isLeaseWanted(): boolean {
    return false;
  }

  dropLease(): void {
    // There is none.
  }

  async close(): Promise<void> {
    if (this.#isOpen) this.#watch.openFiles -= 1;
    this.#isOpen = false;
  }

  /** A wrong call is a bug in what is tested, and is not thrown as an error that imgtx foresees. */
  #require(access: "read" | "write", offset: number): void {
    if (!this.#isOpen) throw new Error(`${this.path} is used after it was closed`);
    if (access === "write" && !this.#isWritable) throw new Error(`a write to ${this.path}, open for reading`);
    if (!Number.isSafeInteger(offset) || offset < 0) throw new RangeError(`${this.path}: offset ${offset}`);
  }
}

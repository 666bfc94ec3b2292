// What the rest of imgtx may ask of the operating system. Everything above this folder gets a Storage
// handed to it; the crash tests hand it a simulated disk that loses what was not flushed.
//
// Invariants
// - A read or write either does all of what was asked, or throws: short counts never leave this layer.
// - Errors are ImgtxError with a path: E_NOT_FOUND, E_EXISTS, E_NO_PERMISSION, E_READ_ONLY, E_NO_SPACE,
//   E_NOT_A_FILE (a folder, device node, FIFO or socket where a file was asked for), E_BUSY (a mount point, a running
//   program), E_UNSUPPORTED (a lock where there are none), E_IO for the rest; a file used after its close is E_INTERNAL.
// - Nothing is durable before its flush: file content by StorageFile.flush, names by flushFolder.
// - Each flush says what it is for. The purpose is the name under which the crash tests remove it.

import type { ComparableFile } from "./comparable-file.ts";

/** What a file system remembers of its files. */
export interface FileSystemTraits {
  /** Whether a file keeps its inode number and its birth time for as long as it lives, over mounts and reboots. */
  readonly keepsInodes: boolean;
  /** Whether owner and permissions are each file's own, and not the mount's for all of them. */
  readonly keepsModes: boolean;
  /**
   * Whether a lock is seen by everybody who can reach the file, through whatever mounting and from whatever machine.
   * Else one that can be had says nothing of who is at work elsewhere.
   */
  readonly sharesLocks: boolean;
}

/** Times and ids are decimal strings: they exceed 2^53, and go into JSON as they are. */
export interface FileStat {
  /** `device`: a block device. */
  readonly kind: "file" | "folder" | "symlink" | "device" | "other";
  readonly sizeBytes: number;
  /** Bytes that the file takes on the disk; less than sizeBytes where it has holes. */
  readonly allocatedBytes: number;
  /**
   * Number of the file system (st_dev), valid until the next reboot or mount. All block devices have one of their own,
   * "0": which of them it is, the inode tells, by whatever node, and over reboots.
   */
  readonly fileSystem: string;
  /** What it is called across reboots: its kind, a colon, and an id of its own, or nothing where it has none. */
  readonly fileSystemId: string;
  /**
   * Which mounting of the file system it is, within this boot: unmounted and mounted again it is another one.
   * "" where that can't be told.
   */
  readonly mountId: string;
  /** This run of the machine; "" where that can't be told. */
  readonly bootId: string;
  readonly inode: string;
  /** How many names the file has. */
  readonly names: number;
  /** Permission bits, without the type: 0o600. */
  readonly mode: number;
  readonly ownerId: number;
  readonly groupId: number;
  /** Nanoseconds since 1970. */
  readonly modifiedNs: string;
  /**
   * The change time (ctime), in nanoseconds since 1970: moved by each write, and by a new name, owner or mode as
   * well. Nobody can set it.
   */
  readonly changedNs: string;
  /** Whether each write from this moment on will show in the change time: it is older than its own grain. */
  readonly settled: boolean;
  /** Birth time in nanoseconds since 1970; "0" where the file system keeps none. */
  readonly bornNs: string;
}

/** POSIX ACL (acl(5), in the kernel's own form), the label of SELinux, and which workspaces may know of a file. */
export type AttributeName = "system.posix_acl_access" | "security.selinux" | "user.imgtx.workspaces";

/** Who may do what with a file. */
export type FileAccess = Pick<FileStat, "mode" | "ownerId" | "groupId">;

export interface ByteRange {
  readonly start: number;
  readonly lengthBytes: number;
}

/** `shared` is a read lock (F_RDLCK), `exclusive` a write lock (F_WRLCK). */
export type LockKind = "shared" | "exclusive";

/** Who a lease keeps company with: readers, or nobody at all as it is taken. */
export type LeaseBeside = "readers" | "nobody";

/**
 * What came of asking for a lease. `writers`: somebody has the file open for writing, perhaps this process; where it was
 * asked for beside nobody, somebody has it open at all. `unavailable`: another user's file, or a file system that has none; nothing is known then.
 */
export type LeaseAnswer = "held" | "writers" | "unavailable";

export interface StorageFile extends ComparableFile {
  /** The path it was opened by. */
  readonly path: string;
  /**
   * The file itself, where this one shows it as it will be: what is written here goes into a log first (format/staged),
   * all of which counts at once or not at all.
   */
  readonly onDisk?: StorageFile;
  stat(): Promise<FileStat>;
  /** Fills target from offset. Returns the bytes read, fewer than asked for only at the end of the file. */
  read(target: Uint8Array, offset: number): Promise<number>;
  /**
   * Lets the disk begin to read a range, without waiting: a hint that promises nothing. Given for many small
   * ranges before each is read, it has the disk work on all of them at once.
   */
  beginRead?(range: ByteRange): void;
  /**
   * Takes a range that was read out of the memory again: a hint. Given while a file is read that goes afterwards, it has
   * that done meanwhile, which closing the file takes as long for.
   */
  forget?(range: ByteRange): void;
  write(source: Uint8Array, offset: number): Promise<void>;
  /** Sets the size; what it grows by is a hole that reads as zeros. */
  truncate(sizeBytes: number): Promise<void>;
  /** Gives the file this owner, group and permission bits, whatever the umask says. */
  setAccess(access: FileAccess): Promise<void>;
  /** An extended attribute. Undefined where the file has none of that name, or there are none here. */
  readAttribute(name: AttributeName): Promise<Uint8Array | undefined>;
  /** Sets or, undefined, removes it. False, and nothing changed, where that is not allowed, or there are none here. */
  setAttribute(name: AttributeName, value: Uint8Array | undefined): Promise<boolean>;
  /**
   * Sets the time of the last modification, exactly; pending until the flush, as content is. False, and nothing
   * set, where only the owner of the file may.
   */
  setModified(modifiedNs: string): Promise<boolean>;
  /**
   * Lets the disk begin with what was written, without waiting: a hint that promises nothing. Given to many
   * files before each is flushed, it makes the flushes several times faster.
   */
  beginFlush(): void;
  /** fsync: content and size are durable when this returns. A failed flush must not be retried on this file. */
  flush(purpose: string): Promise<void>;
  /** First byte of data at or after offset, undefined when only holes follow. */
  seekData(offset: number): Promise<number | undefined>;
  /** The same of a hole; the end of the file counts as one, and all after it. */
  seekHole(offset: number): Promise<number>;
  /** Gives the range back to the file system; it reads as zeros. */
  punchHole(range: ByteRange): Promise<void>;
  /** Gives the range its blocks in advance, and the file that length at least; holes read as zeros still, or are filled with them where it can't. */
  allocate(range: ByteRange): Promise<void>;
  /**
   * Asks for blocks to be overwritten in place, which only Btrfs does otherwise, and only for a file that is
   * still empty. False where the file system knows no such thing.
   */
  disableCopyOnWrite(): boolean;
  /** Asks for blocks to be given in extents of about this size (XFS). False where the file system can't. */
  setExtentSizeHint(sizeBytes: number): boolean;
  /** What was asked for so. 0: nothing, or the file system can't. */
  extentSizeHint(): number;
  /**
   * Copies a range from source inside the kernel where it can; else by read and write. Holes stay holes, and
   * the target grows to the end of the range. E_IO, and nothing written, where the source ends before that.
   */
  copyRangeFrom(
    source: StorageFile,
    sourceOffset: number,
    targetOffset: number,
    lengthBytes: number,
  ): Promise<void>;
  /** Shares all of source's blocks. False where the file system can't, and nothing was written. */
  cloneFrom(source: StorageFile): Promise<boolean>;
  /**
   * Takes an open-file-description lock without waiting. False when another description holds a
   * conflicting one. A shared lock needs no write access to the file, an exclusive one does.
   */
  lock(range: ByteRange, kind: LockKind): boolean;
  unlock(range: ByteRange): void;
  /** Whether a lock of this kind would be refused now (F_OFD_GETLK). Takes nothing. */
  wouldConflict(range: ByteRange, kind: LockKind): boolean;
  /**
   * Takes a lease (F_SETLEASE, for reading) on a file that was opened for reading, without waiting. While it is
   * held nobody has the file open for writing: whoever opens it so, this process among them, waits in that call
   * until the lease is given back. The kernel takes it away after a while (45 s), so it is held for an instant only.
   * Beside nobody: at the moment when it is taken no other open description of the file is there, mapped files, loop
   * devices and what /proc hides among them. Who opens it for reading afterwards is in no one's way. Default: readers.
   */
  takeLease(beside?: LeaseBeside): LeaseAnswer;
  /** Whether the lease that is held keeps somebody waiting, or was taken away because it did for too long. */
  isLeaseWanted(): boolean;
  /** Without a lease nothing happens. */
  dropLease(): void;
  /**
   * Waits for the reads and writes under way, and drops the locks and the lease taken through this description too.
   * Closing twice is allowed, and so is an unlock afterwards.
   */
  close(): Promise<void>;
}

export interface OpenOptions {
  /** Refuse a symbolic link as the last part of the path. Default: follow it. */
  readonly refuseSymlink?: boolean;
  /** Open a block device as well: only an image is one, and only where somebody who may say so did. Default: refuse it. */
  readonly mayBeDevice?: boolean;
  /** Open it with the rights of this user alone; for root. */
  readonly as?: number;
}

/** Who has a file open, as far as /proc shows it: a process, or a loop device, whose pid is 0. */
export interface Holder {
  readonly pid: number;
  readonly program: string;
  /** Whether it may write to the file; left out where that can't be told. */
  readonly writes?: boolean;
  /** Whether it is another imgtx, which waits for locks by the very node that this process has locked: it writes nothing yet. */
  readonly waits?: boolean;
  /** Whether it holds a lock on the file; left out where that can't be told. */
  readonly holdsLock?: boolean;
}

/** A process, by what is told of it later. Plain data: a journal keeps it. */
export interface ProcessMark {
  readonly pid: number;
  /** In the kernel's ticks since its start; null where there is no /proc. */
  readonly started: string | null;
  /** The namespace that the number is from, one a container; "" where there is no /proc. */
  readonly processes: string;
  /** Of the run of the machine; "" where that can't be told. Containers have that of their host. */
  readonly boot: string;
  /** Of the system's installation; "" where it has none. */
  readonly machine: string;
}

export type ProcessLife = "self" | "alive" | "gone" | "unknown";

/** A process, by its number and the time that it started at, in the kernel's ticks: numbers are used again. */
export interface OriginProcess {
  readonly pid: number;
  readonly started: string;
}

/** A session of the kernel, by its number and the start of its first process: null where that has gone. */
export interface OriginSession {
  readonly id: number;
  readonly started: string | null;
}

/** Where a process was started from. Plain data: a journal keeps it. */
export interface Origin {
  /** The namespace that process numbers are from, one a container. Empty where there is no /proc. */
  readonly processes: string;
  /** Number of the login that it stems from, in this boot (audit session); null where the kernel keeps none. */
  readonly login: string | null;
  /** Who logged in, whatever user it runs as now. For messages. */
  readonly loginUser: string | null;
  /** The systemd service that it belongs to, where it is one. */
  readonly service: string | null;
  /** Its own session, and those that a sudo or su above it was called in. */
  readonly sessions: readonly OriginSession[];
  /** The processes above it in those sessions, nearest first. */
  readonly ancestors: readonly OriginProcess[];
}

/** What identifies this run of this program: for messages, for names, and for which transaction a command joins. */
export interface Host {
  readonly pid: number;
  readonly userId: number;
  readonly userName: string;
  /** The name of a user of this system; `#1000` where it has none, as sudo takes it. */
  nameOfUser(id: number): string;
  /** The groups that a user is in. Undefined where this system's own files do not know the user. */
  groupsOfUser(id: number): readonly number[] | undefined;
  /**
   * Makes the call with that user's rights alone, the kernel's word for them; for root. What of it comes after an
   * await is done with root's own. Left out where there is one user only.
   */
  readonly actAs?: <T>(userId: number, call: () => T) => T;
  /** What relative names are relative to. Absolute. */
  readonly currentFolder: string;
  /** Where files may be made that nobody keeps. */
  readonly temporaryFolder: string;
  readonly bootId: string;
  /** Of this installation of the system, for as long as it lives; "" where it has none. */
  readonly machineId: string;
  /** Read when it is asked for: it takes a few milliseconds. */
  readonly origin: Origin;
  /** This process, for others to tell whether it lives. */
  readonly process: ProcessMark;
  /** What the kernel shows of a process. */
  lifeOf(mark: ProcessMark): ProcessLife;
  /** Milliseconds since 1970: for what people read. It may be set back and forth at any time. */
  now(): number;
  /** Milliseconds since some instant, which nobody sets back: for every wait and every interval. */
  monotonicMs(): number;
  /** A fresh random name part: ten characters of [a-z0-9]. */
  randomName(): string;
  sleep(milliseconds: number): Promise<void>;
  /** Runs a program to its end, as this user and without a shell. Left out where none can be started. */
  readonly runProgram?: (command: readonly string[], how: HowToRun) => Promise<ProgramEnd>;
}

export interface HowToRun {
  /** Beside what this process has. */
  readonly env: Readonly<Record<string, string>>;
  /** It is killed then, with all that it has started. */
  readonly limitMs: number;
  /** A file that the program has open too: its locks stay for as long as it lives, also where this process dies before. */
  readonly holding: StorageFile | undefined;
}

/** How a program ended, and the beginning of what it printed. */
export interface ProgramEnd {
  /** `late`: it was killed at its limit. */
  readonly kind: "exited" | "killed" | "late" | "not started";
  /** Of `exited`. */
  readonly status?: number;
  /** The signal, or why it could not be started. */
  readonly why?: string;
  readonly printed: string;
}

/** A file that is to be written to, and the end of the last byte that is. */
export type WrittenFile = Pick<StorageFile, "path"> & { readonly endBytes: number };

/** Space that is kept free for whoever holds this. */
export interface Reservation {
  /** Gives it back. Twice is allowed. */
  release(): Promise<void>;
}

export interface FolderKinds {
  readonly names: readonly string[];
  /** Links, devices and the like. */
  readonly special: readonly string[];
}

export interface Space {
  readonly freeBytes: number;
  readonly totalBytes: number;
}

export interface RemoveFolderOptions {
  readonly onlyFlat?: boolean;
  readonly onlyEmpty?: boolean;
}

/** All paths are absolute. */
export interface Storage {
  readonly host: Host;
  /**
   * Opens an existing regular file; a block device too, where that may be. E_REFUSED for a device that is to be written to
   * and is mounted, swap, part of another device, or has partitions.
   */
  openFile(path: string, access: "read" | "write", options?: OpenOptions): Promise<StorageFile>;
  /** Makes a file that must not exist (O_EXCL), open for reading and writing. */
  createFile(path: string, mode: number): Promise<StorageFile>;
  /** Follows symbolic links. Undefined where nothing is there. */
  stat(path: string): Promise<FileStat | undefined>;
  /** Of the link itself. Undefined where nothing is there. */
  statLink(path: string): Promise<FileStat | undefined>;
  /** An extended attribute of a file or folder; links are followed. Undefined where there is none. */
  readAttribute(path: string, name: AttributeName): Promise<Uint8Array | undefined>;
  /** Sets one. False, and nothing changed, where that is not allowed, or there are none here. */
  setAttribute(path: string, name: AttributeName, value: Uint8Array): Promise<boolean>;
  /** What the file system of an existing path remembers of its files. */
  describeFileSystem(path: string): Promise<FileSystemTraits>;
  /** The path with every symbolic link resolved. */
  realPath(path: string): Promise<string>;
  /** Names in a folder, sorted. */
  readFolder(path: string): Promise<string[]>;
  /** Names in a folder, in any order, and which of them are of what is neither a regular file nor a folder. */
  readKinds(path: string): Promise<FolderKinds>;
  /** Makes one folder that must not exist, with this mode whatever the umask says. */
  makeFolder(path: string, mode: number): Promise<void>;
  /**
   * Removes a folder with all that is in it; nothing there is no error. Never follows a link: one at path
   * itself is E_NOT_A_FILE. `onlyFlat`: no folder in it is removed, and all is done before the call returns.
   * `onlyEmpty`: E_EXISTS where anything is in it.
   */
  removeFolder(path: string, options?: RemoveFolderOptions): Promise<void>;
  /** fsync of a folder: the names in it are durable when this returns. */
  flushFolder(path: string, purpose: string): Promise<void>;
  /** Told before the first flush of a command that is about to flush so many files at once: a hint, for threads to wait in. */
  expectFlushes?(files: number): void;
  /** Moves a name within a file system, replacing what was there. */
  rename(source: string, target: string): Promise<void>;
  /** Moves a name; E_EXISTS, and nothing moved, where target is taken. */
  renameWithoutReplacing(source: string, target: string): Promise<void>;
  removeFile(path: string): Promise<void>;
  /** Makes a symbolic link at path that says target. Where `like` is one that says the same, it may become a second name of that. */
  makeSymlink(target: string, path: string, like?: string): Promise<void>;
  /** Gives a file, folder or link another owner and group. A link itself, and not what it leads to. */
  setOwner(path: string, ownerId: number, groupId: number): Promise<void>;
  readSymlink(path: string): Promise<string>;
  /**
   * Takes so much space on the folder's file system, and an inode, until it is released or this process ends; or looks at
   * what is free. E_NO_SPACE. written: a file there that gets it, E_IO where none may be that large; else new ones get it.
   */
  reserveSpace(folder: string, lengthBytes: number, written?: WrittenFile): Promise<Reservation>;
  /**
   * Processes other than this one that have the file open, those that lock it first. Empty where /proc
   * shows none; pid 0 stands for one that holds a lock and is hidden. describeHolders puts it into words.
   */
  findHolders(stat: FileStat): Promise<Holder[]>;
  /** The same of several files, for about the price of one. */
  findAllHolders(stats: readonly FileStat[]): Promise<Holder[][]>;
  /** Of the file system of an existing path, for whoever this process is. */
  measureSpace(path: string): Promise<Space>;
}

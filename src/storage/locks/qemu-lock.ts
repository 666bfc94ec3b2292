// QEMU's image locks, so that a running QEMU refuses imgtx and imgtx refuses what QEMU has open.
//
// Each permission that a program uses on an image is a shared lock on byte 100 + its number; each that it
// does not let others use, one on byte 200 + its number. Locking therefore never fails among well-behaved
// programs. Conflicts are asked for: would an exclusive lock fit where others say no to what we use, and
// where others use what we say no to?
//
// Invariants
// - All images of a group are locked, or none: a conflict on one gives the others back.
// - In one order for everybody (file system, inode), an image once however often it is named.
// - Never an exclusive lock, not for an instant: it would make others fail for no cause. It would need a file that is open
//   for writing, besides.
// - Two imgtx that ask at the same instant see each other's locks. Each says by one more lock, far beyond QEMU's bytes, that
//   it asks, under a number of its own, until it has its answer. Who sees a lower number gives way, before it locks
//   anything. Who is lowest, and is refused while others ask, asks again, until they have given way. So of those that meet
//   one goes on, or one has the image already: never do all give up.
// - Who waits for a device may have it open for writing. It says so meanwhile by a lock on one more byte, or of two that wait
//   each would take the other for a writer without locks, for ever.
// - A lock follows the inode. After locking, the path must still name the inode that is locked. Of a block device that is
//   the inode of its node.

import { ImgtxError } from "../../errors/index.ts";
import { describeHolders, WAITING_BYTE } from "../kernel/holders.ts";
import { type LockWaiting, type Refusal, waitForLock } from "./lock-waiting.ts";
import type { ByteRange, FileStat, Storage, StorageFile } from "../storage.ts";

export interface ImageLockRequest {
  readonly file: StorageFile;
  /** What was seen of the file since it was opened, which tells which one it is. Absent: it is asked for. */
  readonly stat?: FileStat;
  readonly role: ImageRole;
  /** Where the file is found now, if that is not the path that it was opened by. */
  readonly path?: string;
  /** The device it belongs to, for the error. */
  readonly device?: string;
}

export interface ImageLocks {
  /** Gives all of them back; a second call does nothing. Closing a file gives back its own. */
  release(): void;
}

export type ImageRole = keyof typeof IMAGE_ROLES;

// QEMU's permissions by number, in the words of its messages.
const PERMISSION_NAMES = ["consistent read", "write", "write unchanged", "resize"];
const CONSISTENT_READ = 0;
const WRITE = 1;
const RESIZE = 3;

const USED_BASE = 100;
const UNSHARED_BASE = 200;
const ALL_PERMISSIONS = {
  start: USED_BASE,
  lengthBytes: UNSHARED_BASE + PERMISSION_NAMES.length - USED_BASE,
};

/** Where those say that they ask who write, and those who only read: the byte of their number. Readers are in nobody's way there. */
const ASKING_BASE = { writer: 2 ** 30, reader: 2 ** 29 } as const;
const NUMBER_DIGITS = 5;
const NUMBERS = 36 ** NUMBER_DIGITS;
const WAITING_RANGE: ByteRange = { start: WAITING_BYTE, lengthBytes: 1 };

/** What each role uses, and what it does not let others use meanwhile. */
const IMAGE_ROLES = {
  /** Bytes 100 101 103 201 203: an image that is changed. */
  writer: { uses: [CONSISTENT_READ, WRITE, RESIZE], unshares: [WRITE, RESIZE] },
  /** Bytes 100 201 203: a backing image, or an image that must hold still. */
  reader: { uses: [CONSISTENT_READ], unshares: [WRITE, RESIZE] },
} as const;

/** Another imgtx or QEMU that asks and is refused holds its locks for about this long. */
const GRACE_MS = 40;

interface LockedImage {
  readonly path: string;
  readonly file: StorageFile;
  readonly device: string | undefined;
  readonly stat: FileStat;
  readonly uses: Set<number>;
  readonly unshares: Set<number>;
}

interface Conflict {
  readonly image: LockedImage;
  /** QEMU's words. */
  readonly reason: string;
  /** Whether those that are met ask as well, and give way. */
  readonly isPassing?: boolean;
}

/**
 * Takes the locks of a whole group. E_LOCKED, naming the image and who has it, when another program's use
 * stands against one of them; E_CHANGED when a path no longer names the file that was opened. Nothing is
 * held after an error. An open file serves one group at a time, and stays open for as long as its locks.
 */
export async function acquireImageLocks(
  storage: Storage,
  requests: readonly ImageLockRequest[],
  waiting: LockWaiting,
): Promise<ImageLocks> {
  const opened = await Promise.all(
    requests.map(
      async (request): Promise<OpenedRequest> => ({
        request,
        stat: request.stat ?? (await request.file.stat()),
      }),
    ),
  );
  const images = mergeRequests(opened);
  const number = Number.parseInt(storage.host.randomName().slice(-NUMBER_DIGITS), 36);
  const devices = images.filter(({ stat }) => stat.kind === "device");
  try {
    for (const { file } of devices) file.lock(WAITING_RANGE, "shared");
    await waitForLock(storage.host, waiting, GRACE_MS, async () => {
      const conflict = lockAll(images, number) ?? (await findUnlockedWriter(storage, images));
      return conflict === undefined ? undefined : refusalOf(storage, conflict);
    });
  } catch (error) {
    // It may be over before the others have given way.
    stopAsking(images, number);
    throw error;
  } finally {
    for (const { file } of devices) file.unlock(WAITING_RANGE);
  }
  try {
    await assertStillNamed(storage, opened);
  } catch (error) {
    unlockAll(images);
    throw error;
  }
  let held = true;
  return {
    release() {
      if (held) unlockAll(images);
      held = false;
    },
  };
}

interface OpenedRequest {
  readonly request: ImageLockRequest;
  readonly stat: FileStat;
}

function mergeRequests(opened: readonly OpenedRequest[]): LockedImage[] {
  const images = new Map<string, LockedImage>();
  for (const { request, stat } of opened) {
    const { file, role, device } = request;
    const identity = `${stat.fileSystem}:${stat.inode}`;
    const image = images.get(identity) ?? {
      path: pathOf(request),
      file,
      device,
      stat,
      uses: new Set<number>(),
      unshares: new Set<number>(),
    };
    for (const permission of IMAGE_ROLES[role].uses) image.uses.add(permission);
    for (const permission of IMAGE_ROLES[role].unshares) image.unshares.add(permission);
    images.set(identity, image);
  }
  return [...images.values()].sort(byFileSystemAndInode);
}

function pathOf({ path, file }: ImageLockRequest): string {
  return path ?? file.path;
}

function byFileSystemAndInode({ stat: a }: LockedImage, { stat: b }: LockedImage): number {
  return compare(a.fileSystem, b.fileSystem) || compare(a.inode, b.inode);
}

/** Two numbers in decimal, as stat has them, without a bigint of each for each comparison. */
function compare(a: string, b: string): number {
  if (a === b) return 0;
  if (a.length !== b.length) return a.length - b.length;
  return a < b ? -1 : 1;
}

/**
 * Locks follow the node of a device, and a guest may have one of its own: libvirt gives it a /dev of its own. So who has a
 * device open for writing is looked for among all processes. Gives the locks back where there is one.
 */
async function findUnlockedWriter(
  storage: Storage,
  images: readonly LockedImage[],
): Promise<Conflict | undefined> {
  const devices = images.filter(({ stat }) => stat.kind === "device");
  if (devices.length === 0) return undefined;
  const found = await storage.findAllHolders(devices.map(({ stat }) => stat));
  const image = devices.find((_, index) =>
    found[index]?.some(({ writes, waits }) => writes === true && waits !== true),
  );
  if (image === undefined) return undefined;
  unlockAll(images);
  return { image, reason: "it is open for writing, without a lock on this name of it" };
}

/** Locks each image and asks at once, so that of two groups that meet the first in order goes on. */
function lockAll(images: readonly LockedImage[], number: number): Conflict | undefined {
  let isPassing = false;
  try {
    for (const image of images) image.file.lock(askingByte(image, number), "shared");
    const conflict = findLower(images, number) ?? lockOrAsk(images);
    if (conflict === undefined) return undefined;
    unlockAll(images);
    // In this order: who asks from now on sees this number first.
    isPassing =
      findLower(images, number) === undefined &&
      (asks(conflict.image, number + 1, NUMBERS) || findConflict(conflict.image) === undefined);
    return { ...(findWritten(images) ?? conflict), isPassing };
  } catch (error) {
    unlockAll(images);
    throw error;
  } finally {
    if (!isPassing) stopAsking(images, number);
  }
}

function lockOrAsk(images: readonly LockedImage[]): Conflict | undefined {
  for (const image of images) {
    const reason = lockImage(image) ?? findConflict(image);
    if (reason !== undefined) return { image, reason };
  }
  return undefined;
}

function findLower(images: readonly LockedImage[], number: number): Conflict | undefined {
  const image = images.find((one) => asks(one, 0, number));
  if (image === undefined) return undefined;
  return {
    image,
    reason: writes(image) ? 'Failed to get "write" lock' : 'Failed to get shared "write" lock',
  };
}

/** Whether somebody in whose way this one is asks under a number from `start` on, and below `end`. */
function asks(image: LockedImage, start: number, end: number): boolean {
  const lengthBytes = end - start;
  if (lengthBytes <= 0) return false;
  const bases = writes(image) ? Object.values(ASKING_BASE) : [ASKING_BASE.writer];
  return bases.some((base) => image.file.wouldConflict({ start: base + start, lengthBytes }, "exclusive"));
}

function askingByte(image: LockedImage, number: number): ByteRange {
  return { start: ASKING_BASE[writes(image) ? "writer" : "reader"] + number, lengthBytes: 1 };
}

function writes({ uses }: LockedImage): boolean {
  return uses.has(WRITE);
}

function stopAsking(images: readonly LockedImage[], number: number): void {
  for (const image of images) image.file.unlock(askingByte(image, number));
}

/** Of a chain that a guest has open, the image that it writes to: that tells more than what lies below it. */
function findWritten(images: readonly LockedImage[]): Conflict | undefined {
  for (const image of images) {
    const isWritten = image.file.wouldConflict({ start: USED_BASE + WRITE, lengthBytes: 1 }, "exclusive");
    const reason = isWritten ? findConflict(image) : undefined;
    if (reason !== undefined) return { image, reason };
  }
  return undefined;
}

function lockImage(image: LockedImage): string | undefined {
  for (const range of lockRanges(image)) {
    // Refused only where somebody has an exclusive lock, which QEMU never takes.
    if (!image.file.lock(range, "shared")) return `Failed to lock byte ${range.start}`;
  }
  return undefined;
}

function findConflict(image: LockedImage): string | undefined {
  const { file, uses, unshares } = image;
  // Nearly always nobody else has any lock on it, which one question tells.
  if (!file.wouldConflict(ALL_PERMISSIONS, "exclusive")) return undefined;
  const taken = (byte: number) => file.wouldConflict({ start: byte, lengthBytes: 1 }, "exclusive");
  const refused = [...uses].find((permission) => taken(UNSHARED_BASE + permission));
  if (refused !== undefined) return `Failed to get "${PERMISSION_NAMES[refused]}" lock`;
  const used = [...unshares].find((permission) => taken(USED_BASE + permission));
  return used === undefined ? undefined : `Failed to get shared "${PERMISSION_NAMES[used]}" lock`;
}

function unlockAll(images: readonly LockedImage[]): void {
  for (const image of images) {
    for (const range of lockRanges(image)) image.file.unlock(range);
  }
}

/** The image's bytes, neighbours as one range. */
function lockRanges({ uses, unshares }: LockedImage): ByteRange[] {
  const bytes = [...uses].map((permission) => USED_BASE + permission);
  bytes.push(...[...unshares].map((permission) => UNSHARED_BASE + permission));
  const ranges: { start: number; lengthBytes: number }[] = [];
  for (const byte of bytes.sort((a, b) => a - b)) {
    const last = ranges.at(-1);
    if (last !== undefined && last.start + last.lengthBytes === byte) last.lengthBytes += 1;
    else ranges.push({ start: byte, lengthBytes: 1 });
  }
  return ranges;
}

function refusalOf(storage: Storage, { image, reason, isPassing = false }: Conflict): Refusal {
  const { path } = image;
  const holders = async () => describeHolders(await storage.findHolders(image.stat));
  return {
    isPassing,
    describe: async () => `'${path}', in use by ${await holders()}`,
    toError: async () => {
      const lock = { failed: reason, holders: await holders() };
      return new ImgtxError("E_LOCKED", `Could not lock '${path}': ${reason}: in use by ${lock.holders}`, {
        image: path,
        doing: "lock",
        lock,
        ...(image.device === undefined ? {} : { device: image.device }),
        hint: "stop the guest or program that uses it, or wait for it with --wait",
      });
    },
  };
}

async function assertStillNamed(storage: Storage, opened: readonly OpenedRequest[]): Promise<void> {
  for (const { request, stat } of opened) {
    const path = pathOf(request);
    const named = await storage.stat(path);
    if (named?.inode === stat.inode && named.fileSystem === stat.fileSystem) continue;
    const what = named === undefined ? "was removed" : "was replaced by another file";
    throw new ImgtxError("E_CHANGED", `'${path}' ${what} while it was being locked`, {
      image: path,
      ...(request.device === undefined ? {} : { device: request.device }),
      hint: "look at what else works on these images, then run the command again",
    });
  }
}

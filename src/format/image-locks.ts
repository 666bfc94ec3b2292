// QEMU's locks on images that must stay as they are: nobody may write to them meanwhile; and on those that are
// changed.

import { ImgtxError } from "../errors/index.ts";
import {
  acquireImageLocks,
  describeHolders,
  type FileStat,
  type LockWaiting,
  type Storage,
  type StorageFile,
} from "../storage/index.ts";

interface ImageToHold {
  readonly file: StorageFile;
  /** What was seen of the file since it was opened. Absent: it is asked for. */
  readonly stat?: FileStat | undefined;
  /** Where the file is found now, if that is not the path that it was opened by. */
  readonly path?: string | undefined;
  /** The device it belongs to, for the error. */
  readonly device?: string | undefined;
  /** Whether it is to be changed: then nobody may read from it either. */
  readonly isWritten?: boolean;
}

/**
 * Locks the whole group, or nothing: E_LOCKED names who writes to one of them. Closing a file gives its
 * locks back.
 */
export async function holdImages(
  storage: Storage,
  images: readonly ImageToHold[],
  waiting: LockWaiting,
): Promise<void> {
  const requests = images.map(({ file, stat, path, device, isWritten }) => ({
    file,
    ...(stat !== undefined && { stat }),
    role: isWritten === true ? ("writer" as const) : ("reader" as const),
    ...(path !== undefined && { path }),
    ...(device !== undefined && { device }),
  }));
  await acquireImageLocks(storage, requests, waiting);
}

const NO_WAIT: LockWaiting = { waitMs: 0, onWait: () => undefined };
const HOLDER_TRIES = 5;
const HOLDER_PAUSE_MS = 10;

/**
 * Who has a file open, locks or no locks, as a clause; undefined where nobody has. Then QEMU's locks on it are held,
 * a writer's, and a lease where there are leases, until the file is closed: who comes meanwhile does not get it. The
 * file is open for reading, and this process has it open nowhere else.
 */
export async function claimUnused(storage: Storage, file: StorageFile): Promise<string | undefined> {
  try {
    await holdImages(storage, [{ file, isWritten: true }], NO_WAIT);
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    if (error.code === "E_CHANGED") return "another file has its name";
    if (error.code !== "E_LOCKED" && error.code !== "E_UNSUPPORTED") throw error;
    // Where there are no locks, who has it open is still to be seen.
    if (error.code === "E_LOCKED") return await sayHolders(storage, file);
  }
  for (let tries = 1; ; tries += 1) {
    // The kernel's word, at once. Where it has none, or somebody has the file open, all of /proc is looked through.
    if (file.takeLease("nobody") === "held") return undefined;
    const isOpen = (await storage.findHolders(await file.stat())).length > 0;
    if (file.takeLease() !== "writers" && !isOpen) return undefined;
    if (tries === HOLDER_TRIES) return await sayHolders(storage, file);
    // A process that is being started has for an instant what its parent has open, this one's children among them.
    file.dropLease();
    await storage.host.sleep(HOLDER_PAUSE_MS);
  }
}

async function sayHolders(storage: Storage, file: StorageFile): Promise<string> {
  return `it is in use by ${describeHolders(await storage.findHolders(await file.stat()))}`;
}

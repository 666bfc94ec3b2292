// QEMU's locks on images that must stay as they are: nobody may write to them meanwhile; and on those that are
// changed.

import { acquireImageLocks, type LockWaiting, type Storage, type StorageFile } from "../storage/index.ts";

interface ImageToHold {
  readonly file: StorageFile;
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
  const requests = images.map(({ file, path, device, isWritten }) => ({
    file,
    role: isWritten === true ? ("writer" as const) : ("reader" as const),
    ...(path !== undefined && { path }),
    ...(device !== undefined && { device }),
  }));
  await acquireImageLocks(storage, requests, waiting);
}

// Opens images that were there before, to write to them after the commit mark, or to take back what was written before.

import type { Workspace } from "../../device/index.ts";
import { elseClosed, unlessItFails } from "../../errors/index.ts";
import { holdImages } from "../../format/index.ts";
import type { LockWaiting, StorageFile } from "../../storage/index.ts";
import { AS_IMAGE } from "./devices.ts";

type Storage = Workspace["storage"];

const NO_WAIT: LockWaiting = { waitMs: 0, onWait: () => undefined };

const OUT_OF_REACH = ["E_LOCKED", "E_NO_PERMISSION", "E_READ_ONLY"] as const;

/** To look at. Undefined where it is not there. */
export async function openUnlessGone(storage: Storage, image: string): Promise<StorageFile | undefined> {
  return await unlessItFails(() => storage.openFile(image, "read", AS_IMAGE), ["E_NOT_FOUND"]);
}

/** For writing. Undefined where somebody has it, or it must not be written to. */
export async function openUnlessOutOfReach(
  storage: Storage,
  image: string,
): Promise<StorageFile | undefined> {
  return await unlessItFails(() => storage.openFile(image, "write", AS_IMAGE), OUT_OF_REACH);
}

/**
 * For writing what is right there already once more: after a failed flush it may be in the page cache alone. Undefined
 * where somebody has the image, or it must not be written to: then that is left to the disk.
 */
export async function openIfFree(storage: Storage, image: string): Promise<StorageFile | undefined> {
  return await unlessItFails(async () => {
    return await elseClosed(await storage.openFile(image, "write", AS_IMAGE), async (file) => {
      await lockWriter(storage, file);
      return file;
    });
  }, OUT_OF_REACH);
}

/** Nobody may have the image open while recovery writes to it. Closing the file gives the locks back. */
export async function lockWriter(
  storage: Storage,
  file: StorageFile,
  waiting: LockWaiting = NO_WAIT,
): Promise<void> {
  await holdImages(storage, [{ file, isWritten: true }], waiting);
}

/** Nobody may write to these while recovery reads them: E_LOCKED where somebody does. Closing gives the locks back. */
export async function openHeld(
  storage: Storage,
  images: readonly string[],
  waiting: LockWaiting = NO_WAIT,
): Promise<StorageFile[]> {
  const files: StorageFile[] = [];
  try {
    for (const image of images) files.push(await storage.openFile(image, "read", AS_IMAGE));
    const readers = files.map((file) => ({ file }));
    await holdImages(storage, readers, waiting);
    return files;
  } catch (error) {
    for (const file of files) await file.close();
    throw error;
  }
}

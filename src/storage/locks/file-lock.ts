// One exclusive lock on imgtx's own files: the workspace, and each journal. The lock is the only test of
// whether a process is alive and at work; it goes with the process, however that ends.

import { ImgtxError } from "../../errors/index.ts";
import { describeHolders } from "../kernel/holders.ts";
import { type LockWaiting, type Refusal, waitForLock } from "./lock-waiting.ts";
import type { ByteRange, Storage, StorageFile } from "../storage.ts";

/**
 * Locks a range of a file that is open for writing; closing the file gives it back. E_BUSY, naming who has
 * it, when the time is up. `what` opens the message: "the workspace". A file that waited may have lost its
 * name to another in the meantime: the caller compares.
 */
export async function lockFile(
  storage: Storage,
  file: StorageFile,
  range: ByteRange,
  waiting: LockWaiting,
  what: string,
): Promise<void> {
  const holders = async () => describeHolders(await storage.findHolders(await file.stat()));
  const refusal: Refusal = {
    describe: async () => `${what}, held by ${await holders()}`,
    toError: async () =>
      new ImgtxError("E_BUSY", `${what} is busy: held by ${await holders()}`, {
        image: file.path,
        hint: "try again when it is done, or wait for it with --wait",
      }),
  };
  await waitForLock(storage.host, waiting, 0, async () =>
    file.lock(range, "exclusive") ? undefined : refusal,
  );
}

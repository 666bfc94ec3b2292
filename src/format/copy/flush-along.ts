// Has the disk begin with what was written, while a copy goes on: the flush at its end finds little to do.

import type { StorageFile } from "../../storage/index.ts";
import type { CopyOptions } from "./copy.ts";

/** More at once keeps the thread that reads waiting for the disk's queue. */
const BEGIN_FLUSH_BYTES = 16 * 1024 * 1024;

/** The throttle of a copy into the file. */
export function flushAlong(
  file: Pick<StorageFile, "beginFlush"> | undefined,
  throttle: CopyOptions["throttle"],
): NonNullable<CopyOptions["throttle"]> {
  let waitingBytes = 0;
  return async (lengthBytes) => {
    await throttle?.(lengthBytes);
    waitingBytes += lengthBytes;
    if (waitingBytes >= BEGIN_FLUSH_BYTES) {
      waitingBytes = 0;
      file?.beginFlush();
    }
  };
}

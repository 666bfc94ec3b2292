// Waits until files are older than the grain of their times, so that what is written to them from then on shows.
// Tests of what imgtx says without a doubt need that: on a fast machine a file is used in the moment it was made.

import { setTimeout as sleep } from "node:timers/promises";
import { makeNodeStorage } from "../../src/storage/index.ts";

const PAUSE_MS = 3;
/** Where it takes longer, the file system has whole seconds, or no times to go by. */
const MOST_PAUSES = 10;

export async function untilSettled(...files: readonly string[]): Promise<void> {
  const storage = makeNodeStorage();
  let pauses = 0;
  for (const file of files) {
    const isWritten = async () => {
      const stat = await storage.stat(file);
      return stat?.kind === "file" && !stat.settled;
    };
    while (pauses < MOST_PAUSES && (await isWritten())) {
      await sleep(PAUSE_MS);
      pauses += 1;
    }
  }
}

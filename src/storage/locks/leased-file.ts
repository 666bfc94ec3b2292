// Files on which another program has a lease: a file server's, for what a client of its has open (smbd's oplocks,
// nfsd's delegations), or imgtx's own for an instant of a commit.
//
// An open that does not wait (O_NONBLOCK, for FIFOs) fails on such a file, and asks for the lease by that. It is
// given back within milliseconds; else the kernel takes it away, after a while (fs.lease-break-time, 45 s).

import { setTimeout as sleep } from "node:timers/promises";
import { ImgtxError } from "../../errors/index.ts";
import { errnoName } from "../system-error.ts";

const PATIENCE_MS = 5_000;
const PAUSE_MS = 10;

/** Opens, and again while a lease is in the way. E_BUSY where it is not given back in time. */
export async function openPastLeases(path: string, open: () => number): Promise<number> {
  const end = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      return open();
    } catch (error) {
      if (!(error instanceof ImgtxError) || errnoName(error.cause) !== "EAGAIN") throw error;
      if (performance.now() >= end) throw leased(path, error.cause);
    }
    await sleep(PAUSE_MS);
  }
}

function leased(path: string, cause: unknown): ImgtxError {
  const reason = "another program has a lease on it, and keeps it";
  return new ImgtxError("E_BUSY", `Could not open '${path}': ${reason}`, {
    image: path,
    doing: "open",
    reason,
    hint: "it may be a file server, for a client that has the file open: close it there, or run the command again in a minute, when the kernel has taken the lease away",
    cause,
  });
}

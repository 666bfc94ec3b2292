// Holds copies to a rate, as `-r` and `--rate-limit` ask for.

import type { Host } from "../storage/index.ts";

/** How long a burst may be before the copy has to wait. */
const BURST_MS = 100;
/** An interrupt is seen within this. */
const SLEEP_MS_MAX = 100;

/**
 * Resolves when so many bytes more may be written. Undefined without a limit. An interrupt ends the limit: what is
 * taken back then, or can't be left half done, is not to be waited for.
 */
export function makeThrottle(
  bytesPerSecond: number | undefined,
  host: Pick<Host, "monotonicMs" | "sleep">,
  signal?: AbortSignal,
): ((lengthBytes: number) => Promise<void>) | undefined {
  if (bytesPerSecond === undefined) return undefined;
  let freeAt = host.monotonicMs();
  return async (lengthBytes) => {
    const now = host.monotonicMs();
    const waitUntil = freeAt;
    freeAt = Math.max(freeAt, now) + (lengthBytes * 1000) / bytesPerSecond;
    if (waitUntil - now <= BURST_MS) return;
    for (let left = waitUntil - now; left > 0; left = waitUntil - host.monotonicMs()) {
      if (signal?.aborted === true) return;
      await host.sleep(Math.min(left, SLEEP_MS_MAX));
    }
  };
}

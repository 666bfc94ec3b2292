// Holds a copy to a rate, as `-r` asks for.

import type { Host } from "../../storage/index.ts";

/** How long a burst may be before the copy has to wait. */
const BURST_MS = 100;
/** An interrupt is seen within this. */
const SLEEP_MS_MAX = 100;

/** Resolves when so many bytes more may be written, and rejects at an interrupt. Undefined without a limit. */
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
      await host.sleep(Math.min(left, SLEEP_MS_MAX));
      signal?.throwIfAborted();
    }
  };
}

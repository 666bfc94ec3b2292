// Holds a copy to a rate, as `-r` asks for.

import type { Host } from "../../storage/index.ts";

/** How long a burst may be before the copy has to wait. */
const BURST_MS = 100;

/** Resolves when so many bytes more may be written. Undefined without a limit. */
export function makeThrottle(
  bytesPerSecond: number | undefined,
  host: Pick<Host, "now" | "sleep">,
): ((lengthBytes: number) => Promise<void>) | undefined {
  if (bytesPerSecond === undefined) return undefined;
  let freeAt = host.now();
  return async (lengthBytes) => {
    const now = host.now();
    const waitMs = freeAt - now;
    freeAt = Math.max(freeAt, now) + (lengthBytes * 1000) / bytesPerSecond;
    if (waitMs > BURST_MS) await host.sleep(waitMs);
  };
}

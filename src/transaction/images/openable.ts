// What imgtx takes for a device, QEMU opens: the guest is to run on it.

import { withPlace } from "../../errors/index.ts";
import { type Chain, requireOpenable } from "../../format/index.ts";

/** E_CORRUPT for a chain that imgtx could read, and QEMU does not open. */
export async function assertQemuOpens(device: string, chain: Chain): Promise<void> {
  await withPlace({ device }, async () => {
    await requireOpenable(chain);
  });
}

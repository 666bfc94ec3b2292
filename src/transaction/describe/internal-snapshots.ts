// The internal snapshots of devices, for results. Reads only, and takes no lock.

import { canonicalPath, gateOf, readTable, requireDevice, trustedBy } from "../../device/index.ts";
import { withPlace, whileOpen } from "../../errors/index.ts";
import { openChain, readSnapshotTable, type SnapshotEntry } from "../../format/index.ts";
import type { Session } from "../requests/request.ts";

export interface DeviceSnapshots {
  readonly device: string;
  readonly image: string;
  /** In the order of the image's table. */
  readonly snapshots: readonly SnapshotEntry[];
}

/** Of the named devices, or of all. E_NO_DEVICE; the errors of openChain. */
export async function listInternalSnapshots(
  { workspace, currentFolder }: Session,
  names: readonly string[],
): Promise<readonly DeviceSnapshots[]> {
  const { storage } = workspace;
  const table = await readTable(workspace);
  const entries = names.length === 0 ? table.devices : names.map((name) => requireDevice(table, name));
  const listed: DeviceSnapshots[] = [];
  for (const entry of entries) {
    const { name: device, image, format } = entry;
    const allowPaths = [...table.allowPaths, ...trustedBy(entry)];
    await withPlace({ device }, async () => {
      const path = await canonicalPath(storage, image);
      const gate = gateOf(workspace, { allowPaths, device, currentFolder });
      await whileOpen(await openChain(storage, path, { format, gate, backing: false }), async (chain) => {
        const [top] = chain.links;
        listed.push({ device, image, snapshots: top ? (await readSnapshotTable(top)).entries : [] });
      });
    });
  }
  return listed;
}

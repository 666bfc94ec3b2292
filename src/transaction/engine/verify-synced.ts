// Reads mirrors back after what brought them in sync was copied into them, and compares them with their devices: a copy
// that went wrong, or a disk that does not keep what it was given, shows in nothing else.

import { type DeviceTable, findDevice, trustedBy } from "../../device/index.ts";
import { ImgtxError, whileOpen } from "../../errors/index.ts";
import { openImage } from "../../format/index.ts";
import { verifiedBy } from "../actions/index.ts";
import type { PlanRecord } from "../journal/index.ts";
import { verifyCopy } from "../actions/plan/mirroring.ts";
import type { ActionRequest } from "../requests/request.ts";
import type { Work } from "./work.ts";

/**
 * Of mirrors whose request says so, and that were copied into. The command still holds its locks on all of them.
 * E_IO, with what was committed, where one differs.
 */
export async function verifySynced(
  work: Work,
  requests: readonly ActionRequest[],
  plans: readonly PlanRecord[],
  table: DeviceTable,
): Promise<void> {
  const synced = new Set(plans.flatMap(({ copies }) => copies.map(({ into }) => into)));
  for (const request of requests) {
    for (const device of verifiedBy(request)) {
      const image = findDevice(table, device)?.mirror?.image;
      if (image !== undefined && synced.has(image)) await verifyOne(work, table, device);
    }
  }
}

async function verifyOne(work: Work, table: DeviceTable, device: string): Promise<void> {
  const entry = findDevice(table, device);
  if (!entry?.mirror) return;
  const { storage } = work.workspace;
  const gate = work.images.gateWith({
    allowPaths: [
      ...table.allowPaths,
      ...work.options.allowPaths,
      ...trustedBy(entry),
      ...[...entry.chain, ...entry.mirror.chain].map(({ image }) => image),
    ],
  });
  const { image: path, format } = entry.mirror;
  const { signal, onProgress } = work.options;
  const watching = { signal, onProgress };
  try {
    await whileOpen(await openImage(storage, entry.image, { format: entry.format, gate }), async (source) => {
      await verifyCopy(source, { device, path, format }, { storage, gate }, watching);
    });
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    throw error.reworded(`it was brought in sync, and committed; then ${error.message}`, {
      device,
      image: error.image ?? path,
      changed: true,
      hint: `look at the kernel's log; \`imgtx mirror ${device} --verify\` compares both, and mends the mirror`,
    });
  }
}

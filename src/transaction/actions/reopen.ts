// reopen: the device takes another image as its active layer. No image is written to, but that the fence of a
// frozen device moves along.

import { requireDevice } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { formatBytes } from "../../units/index.ts";
import { type Action, MAKES_NO_FILES } from "../action.ts";
import { activeLayer, deviceEntryOf } from "../chain-entry.ts";
import { moveFreeze } from "../fencing.ts";
import type { ReopenRequest } from "../request.ts";

export const reopen: Action<ReopenRequest> = {
  async plan({ device, file, format, force }, context) {
    const entry = requireDevice(context.table, device);
    const path = await context.canonicalPath(file, device);
    const present = await context.openChain(entry.image, entry.format, device);
    const chosen = await context.openChain(path, format, device);
    const [before, after] = [activeLayer(present), activeLayer(chosen)];
    if (before.virtualSizeBytes !== after.virtualSizeBytes && !force) {
      throw new ImgtxError(
        "E_REFUSED",
        `the virtual sizes differ: ${size(before.virtualSizeBytes)} now, ${size(after.virtualSizeBytes)} in the other image`,
        { device, image: path, hint: "take it nevertheless with --force" },
      );
    }
    const moved = entry.frozen ? await moveFreeze(entry, { present, chosen }, context) : undefined;
    const fresh = deviceEntryOf(device, chosen);
    const frozen = entry.frozen && moved ? { ...entry.frozen, fences: moved.fences } : null;
    return {
      ...MAKES_NO_FILES,
      devices: [device],
      reports: [
        {
          kind: "reopen",
          device,
          before: entry.image,
          after: path,
          format: after.format,
          files: moved?.files ?? [],
          notes: [
            ...(moved?.notes ?? []),
            ...chosen.links.flatMap((link) => link.warnings),
            `'${device}' has the content of the other image from now on; nothing was compared or copied`,
          ],
        },
      ],
      changes: [{ device, after: { ...fresh, frozen } }],
      allowPaths: [],
      patches: moved?.patches ?? [],
      chains: [
        { device, chain: present },
        { device, chain: chosen },
      ],
    };
  },
};

function size(bytes: number): string {
  return `${formatBytes(bytes)} (${bytes} bytes)`;
}

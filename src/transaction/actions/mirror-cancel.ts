// mirror --cancel: devices forget their mirrors, whose files stay, and unfinished copies are removed.

import { type DeviceEntry, requireDevice } from "../../device/index.ts";
import { type Action, assertNamedOnce, MAKES_NO_FILES } from "../action.ts";
import { requireMirror } from "../mirroring.ts";
import type { ActionReport, MirrorCancelRequest } from "../request.ts";

export const mirrorCancel: Action<MirrorCancelRequest> = {
  plan({ devices }, context) {
    assertNamedOnce(devices);
    const entries = devices.map((device) => requireDevice(context.table, device));
    return Promise.resolve({
      ...MAKES_NO_FILES,
      devices,
      reports: entries.map((entry) => cancelReport(entry, context.unfinished.has(entry.name))),
      changes: entries.flatMap((entry) =>
        entry.mirror ? [{ device: entry.name, after: { ...entry, mirror: null } }] : [],
      ),
      allowPaths: [],
      chains: [],
    });
  },
};

function cancelReport(entry: DeviceEntry, isUnfinished: boolean): ActionReport {
  const { name: device, image, format } = entry;
  const kept = entry.mirror ?? (isUnfinished ? undefined : requireMirror(entry));
  return {
    kind: "mirror-cancel",
    device,
    before: image,
    after: image,
    format,
    files: [],
    notes: [
      ...(isUnfinished ? ["its unfinished copy is removed"] : []),
      ...(kept ? [`${kept.image} stays as it is, and is the mirror of '${device}' no more`] : []),
    ],
  };
}

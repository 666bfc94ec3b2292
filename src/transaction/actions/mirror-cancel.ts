// mirror --cancel: devices forget their mirrors, whose files stay, and unfinished copies are removed.

import { type DeviceEntry, requireDevice } from "../../device/index.ts";
import { type Action, assertNamedOnce, MAKES_NO_FILES } from "./plan/action.ts";
import type { PlannedReport } from "../journal/index.ts";
import type { Chain } from "../../format/index.ts";
import { requireMirror } from "./plan/mirroring.ts";
import type { ImageChange } from "../images/redo.ts";
import { planUntracking } from "./plan/tracking.ts";
import type { MirrorCancelRequest } from "../requests/request.ts";

export const mirrorCancel: Action<MirrorCancelRequest> = {
  saying: {
    noun: "forgetting of the mirror",
    done: "mirror forgotten",
    planned: "mirror would be forgotten",
  },
  endsCopies: true,

  async plan({ devices }, context) {
    assertNamedOnce(devices);
    const unfinished = await context.readUnfinished();
    const entries = devices.map((device) => requireDevice(context.table, device));
    const tracked: { device: string; chain: Chain; redo: readonly ImageChange[] }[] = [];
    for (const { name: device, image, format, mirror } of entries) {
      if (!mirror || mirror.bitmap === null) continue;
      const chain = await context.openChain(image, format, device);
      tracked.push({ device, chain, redo: await planUntracking(device, chain, mirror) });
    }
    return {
      ...MAKES_NO_FILES,
      redo: tracked.flatMap(({ redo }) => redo),
      devices,
      reports: entries.map((entry) => cancelReport(entry, unfinished.has(entry.name))),
      changes: entries.flatMap((entry) =>
        entry.mirror ? [{ device: entry.name, after: { ...entry, mirror: null } }] : [],
      ),
      allowPaths: [],
      chains: tracked,
    };
  },
};

function cancelReport(entry: DeviceEntry, isUnfinished: boolean): PlannedReport {
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
      ...(isUnfinished ? [{ code: "unfinished copy removed" } as const] : []),
      ...(kept ? [{ code: "mirror left", image: kept.image, device } as const] : []),
    ],
  };
}

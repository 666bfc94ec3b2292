// imgtx snapshot DEV FILE

import type { ActionCommand } from "../grammar/definition.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { OVERLAY_OPTIONS, readOverlayOptions, readRelative } from "./overlay-options.ts";

export const snapshot: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [
      { name: "DEV", about: "the device", completes: "device" },
      { name: "FILE", about: "the new overlay; it must not exist", completes: "file" },
    ],
    options: [
      {
        long: "format",
        value: { name: "FORMAT", completes: ["qcow2"] },
        about: "format of the overlay: qcow2, which is the default",
      },
      ...OVERLAY_OPTIONS,
    ],
    about:
      "Makes FILE, an empty overlay whose backing file is the device's active layer, and makes it the " +
      "active layer. From then on the old one is not written to: it is the snapshot. Nobody may have the " +
      "image open for writing meanwhile.",
    examples: [
      {
        command: "imgtx snapshot vda before-upgrade.qcow2",
        about: "what is written from now on goes to the new file",
      },
      {
        command: "imgtx snapshot vda --relative layers/vda-2.qcow2",
        about: "a chain that can be moved together with its folder",
      },
      {
        command: "imgtx snapshot vda next.qcow2 -o cluster_size=128k,extended_l2=on",
        about: "another layout than the image below has",
      },
    ],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({
    kind: "snapshot",
    targets: [
      {
        device: input.argument("DEV"),
        file: input.path("FILE"),
        format: input.text("--format") ?? "qcow2",
      },
    ],
    relative: readRelative(input),
    reuse: input.flag("--reuse"),
    overlay: readOverlayOptions(input),
    bitmap: input.text("--bitmap"),
  }),
};

// imgtx snapshot DEV [FILE]

import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { confirmOverwritten } from "./confirm.ts";
import { OVERLAY_OPTIONS, readSnapshotOptions, SNAPSHOT_OPTIONS } from "./overlay-options.ts";

export const snapshot: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [
      { name: "DEV", about: "the device", completes: "device" },
      {
        name: "FILE",
        about:
          "the new overlay, which must not exist; else it is named after image and snapshot, beside the image",
        optional: true,
        completes: "file",
      },
    ],
    options: [
      ...SNAPSHOT_OPTIONS,
      {
        long: "format",
        value: { name: "FORMAT", completes: ["qcow2"] },
        about: "format of the overlay: qcow2, which is the default",
      },
      ...OVERLAY_OPTIONS,
    ],
    about:
      "Keeps what the device is at this moment: its active layer is sealed, and a new overlay over it, which is " +
      "empty, takes up what is written from now on. Nobody may have the image open for writing meanwhile. " +
      "`imgtx rollback` goes back to a snapshot, `imgtx snapshot-list` lists them.",
    examples: [
      {
        command: "imgtx snapshot vda --name before-upgrade",
        about: "what is written from now on goes to disk-after-before-upgrade.qcow2, beside disk.qcow2",
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
        file: input.text("FILE") === undefined ? undefined : input.path("FILE"),
        format: input.text("--format") ?? "qcow2",
      },
    ],
    ...readSnapshotOptions(input),
  }),
  confirm: confirmOverwritten,
};

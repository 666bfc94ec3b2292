// imgtx device add NAME FILE

import type { ActionCommand } from "../grammar/definition.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";

export const deviceAdd: ActionCommand = {
  kind: "action",
  standalone: true,
  createsWorkspace: true,
  definition: {
    arguments: [
      { name: "NAME", about: "the device's name, such as vda", completes: "nothing" },
      { name: "FILE", about: "the image on top of its chain", completes: "file" },
    ],
    options: [
      {
        long: "format",
        value: { name: "FORMAT", completes: ["qcow2", "raw"] },
        about: "format of FILE; raw is never guessed",
      },
    ],
    about:
      "Gives an image a device name. The image is opened with its whole chain, and not changed. Where " +
      "there is no workspace upwards from here, one is made in this folder. With --allow-path the folder " +
      "is trusted for raw backing images from then on.",
    examples: [
      { command: "imgtx device add vda disk.qcow2", about: "the format is recognised" },
      { command: "imgtx device add vdb data.img --format raw", about: "a raw image has to be called raw" },
      {
        command: "imgtx device add vdc c.qcow2 --allow-path /srv/golden",
        about: "its raw backing image is in another folder",
      },
    ],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({
    kind: "device-add",
    device: input.argument("NAME"),
    file: input.path("FILE"),
    format: input.text("--format"),
    allowPaths: input.allowPaths,
  }),
};

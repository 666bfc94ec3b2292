// imgtx reopen DEV FILE

import type { ActionCommand } from "../grammar/definition.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";

export const reopen: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [
      { name: "DEV", about: "the device", completes: "device" },
      { name: "FILE", about: "the image to point it to", completes: "file" },
    ],
    options: [
      {
        long: "format",
        value: { name: "FORMAT", completes: ["qcow2", "raw"] },
        about: "format of FILE; raw is never guessed",
      },
      {
        long: "force",
        about: "allow an image of another virtual size, or to leave one that can't be opened",
      },
    ],
    about:
      "Points a device to another image. The device's mirror is checked to be in sync with it, and brought in " +
      "sync at the commit. Any other FILE gives the device another content: neither image is changed, and " +
      "nothing is compared; FILE must open with its whole chain, and have the virtual size that the device has.",
    examples: [
      { command: "imgtx reopen vda copy.qcow2", about: "go on with a copy of the disk" },
      { command: "imgtx reopen vdb data.img --format raw", about: "a raw image has to be called raw" },
      { command: "imgtx reopen vda /new/vda.qcow2", about: "go over to the mirror that vda has there" },
    ],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({
    kind: "reopen",
    device: input.argument("DEV"),
    file: input.path("FILE"),
    format: input.text("--format"),
    force: input.flag("--force"),
  }),
};

// imgtx reopen DEV FILE

import { ImgtxError } from "../../errors/index.ts";
import type { ActionCommand } from "../running/command.ts";
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
      {
        long: "shell",
        about: "make FILE: a qcow2 image around the raw disk, which stays its data file",
      },
    ],
    about:
      "Points a device to another image. The device's mirror is checked to be in sync with it, and brought in " +
      "sync at the commit. Any other FILE gives the device another content: neither image is changed, and " +
      "nothing is compared; FILE must open with its whole chain, and have the virtual size that the device has. " +
      "With --shell FILE is made around the raw disk that the device is on: the same disk, with a place for bitmaps.",
    examples: [
      { command: "imgtx reopen vda copy.qcow2", about: "go on with a copy of the disk" },
      { command: "imgtx reopen vdb data.img --format raw", about: "a raw image has to be called raw" },
      { command: "imgtx reopen vda /new/vda.qcow2", about: "go over to the mirror that vda has there" },
      {
        command: "imgtx reopen vdb data.qcow2 --shell",
        about: "have bitmaps mark what is written to a raw disk",
      },
    ],
    exits: CHANGING_EXITS,
  },
  request(input) {
    const [format, asShell] = [input.text("--format"), input.flag("--shell")];
    if (asShell && format !== undefined) {
      throw new ImgtxError("E_USAGE", "--shell makes a qcow2 image: leave --format out");
    }
    return {
      kind: "reopen",
      device: input.argument("DEV"),
      file: input.path("FILE"),
      format,
      force: input.flag("--force"),
      ...(asShell && { asShell }),
    };
  },
};

// imgtx migrate DEV DEST --new-source FILE

import { ImgtxError } from "../../errors/index.ts";
import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { confirmOverwritten } from "./confirm.ts";

const FORMAT = { name: "FORMAT", completes: ["qcow2"] } as const;

export const migrate: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [
      { name: "DEV", about: "the device", completes: "device" },
      { name: "DEST", about: "the overlay's twin, in the new place; it must not exist", completes: "file" },
    ],
    options: [
      {
        long: "new-source",
        value: { name: "FILE", completes: "file" },
        about: "the new overlay, where the device is now; it must not exist",
      },
      { long: "dest-format", value: FORMAT, about: "format of DEST: qcow2, which is the default" },
      { long: "source-format", value: FORMAT, about: "format of FILE: qcow2, which is the default" },
      {
        long: "overwrite",
        about:
          "write over what is on FILE and DEST, where they are block devices; one that begins with a MiB of zeros is " +
          "taken without",
      },
      { long: "relative", about: "store the backing file's name in FILE relative to its folder" },
    ],
    about:
      "Begins to move a device's chain to another place. In one step the device gets a new overlay, FILE, " +
      "which takes its writes from now on, and DEST becomes the overlay's twin and the device's mirror. DEST " +
      "names its backing image relative to its own folder: `imgtx mirror DEV` copies the chain there, while " +
      "a guest writes to FILE. `imgtx reopen DEV DEST` brings DEST in sync, and changes over.",
    examples: [
      {
        command: "imgtx migrate vda /new/top.qcow2 --new-source /old/top.qcow2",
        about: "the first step: writes go to /old/top.qcow2",
      },
      { command: "imgtx mirror vda", about: "the second: the chain below is copied to /new" },
      { command: "imgtx reopen vda /new/top.qcow2", about: "the last: vda is in /new" },
    ],
    exits: CHANGING_EXITS,
  },
  request(input) {
    const newSource = input.text("--new-source");
    if (newSource === undefined) {
      throw new ImgtxError("E_USAGE", "--new-source is missing: it names the device's new overlay", {
        hint: "for example: imgtx migrate vda /new/top.qcow2 --new-source /old/top.qcow2",
      });
    }
    return {
      kind: "migrate",
      device: input.argument("DEV"),
      dest: input.path("DEST"),
      destFormat: input.text("--dest-format") ?? "qcow2",
      newSource: input.resolve(newSource),
      sourceFormat: input.text("--source-format") ?? "qcow2",
      relative: input.flag("--relative"),
      ...(input.flag("--overwrite") && { overwrite: true }),
    };
  },
  confirm: confirmOverwritten,
};

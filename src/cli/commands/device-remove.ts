// imgtx device remove NAME

import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";

export const deviceRemove: ActionCommand = {
  kind: "action",
  standalone: true,
  definition: {
    arguments: [{ name: "NAME", about: "the device", completes: "device" }],
    options: [],
    about: "Takes a device out of the table. Its images stay as they are.",
    examples: [{ command: "imgtx device remove vdb", about: "`imgtx undo` brings it back" }],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({ kind: "device-remove", device: input.argument("NAME") }),
};

// imgtx device rename OLD NEW

import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";

export const deviceRename: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [
      { name: "OLD", about: "the device", completes: "device" },
      { name: "NEW", about: "the name that it gets", completes: "nothing" },
    ],
    options: [],
    about:
      "Gives a device another name. Its images stay where they are, and its snapshots, its history and its mirror are " +
      "found by the new name. Two devices change names through a third, in one transaction.",
    examples: [
      { command: "imgtx device rename vdb data", about: "devices/vdb is devices/data from then on" },
    ],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({
    kind: "device-rename",
    device: input.argument("OLD"),
    name: input.argument("NEW"),
  }),
};

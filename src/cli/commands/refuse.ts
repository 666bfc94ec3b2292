// imgtx refuse [DEV]: an action that always fails, for tests of what becomes of the actions before it.

import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";

export const refuse: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [{ name: "DEV", about: "a device to hold", optional: true, completes: "device" }],
    options: [],
    about: "Prepares like any action, and then refuses.",
    examples: [],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({ kind: "refuse", device: input.text("DEV") }),
};

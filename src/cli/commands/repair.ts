// imgtx repair DEV …

import type { ActionCommand } from "../grammar/definition.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";

const SCOPES = ["leaks", "all"];

export const repair: ActionCommand = {
  kind: "action",
  standalone: false,
  createsWorkspace: false,
  definition: {
    arguments: [{ name: "DEV", about: "the devices", variadic: true, completes: "device" }],
    options: [
      {
        long: "repair",
        short: "r",
        value: { name: "WHAT", completes: SCOPES, choices: SCOPES },
        about: "leaks: only lost space; all: errors too, which is the default",
      },
    ],
    about:
      "Sets refcounts, and the flags that depend on them, right in the active layers of devices, as qemu-img check -r " +
      "does, all of them or none. What is changed is listed first with --dry-run, or prepared in a transaction. An " +
      "entry that can't be true stays, and nothing that it may have led to is given away.",
    examples: [
      { command: "imgtx repair --dry-run vda", about: "each change, with nothing written" },
      { command: "imgtx repair vda vdb -r leaks", about: "give lost space back, and nothing else" },
    ],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({
    kind: "repair",
    devices: input.texts("DEV"),
    scope: input.text("--repair") === "leaks" ? "leaks" : "all",
  }),
};

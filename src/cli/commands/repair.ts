// imgtx repair DEV …

import { ImgtxError } from "../../errors/index.ts";
import type { ActionCommand } from "../running/command.ts";
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
      {
        long: "keep-undo",
        value: { name: "FILE", completes: "file" },
        about: "keep in FILE, which must not exist, what takes the repair of DEV back after its commit",
      },
      {
        long: "undo",
        value: { name: "FILE", completes: "file" },
        about: "take the repair back that FILE was kept of, where the image is still what that left",
      },
    ],
    about:
      "Sets refcounts, and the flags that depend on them, right in the active layers of devices, as qemu-img check -r " +
      "does, all of them or none. What is changed is listed first with --dry-run, or prepared in a transaction. An " +
      "entry that can't be true stays, and nothing that it may have led to is given away.",
    examples: [
      { command: "imgtx repair --dry-run vda", about: "each change, with nothing written" },
      { command: "imgtx repair vda vdb -r leaks", about: "give lost space back, and nothing else" },
      { command: "imgtx repair vda --keep-undo /backup/vda.undo", about: "with a way back" },
      { command: "imgtx repair vda --undo /backup/vda.undo", about: "take that repair back" },
    ],
    exits: CHANGING_EXITS,
  },
  request(input) {
    const devices = input.texts("DEV");
    const [scope, keepUndo, undo] = ["--repair", "--keep-undo", "--undo"].map((flag) => input.text(flag));
    if (undo === undefined) {
      return {
        kind: "repair",
        devices,
        scope: scope === "leaks" ? "leaks" : "all",
        keepUndo: keepUndo === undefined ? undefined : input.resolve(keepUndo),
      };
    }
    const [device = "", other] = devices;
    if (other !== undefined || scope !== undefined || keepUndo !== undefined) {
      throw new ImgtxError("E_USAGE", "--undo takes one device, and goes with no other option of a repair");
    }
    return { kind: "repair-undo", device, file: input.resolve(undo) };
  },
};

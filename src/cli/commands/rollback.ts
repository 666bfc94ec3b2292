// imgtx rollback [DEV …] [--to SNAPSHOT]

import { ImgtxError } from "../../errors/index.ts";
import type { RollbackRequest } from "../../transaction/index.ts";
import type { ActionCommand } from "../grammar/definition.ts";
import { confirm } from "./confirm.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import type { CommandInput } from "../grammar/input.ts";

export const rollback: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [
      {
        name: "DEV",
        about: "the devices that go back; else all that the snapshot keeps",
        optional: true,
        variadic: true,
        completes: "device",
      },
    ],
    options: [
      {
        long: "to",
        value: { name: "SNAPSHOT", completes: "snapshot" },
        about: "its name or number, or a time, local unless it says a zone; else the newest of the devices",
      },
      {
        long: "discard",
        about:
          "remove what is left, where imgtx made it and nothing stands on it, and keep no snapshot of it",
      },
      {
        long: "with-files",
        value: { name: "DIR", completes: "folder" },
        about: "give the files that the snapshot keeps (--with) back into that folder, in the same commit",
      },
      {
        long: "overwrite",
        about: "let these be written over files that are there; what those hold is kept with what is left",
      },
    ],
    about:
      "Goes back to what a snapshot keeps of devices: each gets a new overlay over its sealed image, all in one " +
      "generation. What was active is kept as a snapshot of its own, `before rollback to ...`, so that going " +
      "forward again is the same command. No image is written to, and other devices stay where they are.",
    examples: [
      { command: "imgtx rollback", about: "to the newest snapshot" },
      { command: "imgtx rollback vda --to before-upgrade", about: "one device, to a snapshot by its name" },
      {
        command: "imgtx rollback --to monday --with-files /var/lib/libvirt/qemu/nvram --overwrite",
        about: "with the firmware's variables, over those of now",
      },
      { command: "imgtx rollback --to '2026-11-27 04:00'", about: "to the newest that is as old as that" },
    ],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({
    kind: "rollback",
    devices: input.texts("DEV"),
    to: input.text("--to"),
    isDiscarding: input.flag("--discard"),
    ...readFiles(input),
  }),
  async confirm(invocation) {
    if (!invocation.input.flag("--discard")) return;
    await confirm(invocation, "What the devices hold now, and no snapshot keeps, is removed.");
  },
};

function readFiles(input: CommandInput): Pick<RollbackRequest, "filesTo" | "overwrites"> {
  const folder = input.text("--with-files");
  const overwrites = input.flag("--overwrite");
  if (overwrites && folder === undefined) {
    throw new ImgtxError("E_USAGE", "--overwrite is about the files that --with-files DIR gives back", {
      hint: "say --with-files DIR as well",
    });
  }
  return folder === undefined ? {} : { filesTo: input.resolveFolder(folder), overwrites };
}

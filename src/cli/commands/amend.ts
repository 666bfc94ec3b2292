// imgtx amend DEV … -o OPTIONS

import { ImgtxError } from "../../errors/index.ts";
import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { AMENDABLE, readAmendment } from "../img/commands/amendment.ts";
import { parseOptionLists } from "../img/grammar/option-list.ts";
import { asUsage } from "./image-options.ts";

export const amend: ActionCommand = {
  kind: "action",
  standalone: false,
  createsWorkspace: false,
  definition: {
    arguments: [{ name: "DEV", about: "the devices", variadic: true, completes: "device" }],
    options: [
      {
        short: "o",
        value: {
          name: "KEY=VALUE,...",
          completes: AMENDABLE,
        },
        repeatable: true,
        about:
          "in qemu-img's words: compat, lazy_refcounts, refcount_bits, size, data_file, data_file_raw, " +
          "backing_file, backing_fmt",
      },
    ],
    about:
      "Gives the active layers of devices other properties, as qemu-img amend does: version 2 or 3 of the format, the " +
      "width of refcounts, lazy refcounts, a larger size, another name of the data file. What the guest sees stays. " +
      "Refused is what would lose something: bitmaps in version 2, a smaller disk, another data file.",
    examples: [
      { command: "imgtx amend vda vdb -o compat=1.1", about: "from version 2 to 3, both or neither" },
      { command: "imgtx amend vda -o refcount_bits=64,lazy_refcounts=on", about: "several at once" },
    ],
    exits: CHANGING_EXITS,
  },
  request(input) {
    const lists = input.texts("-o");
    if (lists.length === 0) {
      throw new ImgtxError("E_USAGE", "No options specified", { hint: "-o says what is to be amended" });
    }
    try {
      const wish = readAmendment(parseOptionLists(lists));
      return { kind: "amend", devices: input.texts("DEV"), ...wish };
    } catch (error) {
      throw asUsage(error, "`imgtx img amend -f qcow2 -o help` lists the options");
    }
  },
};

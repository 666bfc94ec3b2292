// imgtx device trust NAME FOLDER

import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";

export const deviceTrust: ActionCommand = {
  kind: "action",
  standalone: true,
  definition: {
    arguments: [
      { name: "NAME", about: "the device", completes: "device" },
      { name: "FOLDER", about: "the folder, or a single file", completes: "file" },
    ],
    options: [],
    about:
      "Keeps an --allow-path for one device: raw backing images and external data files in FOLDER and below are " +
      "followed from then on, where an image of the device leads there. A raw image that was added as a device, or " +
      "reopened to, is trusted without it.",
    examples: [
      {
        command: "imgtx device trust vda /srv/golden",
        about: "the raw base of vda's chain may lie in there",
      },
    ],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({
    kind: "device-trust",
    device: input.argument("NAME"),
    place: input.resolveFolder(input.argument("FOLDER")),
  }),
};

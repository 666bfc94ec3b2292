// imgtx pull DEV … [--base IMAGE]

import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { RATE_LIMIT } from "./rate-limit.ts";

export const pull: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [{ name: "DEV", about: "the devices", variadic: true, completes: "device" }],
    options: [
      {
        long: "base",
        value: { name: "IMAGE", completes: "file" },
        about: "the image of the chain that stays below; without it none does",
      },
      RATE_LIMIT,
    ],
    about:
      "Brings what the images below a device's active layer hold up into it, down to IMAGE, which it stands on from " +
      "then on; without --base all of it, and it stands on nothing. The device shows what it showed. The images that " +
      "it leaves stay as they are, and so does what other overlays show of them.",
    examples: [
      { command: "imgtx pull vda", about: "one image, which stands on nothing" },
      {
        command: "imgtx pull vda --base base.qcow2",
        about: "a chain of two: the active layer, and base.qcow2",
      },
      { command: "imgtx pull vda vdb --dry-run", about: "what it would do to two disks" },
    ],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({
    kind: "pull",
    devices: input.texts("DEV"),
    base: input.text("--base") === undefined ? undefined : input.path("--base"),
  }),
};

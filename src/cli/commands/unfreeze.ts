// imgtx unfreeze DEV …

import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";

export const unfreeze: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [{ name: "DEV", about: "the devices", variadic: true, completes: "device" }],
    options: [
      {
        long: "force",
        about: "lift a fence that is not known here, too, or let go of an image that is lost",
      },
    ],
    about:
      "Ends what `imgtx freeze` began: the fences are lifted, and the images are byte by byte, with their " +
      "times, what they were. Says which images were written to meanwhile all the same. A fence that " +
      "another workspace set, which may be lost, is lifted with --force only: imgtx can't tell then who " +
      "relied on it, nor whether the image was changed, and its time stays.",
    examples: [
      { command: "imgtx unfreeze vda vdb", about: "QEMU may open both again" },
      { command: "imgtx unfreeze --force vdc", about: "an image that came with a fence" },
    ],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({ kind: "unfreeze", devices: input.texts("DEV"), force: input.flag("--force") }),
};

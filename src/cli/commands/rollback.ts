// imgtx rollback

import type { ActionCommand } from "../grammar/definition.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";

export const rollback: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [],
    options: [
      {
        long: "to",
        value: { name: "GENERATION", completes: "nothing" },
        about: "the generation to go back to; else the one before the present one",
      },
      {
        long: "force",
        about: "go back though it can't be told whether somebody wrote to the images meanwhile",
      },
    ],
    about:
      "Gives each device the image that it had in an earlier generation. Only the table moves, as a new " +
      "generation: no image is changed or removed, so a rollback can be rolled back. It is refused when an " +
      "image of that generation is no longer what it was. Freezes and mirrors are not taken back.",
    examples: [
      { command: "imgtx rollback", about: "take the last change back" },
      { command: "imgtx history", about: "see the numbers" },
      { command: "imgtx rollback --to 3", about: "go back to generation 3" },
    ],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({
    kind: "rollback",
    generation: input.count("--to", 0),
    force: input.flag("--force"),
  }),
};

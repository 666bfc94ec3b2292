// imgtx undo, imgtx redo

import type { OptionDefinition } from "../grammar/definition.ts";
import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";

const FORCE: OptionDefinition = {
  long: "force",
  about: "also where guests wrote since, and where it can't be told whether somebody wrote to an image",
};

export const undo: ActionCommand = {
  kind: "action",
  standalone: true,
  definition: {
    arguments: [],
    options: [FORCE],
    about:
      "Takes back what the last commit did to the device table, as a new generation: each device gets the image " +
      "that it had before. No image is changed or removed. It is refused where a guest has written since, which " +
      "would be left behind, and where an image is no longer what it was. Freezes, mirrors and changes of images " +
      "are not taken back. Each further undo goes one commit further.",
    examples: [
      { command: "imgtx undo", about: "take the last commit back" },
      { command: "imgtx redo", about: "and do it again" },
    ],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({ kind: "undo", isForward: false, force: input.flag("--force") }),
};

export const redo: ActionCommand = {
  kind: "action",
  standalone: true,
  definition: {
    arguments: [],
    options: [FORCE],
    about:
      "Does again what `imgtx undo` took back last, as long as nothing else was committed since. It is refused " +
      "where a guest has written since, and where an image is no longer what it was.",
    examples: [{ command: "imgtx redo", about: "take the last undo back" }],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({ kind: "redo", isForward: true, force: input.flag("--force") }),
};

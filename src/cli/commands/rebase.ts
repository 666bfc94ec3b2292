// imgtx rebase DEV --onto IMAGE

import { ImgtxError } from "../../errors/index.ts";
import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { readRelative } from "./overlay-options.ts";
import { RATE_LIMIT } from "./rate-limit.ts";

export const rebase: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [{ name: "DEV", about: "the device", completes: "device" }],
    options: [
      {
        long: "onto",
        value: { name: "IMAGE", completes: "file" },
        about: "what its active layer is to stand on",
      },
      {
        long: "format",
        value: { name: "FORMAT", completes: ["qcow2", "raw"] },
        about: "format of IMAGE; raw is never guessed",
      },
      { short: "c", long: "compress", about: "compress what is copied" },
      { short: "u", long: "unsafe", about: "change the name alone, whatever the device shows then" },
      { long: "relative", about: "store the backing file's name relative to the layer's folder" },
      { long: "absolute", about: "store it as an absolute path; else it is stored as the present one is" },
      RATE_LIMIT,
    ],
    about:
      "Puts a device's active layer on IMAGE and what that stands on. The device shows what it showed: where the new " +
      "chain would show something else, that is copied into the layer first. Nothing is read where both chains have it " +
      "in one place of one file. With -u nothing is compared or copied: for images that were moved, or renamed.",
    examples: [
      {
        command: "imgtx rebase vda --onto golden-2.qcow2",
        about: "another base, with the same content for the guest",
      },
      { command: "imgtx rebase vda --onto base.img --format raw", about: "a raw image has to be called raw" },
      { command: "imgtx rebase vda -u --onto /new/base.qcow2", about: "the base was moved" },
    ],
    exits: CHANGING_EXITS,
  },
  request(input) {
    if (input.text("--onto") === undefined) {
      throw new ImgtxError("E_USAGE", "--onto is missing: what is the device to stand on?", {
        hint: "`imgtx pull DEV` has a device stand on nothing",
      });
    }
    const [isUnsafe, isCompressed] = [input.flag("--unsafe"), input.flag("--compress")];
    if (isUnsafe && isCompressed) {
      throw new ImgtxError("E_USAGE", "--unsafe copies nothing that --compress could be about");
    }
    return {
      kind: "rebase",
      device: input.argument("DEV"),
      onto: input.path("--onto"),
      format: input.text("--format"),
      isUnsafe,
      isCompressed,
      isRelative: readRelative(input),
    };
  },
};

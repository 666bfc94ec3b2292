// imgtx device provision NAME [CMD]

import { ImgtxError } from "../../errors/index.ts";
import { splitWords } from "../batch/words.ts";
import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import type { CommandInput } from "../grammar/input.ts";

export const deviceProvision: ActionCommand = {
  kind: "action",
  standalone: true,
  definition: {
    arguments: [
      { name: "NAME", about: "the device", completes: "device" },
      {
        name: "CMD",
        about: "the program by its path, and its first arguments",
        optional: true,
        completes: "file",
      },
    ],
    options: [{ long: "none", about: "no command makes volumes for it any more" }],
    about:
      "Keeps the command that makes and removes volumes for a device: imgtx calls it as `CMD create|extend|" +
      "activate|remove VOLUME BYTES`, where a snapshot needs a volume, where a command has no room in one, and where a new one is " +
      "taken back, or its layer goes. It is run without a " +
      "shell, and as whoever runs imgtx; never in another user's workspace. See imgtx-block-devices(7) for what it has to do.",
    examples: [
      {
        command: "imgtx device provision vda '/usr/local/sbin/imgtx-lvm vg'",
        about: "snapshots of vda get logical volumes",
      },
      { command: "imgtx device provision vda --none", about: "they get files again" },
    ],
    exits: CHANGING_EXITS,
  },
  request(input) {
    const text = input.text("CMD");
    const isNone = input.flag("--none");
    if (isNone === (text !== undefined)) {
      throw new ImgtxError("E_USAGE", "a command is to be given, or --none", {
        hint: "see `imgtx device provision --help`",
      });
    }
    return {
      kind: "device-provision",
      device: input.argument("NAME"),
      provision: text === undefined ? null : readProvisioner(text, input),
    };
  },
};

/** The words of the command, its program by an absolute path: who runs imgtx later may have another PATH. */
export function readProvisioner(text: string, input: CommandInput): string[] {
  const [program, ...rest] = splitWords(text);
  if (program === undefined) throw new ImgtxError("E_USAGE", "the command of a provisioner is empty");
  return [input.resolve(program), ...rest];
}

// imgtx relocate DEV … FOLDER [--all] [--keep]

import { ImgtxError } from "../../errors/index.ts";
import type { ActionCommand } from "../grammar/definition.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { RATE_LIMIT } from "./rate-limit.ts";

export const relocate: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [
      {
        name: "DEV",
        about: "the devices, and as the last word the folder that they go to",
        variadic: true,
        completes: "device",
      },
    ],
    options: [
      { long: "all", about: "all devices of the workspace" },
      { long: "keep", about: "leave the images where they are as well" },
      RATE_LIMIT,
    ],
    about:
      "Moves devices to another folder, or another disk: their chains, and all that snapshots keep of them. Each image is " +
      "copied and read back, names that images store are rewritten, relative ones as relative ones, and all change over in " +
      "one step; then the sources go. What another device, a mirror or any other overlay stands on stays where it is, and " +
      "so does what is below that. No guest may run on the devices meanwhile.",
    examples: [
      { command: "imgtx relocate vda /new/disk", about: "vda with its snapshots" },
      { command: "imgtx relocate vda vdb /new/disk", about: "both; a base that they share comes along" },
      { command: "imgtx relocate --all /new/disk --dry-run", about: "what would go, and what would stay" },
      {
        command: "imgtx relocate vda /new/disk --keep",
        about: "copies, and leaves the images where they are",
      },
    ],
    exits: CHANGING_EXITS,
  },
  request(input) {
    const words = input.texts("DEV");
    const folder = words.at(-1) ?? "";
    const devices = words.slice(0, -1);
    const isAll = input.flag("--all");
    if (isAll ? devices.length > 0 : devices.length === 0) {
      throw new ImgtxError(
        "E_USAGE",
        isAll ? "--all is instead of devices" : "a device and a folder are to be named",
        { hint: "for example: imgtx relocate vda /new/disk, or imgtx relocate --all /new/disk" },
      );
    }
    const workspace = devices.find((name) => name.includes("/") || name === "." || name === "..");
    if (workspace !== undefined) {
      throw new ImgtxError("E_UNSUPPORTED", `'${workspace}' is a folder: a workspace itself is not moved`, {
        hint: "`imgtx relocate --all FOLDER` moves the images of all its devices",
      });
    }
    return {
      kind: "relocate",
      devices: isAll ? undefined : devices,
      folder: input.resolveFolder(folder),
      keep: input.flag("--keep"),
    };
  },
};

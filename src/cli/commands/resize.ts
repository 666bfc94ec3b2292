// imgtx resize DEV SIZE

import { ImgtxError } from "../../errors/index.ts";
import { parseSizeBytes } from "../../units/index.ts";
import type { ActionCommand } from "../running/command.ts";
import { confirm } from "./confirm.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";

const PREALLOCATIONS = ["off", "metadata", "falloc", "full"] as const;

export const resize: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [
      { name: "DEV", about: "the device", completes: "device" },
      {
        name: "SIZE",
        about: "its size, such as 20G; +5G adds to it, and -5G takes from it, after --",
        completes: "nothing",
      },
    ],
    options: [
      { long: "shrink", about: "let the disk become smaller" },
      { long: "force", about: "with --shrink: cut off data, too" },
      {
        long: "preallocation",
        value: { name: "MODE", completes: PREALLOCATIONS, choices: PREALLOCATIONS },
        about: "of a larger disk: off; metadata: entries (qcow2); falloc: space as well; full: zeros as well",
      },
    ],
    about:
      "Gives a device's disk another size, in its active layer. A larger one reads as zeros past the old end, " +
      "whatever its backing image has there; internal snapshots and bitmaps stay. A smaller one has to be asked " +
      "for, loses what is past its end, and is refused where there is data, or where another image stands on it.",
    examples: [
      { command: "imgtx resize vda 20G", about: "grow it to 20 GiB" },
      { command: "imgtx resize vda +5G", about: "grow it by 5 GiB" },
      { command: "imgtx resize vdb 10G --shrink", about: "cut off what nothing uses" },
    ],
    exits: CHANGING_EXITS,
  },
  request(input) {
    const text = input.argument("SIZE");
    const [, sign = "", digits = ""] = /^([+-]?)(.*)$/.exec(text) ?? [];
    const bytes = parseSizeBytes(digits);
    if (bytes === undefined) {
      throw new ImgtxError("E_USAGE", `Invalid image size specified: '${text}'`, {
        hint: "a number of bytes, or one with k, M, G or T after it: 20G, 1.5T, 512M",
      });
    }
    if (input.flag("--force") && !input.flag("--shrink")) {
      throw new ImgtxError("E_USAGE", "--force is about what --shrink cuts off");
    }
    return {
      kind: "resize",
      device: input.argument("DEV"),
      sizeBytes: sign === "-" ? -bytes : bytes,
      isRelative: sign !== "",
      shrink: input.flag("--shrink"),
      force: input.flag("--force"),
      preallocation: PREALLOCATIONS.find((mode) => mode === input.text("--preallocation")),
    };
  },
  async confirm(invocation) {
    const { input } = invocation;
    if (!input.flag("--force")) return;
    await confirm(invocation, `What '${input.argument("DEV")}' holds past its new end is lost.`);
  },
};

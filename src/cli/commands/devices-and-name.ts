// `DEV … NAME`: what happens to several devices by one name, inside their images. `DEV=FILE`: a file of a device.

import { ImgtxError } from "../../errors/index.ts";
import type { ArgumentDefinition } from "../grammar/definition.ts";
import type { CommandInput } from "../grammar/input.ts";

/** What the name is of: a snapshot, a bitmap. A variadic argument is the last one, so the words are sorted out here. */
export function devicesAndName(what: string): ArgumentDefinition[] {
  return [
    { name: "DEV", about: "the device", completes: "device" },
    {
      name: "NAME",
      about: `further devices, and as the last word the name of the ${what}`,
      variadic: true,
      completes: "device",
    },
  ];
}

/** The name may be empty. */
export function readDevicesAndName(input: CommandInput): {
  readonly devices: string[];
  readonly name: string;
} {
  const words = [input.argument("DEV"), ...input.texts("NAME")];
  return { devices: words.slice(0, -1), name: words.at(-1) ?? "" };
}

export function isNoPair(text: string, example: string): ImgtxError {
  const hint = `for example: ${example}`;
  return new ImgtxError("E_USAGE", `'${text}' is not of the form DEV=FILE`, { hint });
}

// `--allow-devices`, of every command, and IMGTX_ALLOW_DEVICES: block devices may hold images.

import type { CliContext } from "../context.ts";
import type { OptionDefinition } from "./definition.ts";

export const ALLOW_DEVICES = "--allow-devices";
const VARIABLE = "IMGTX_ALLOW_DEVICES";

export const allowDevicesOption: OptionDefinition = {
  long: "allow-devices",
  about: `take images on block devices; also ${VARIABLE}=1`,
};

/** Whether the environment says so. */
export function inheritsDevices({ env }: Pick<CliContext, "env">): boolean {
  return !["", "0"].includes(env[VARIABLE] ?? "");
}

/** What a child is given, so that its imgtx takes the same. */
export function allowDevicesForChild(allowsDevices: boolean): Readonly<Record<string, string>> {
  return allowsDevices ? { [VARIABLE]: "1" } : {};
}

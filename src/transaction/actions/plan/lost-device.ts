// Devices whose chain can't be opened any more: lost, or spoiled. They have to be let go of all the same.

import type { DeviceEntry } from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import type { Chain } from "../../../format/index.ts";
import type { HowToOpen } from "../../images/opened-images.ts";
import type { PlanContext } from "./action.ts";

/**
 * The device's own chain; undefined where it can't be opened and --force says to go on without it. Else the error
 * says that there is --force.
 */
export async function openUnlessLost(
  { name, image, format }: DeviceEntry,
  context: PlanContext,
  how: { readonly isForced: boolean; readonly command: string } & Pick<HowToOpen, "mayBeHalfChanged">,
): Promise<Chain | undefined> {
  try {
    return await context.openChain(image, format, name, [], how);
  } catch (error) {
    if (!(error instanceof ImgtxError) || !LOST_CODES.has(error.code)) throw error;
    if (how.isForced) return undefined;
    throw error.reworded(error.message, {
      hint: `put it back, or mount its disk; \`${how.command}\` goes on without it`,
    });
  }
}

/** Not those that pass, or that a person decides: locks, rights, paths outside. */
const LOST_CODES: ReadonlySet<string> = new Set([
  "E_NOT_FOUND",
  "E_CORRUPT",
  "E_UNSUPPORTED",
  "E_FORMAT_UNKNOWN",
  "E_NOT_A_FILE",
  "E_IO",
]);

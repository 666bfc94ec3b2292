// Devices whose chain can't be opened any more: lost, or spoiled. They have to be let go of all the same. And those of which the end
// of an image is lost, with a volume that was made smaller than it.

import { type ChainEntry, type DeviceEntry, type DeviceTable, requireDevice } from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import { type Chain, isDeviceIdentity, readCountedEnd, shellQuote } from "../../../format/index.ts";
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

interface CutOff {
  readonly image: string;
  readonly text: string;
}

/**
 * The first image of the chain whose volume was made smaller than it since the table has seen it: what it lacks reads as zeros or
 * errors. A volume may well be made smaller, as far as nothing of its image is there: of qcow2 the refcounts tell. Only where it is
 * smaller than it was anything is read.
 */
async function findCutOff({ links }: Chain, known: readonly ChainEntry[]): Promise<CutOff | undefined> {
  for (const [depth, { path: image, file, stat, header }] of links.entries()) {
    const was = known.find((entry) => entry.image === image)?.fingerprint;
    if (!was || !isDeviceIdentity(was) || stat.sizeBytes >= was.sizeBytes) continue;
    // A raw disk that is on top is as large as its volume, whatever it was.
    if (header === undefined && depth === 0) continue;
    const end = header ? await readCountedEnd(file, header, stat.sizeBytes) : was.sizeBytes;
    if (end === undefined) continue;
    return {
      image,
      text: `its volume was made smaller than it: it has ${stat.sizeBytes} bytes, and needs ${end}`,
    };
  }
  return undefined;
}

/** The same in words, as a clause. */
export async function sayCutOff(chain: Chain, known: readonly ChainEntry[]): Promise<string | undefined> {
  const found = await findCutOff(chain, known);
  return found && `${found.image}: ${found.text}`;
}

/** E_CORRUPT where an overlay would come to stand on such a one. */
export async function assertNotCutOff(device: string, chain: Chain, table: DeviceTable): Promise<void> {
  const found = await findCutOff(chain, requireDevice(table, device).chain);
  if (!found) return;
  const { image, text } = found;
  throw new ImgtxError("E_CORRUPT", text, {
    device,
    image,
    hint: `make it as large as it was; \`imgtx img check --allow-devices ${shellQuote(image)}\` tells what is missing`,
  });
}

// What imgtx takes for a device, QEMU opens: the guest is to run on it. And of images on block devices, whether their volumes have
// all of them.

import { type ChainEntry, requireDevice, type DeviceTable } from "../../device/index.ts";
import { ImgtxError, withPlace } from "../../errors/index.ts";
import {
  type Chain,
  isDeviceIdentity,
  readCountedEnd,
  requireOpenable,
  shellQuote,
} from "../../format/index.ts";

/** E_CORRUPT for a chain that imgtx could read, and QEMU does not open. */
export async function assertQemuOpens(device: string, chain: Chain): Promise<void> {
  await withPlace({ device }, async () => {
    await requireOpenable(chain);
  });
}

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

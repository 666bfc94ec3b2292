// Images on block devices, as far as transactions know them.
//
// Invariants
// - A device that the operator names is taken only where he allowed devices; what the table, a plan or a journal names,
//   he named before.
// - What is not whole yet is refused by name, when it is planned: nothing has been done by then.

import { ImgtxError } from "../../errors/index.ts";
import { type Chain, isDeviceIdentity, shellQuote } from "../../format/index.ts";
import { type DeviceTable, standsOnDevices, type Workspace } from "../../device/index.ts";

type Storage = Workspace["storage"];

/** How an image is opened that the table, a plan or a journal names. */
export const AS_IMAGE = { mayBeDevice: true } as const;

/** E_NOT_A_FILE for a block device, unless the command allows them, or one is in the table already. */
export async function assertMayBeDevice(
  storage: Storage,
  path: string,
  { devices }: DeviceTable,
  isAllowed: boolean,
): Promise<void> {
  if (isAllowed || standsOnDevices(devices) || (await storage.stat(path))?.kind !== "device") return;
  throw new ImgtxError("E_NOT_A_FILE", `Could not open '${path}': it is a block device, not a regular file`, {
    image: path,
    doing: "open",
    hint: "if it is meant, allow it with --allow-devices; the workspace takes others without that from then on",
  });
}

/** E_UNSUPPORTED where a plan would change a block device in place, make an image on it, or copy to it. */
export async function assertLeavesDevices(
  storage: Storage,
  { changed, made }: { readonly changed: readonly string[]; readonly made: readonly string[] },
): Promise<void> {
  await assertNotOnDevices(storage, changed);
  for (const image of made) {
    const isDevice = (await storage.stat(image))?.kind === "device";
    if (isDevice) {
      throw new ImgtxError("E_UNSUPPORTED", "a new image can't be made on a block device yet", {
        image,
        hint: "name a file in a folder",
      });
    }
    // devtmpfs: what is made there takes memory, and is gone at the next start.
    if (image.startsWith("/dev/") && !image.startsWith("/dev/shm/")) {
      throw new ImgtxError("E_REFUSED", "files in /dev are lost when the machine starts anew", {
        image,
        hint: "name a file in another folder",
      });
    }
  }
}

/** E_UNSUPPORTED where one of these images, which are to be changed in place, is a block device. */
export async function assertNotOnDevices(storage: Storage, images: readonly string[]): Promise<void> {
  for (const image of images) {
    if ((await storage.stat(image))?.kind !== "device") continue;
    throw new ImgtxError("E_UNSUPPORTED", "an image on a block device can't be changed in place yet", {
      image,
      hint: `copy it to a file first, with \`imgtx img convert -O qcow2 --allow-devices ${shellQuote(image)} FILE\``,
    });
  }
}

/**
 * E_CHANGED where another device has by now the name that an image of the table has. A number is given to whatever is
 * attached next, and what is done to an image must not be done to a stranger's disk.
 */
export function assertSameDevices(
  {
    chains,
    changes,
  }: {
    readonly chains: readonly { readonly device: string; readonly chain: Chain }[];
    readonly changes: readonly { readonly device: string; readonly after: unknown }[];
  },
  table: DeviceTable,
): void {
  for (const { device, chain } of chains) {
    // What leaves the table is nobody's any more: so an operator gets rid of what is not there.
    if (changes.some((change) => change.device === device && change.after === null)) continue;
    const known = table.devices.find(({ name }) => name === device);
    for (const { path, fingerprint } of chain.links) {
      const was = known?.chain.find(({ image }) => image === path)?.fingerprint;
      if (!was || !isDeviceIdentity(was) || was.fileSystemId === fingerprint.fileSystemId) continue;
      throw new ImgtxError(
        "E_CHANGED",
        "another device has that name than the one that the workspace knows",
        {
          device,
          image: path,
          hint: `attach the device that was there; if this one is meant, \`imgtx device remove ${device}\` and add it anew`,
        },
      );
    }
  }
}

// What the snapshots of a workspace keep, read without the code under test.

import { guestDigest, openGuest, openHostImage } from "../guest-content.ts";
import { listSnapshots } from "../../../src/transaction/index.ts";
import type { Workbench } from "./workbench.ts";

/** `3 vda`, or `mon vda`: whether it counts as what it was, and a digest of what a guest would see. */
export async function readSnapshotContents(
  bench: Workbench,
  by: "number" | "name",
): Promise<Record<string, string>> {
  const snapshots = await listSnapshots(await bench.session(), {});
  return Object.fromEntries(
    snapshots.flatMap((snapshot) =>
      snapshot.devices.map(({ device, image, format, intact }) => [
        `${snapshot[by]} ${device}`,
        `${intact} ${guestDigest(openGuest(openHostImage, image, format))}`,
      ]),
    ),
  );
}

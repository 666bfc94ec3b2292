// What a workspace that was a copy has from its original, which may go on using it.
//
// Invariant: what lies in the workspace's own folder came along with the copy, and is its own.

import { ImgtxError } from "../errors/index.ts";
import { filesOfDevice } from "./device-entry.ts";
import type { DeviceTable } from "./device-table.ts";
import { readingHistory } from "./history.ts";
import { filesOfSnapshot } from "./snapshot-record.ts";
import { readingSnapshots } from "./snapshots.ts";
import type { Workspace } from "./workspace.ts";

/** Paths of images, of devices and of snapshots. E_CORRUPT where the history does not tell. */
export async function findInherited(workspace: Workspace, table: DeviceTable): Promise<ReadonlySet<string>> {
  const found = new Set<string>();
  const history = readingHistory(workspace, table);
  // A copy of a copy has of the first one what the second one had.
  for (let number = table.adopted; number !== undefined; ) {
    const generation: DeviceTable | undefined =
      number === table.generation ? table : await history.read(number);
    if (!generation) {
      throw new ImgtxError(
        "E_CORRUPT",
        `the history has no generation ${number}, at which the workspace was copied`,
        {
          image: workspace.root,
          hint: "put `.imgtx/history` back from a copy: it tells which images are the original's as well",
        },
      );
    }
    for (const { image } of generation.devices.flatMap(filesOfDevice)) found.add(image);
    const snapshots = readingSnapshots(workspace, generation);
    for (const ref of generation.snapshots) {
      for (const { image } of filesOfSnapshot(await snapshots.read(ref))) found.add(image);
    }
    number = generation.adopted === number ? undefined : generation.adopted;
  }
  return new Set([...found].filter((image) => !image.startsWith(`${workspace.root}/`)));
}

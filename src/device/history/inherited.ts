// What a workspace that was a copy has from its original, which may go on using it: all that its generations up to the copy
// speak of.
//
// Invariant: what lies in the workspace's own folder came along with the copy, and is its own.

import { ImgtxError, unlessItFails } from "../../errors/index.ts";
import { filesOfDevice } from "../table/device-entry.ts";
import type { DeviceTable } from "../table/device-table.ts";
import { listHistory, readingHistory } from "./history.ts";
import { filesOfSnapshot, type Snapshot } from "../table/snapshot-record.ts";
import { readingSnapshots } from "./snapshots.ts";
import type { Workspace } from "../workspace/workspace.ts";

/** Paths of images, of devices and of snapshots. E_CORRUPT where the history does not tell. */
export async function findInherited(workspace: Workspace, table: DeviceTable): Promise<ReadonlySet<string>> {
  const { adopted } = table;
  if (adopted === undefined) return new Set();
  const found = new Set<string>();
  const history = readingHistory(workspace, table);
  const read = new Set<string>();
  const numbers = [...(await listHistory(workspace, table)), table.generation];
  // Also those of before a copy of a copy: the one has had them from the other.
  for (const number of new Set([...numbers.filter((one) => one < adopted), adopted])) {
    const generation = number === table.generation ? table : await history.read(number);
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
    for (const { without: _without, ...ref } of generation.snapshots) {
      const key = `${ref.number} ${ref.record} ${JSON.stringify(ref.later ?? [])}`;
      if (read.has(key)) continue;
      read.add(key);
      const snapshot = await unlessGone(async () => await snapshots.read(ref));
      for (const { image } of snapshot ? filesOfSnapshot(snapshot) : []) found.add(image);
    }
  }
  return new Set([...found].filter((image) => !image.startsWith(`${workspace.root}/`)));
}

/** Of one that no table counts any more the record may be gone, or damaged, which may be why. */
export async function unlessGone(read: () => Promise<Snapshot>): Promise<Snapshot | undefined> {
  return await unlessItFails(read, ["E_NOT_FOUND", "E_CORRUPT"]);
}

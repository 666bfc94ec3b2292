// What a workspace's records say that imgtx has made: overlays, and copies of files that snapshots keep.
//
// Invariant: what a workspace that was copied has from its original is the original's as well, and is left out.

import { posix } from "node:path";
import {
  type DeviceTable,
  fileBesidePath,
  filesOfDevice,
  listHistory,
  readingHistory,
  findInherited,
  readingSnapshots,
  unlessGone,
  type Workspace,
} from "../../device/index.ts";
import { type Fingerprint, isDeviceIdentity } from "../../format/index.ts";

export interface MadeFiles {
  /** By path, the oldest first: what each looked like last. */
  readonly overlays: ReadonlyMap<string, Fingerprint>;
  /** By path: what each holds. */
  readonly copies: ReadonlyMap<string, string>;
  /** All that images were in. */
  readonly folders: ReadonlySet<string>;
  /** Block devices that images were on. */
  readonly volumes: ReadonlySet<string>;
}

export async function findMade(workspace: Workspace, table: DeviceTable): Promise<MadeFiles> {
  const overlays = new Map<string, Fingerprint>();
  const copies = new Map<string, string>();
  const folders = new Set<string>([workspace.root]);
  const volumes = new Set<string>();
  const read = new Set<string>();
  const history = readingHistory(workspace, table);
  for (const number of [...(await listHistory(workspace, table)), table.generation]) {
    const generation = number === table.generation ? table : await history.read(number);
    if (!generation) continue;
    for (const [path, look] of await overlaysIn(workspace, generation, read, copies))
      overlays.set(path, look);
    for (const { image, fingerprint } of generation.devices.flatMap(filesOfDevice)) {
      folders.add(posix.dirname(image));
      if (isDeviceIdentity(fingerprint)) volumes.add(image);
    }
  }
  for (const path of await findInherited(workspace, table)) overlays.delete(path);
  return { overlays, copies, folders, volumes };
}

/** Those of its devices and of snapshots that were not read before, whose copies are added. */
async function overlaysIn(
  workspace: Workspace,
  generation: DeviceTable,
  read: Set<string>,
  copies: Map<string, string>,
): Promise<[string, Fingerprint][]> {
  const found: [string, Fingerprint][] = generation.devices.flatMap(({ image, made, chain: [top] }) =>
    top && made === image ? [[image, top.fingerprint]] : [],
  );
  const reads = readingSnapshots(workspace, generation);
  for (const { without: _without, ...ref } of generation.snapshots) {
    const key = `${ref.number}-${ref.record}`;
    if (read.has(key)) continue;
    read.add(key);
    const snapshot = await unlessGone(async () => await reads.read(ref));
    for (const { chain, isMade } of snapshot?.devices ?? []) {
      const [top] = chain;
      if (top && isMade) found.push([top.image, top.fingerprint]);
    }
    for (const { copy, sha256 } of snapshot?.files ?? [])
      copies.set(fileBesidePath(workspace.root, copy), sha256);
  }
  return found;
}

// What a workspace's records say that imgtx has made: overlays, and copies of files that snapshots keep.
//
// Invariant: an overlay of before a workspace was copied and adopted is the original's as well, and is left out.

import { posix } from "node:path";
import {
  type DeviceTable,
  fileBesidePath,
  filesOfDevice,
  listHistory,
  readingHistory,
  readingSnapshots,
  type Snapshot,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import type { Fingerprint } from "../../format/index.ts";

export interface MadeFiles {
  /** By path, the oldest first: what each looked like last. */
  readonly overlays: ReadonlyMap<string, Fingerprint>;
  /** By path: what each holds. */
  readonly copies: ReadonlyMap<string, string>;
  /** All that images were in. */
  readonly folders: ReadonlySet<string>;
}

export async function findMade(workspace: Workspace, table: DeviceTable): Promise<MadeFiles> {
  const overlays = new Map<string, Fingerprint>();
  const copies = new Map<string, string>();
  const folders = new Set<string>([workspace.root]);
  const inherited = new Set<string>();
  const read = new Set<string>();
  let isAnothers = false;
  const history = readingHistory(workspace, table);
  for (const number of [...(await listHistory(workspace, table)), table.generation]) {
    const generation = number === table.generation ? table : await history.read(number);
    if (!generation) continue;
    const made = new Map(await overlaysIn(workspace, generation, read, copies));
    for (const [path, look] of made) overlays.set(path, look);
    for (const { image } of generation.devices.flatMap(filesOfDevice)) folders.add(posix.dirname(image));
    // Also of the first generation of its own: that is the one in which it was copied.
    const isBefore = generation.workspaceId !== table.workspaceId;
    if (isBefore || isAnothers) for (const path of made.keys()) inherited.add(path);
    isAnothers = isBefore;
  }
  for (const path of inherited) overlays.delete(path);
  return { overlays, copies, folders };
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

/** Of one that no table counts any more the record may be gone. */
async function unlessGone(read: () => Promise<Snapshot>): Promise<Snapshot | undefined> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_NOT_FOUND") return undefined;
    throw error;
  }
}

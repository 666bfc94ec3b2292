// Has the images of a statement say which workspace knows them: new ones as they are made, those that it seals before its plan
// is durable; and the folders of what its devices stand on outside of the workspace's own.
//
// Invariant: what is kept of an image that gets its signpost is how it looks then: setting it moves the change time, and a
// snapshot would count as changed.

import { posix } from "node:path";
import {
  type DeviceTable,
  filesOfDevice,
  filesOfEntry,
  findDevice,
  findUserElsewhere,
  isBelow,
  setSignpost,
  type Workspace,
} from "../../device/index.ts";
import { settleAll } from "../../errors/index.ts";
import {
  describeStatChanges,
  isBesideImage,
  type Fingerprint,
  isDeviceIdentity,
  isInOverlay,
  settleFingerprint,
} from "../../format/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import { lastSeen, type PlanRecord, type WatchedImage, withLooksOf } from "../journal/index.ts";
import { changedImages } from "./plan.ts";
import type { Work } from "./work.ts";

/** Those files of devices that get one as they are made, before they are flushed. What lies there for the commit alone gets none. */
export function imagesToSign({ root }: Workspace, { newFiles, changes }: PlanRecord): ReadonlySet<string> {
  // A workspace beside an image goes with the change that it is for.
  if (isBesideImage(root)) return new Set();
  const entries = changes.flatMap(({ after }) => after ?? []);
  const active = new Set(entries.map(({ image }) => image));
  // Of a group of snapshots all are, and no chain is gone through.
  if (newFiles.every(({ path }) => active.has(path))) return active;
  return new Set(entries.flatMap(filesOfDevice).map(({ image }) => image));
}

/** The record, with what images look like that have got one. */
export async function setOnKept(work: Work, table: DeviceTable, record: PlanRecord): Promise<PlanRecord> {
  const { workspace } = work;
  if (isBesideImage(workspace.root)) return record;
  const looks = await setOnSealed(work, findSealed(table, record));
  await setOnFolders(workspace, record);
  return looks.size === 0 ? record : withLooksOf(record, looks);
}

async function setOnSealed(
  { workspace, journal, images, just }: Work,
  sealed: readonly Sealed[],
): Promise<ReadonlyMap<string, Fingerprint>> {
  const looks = new Map<string, Fingerprint>();
  if (sealed.length === 0) return looks;
  const open = images.byPath();
  // What an earlier statement has seen of an image counts for the whole transaction.
  const seen: ReadonlyMap<string, unknown> = journal ? lastSeen(journal.state) : new Map();
  const isAlone = journal?.state.begin.implicit ?? true;
  await settleAll(
    sealed.map(async (one) => {
      const { image } = one.watched;
      if (seen.has(image)) return;
      const file = open.get(image)?.file;
      const now = file && (await setOn(workspace, one, file));
      if (!now) return;
      // What commits by itself looks once more in some milliseconds, and waits for no more than is left of them.
      if (isAlone) just.add(image);
      looks.set(image, isAlone ? now : await settleFingerprint(workspace.storage.host, file, now));
    }),
  );
  return looks;
}

/** Of what stands outside of the workspace's own folder, and is not made by the statement. */
async function setOnFolders({ storage, root }: Workspace, { newFiles, changes }: PlanRecord): Promise<void> {
  const made = new Set(newFiles.map(({ path }) => path));
  const images = changes.flatMap(({ after }) => (after ? filesOfDevice(after) : []));
  const old = images.filter(({ image, fingerprint }) => !made.has(image) && !isDeviceIdentity(fingerprint));
  for (const folder of new Set(old.map(({ image }) => posix.dirname(image))))
    if (folder !== root && !isBelow(root, folder)) await setSignpost(storage, folder, root);
}

/** An image that a snapshot is to keep, as it is. */
interface Sealed {
  readonly watched: WatchedImage;
  /** Whether its device writes to it until then. */
  readonly isActive: boolean;
}

/**
 * What no snapshot keeps yet, but what imgtx has made, which says it already. A freeze or a mirror goes by how its images
 * looked before.
 */
function findSealed(table: DeviceTable, record: PlanRecord): Sealed[] {
  const depths = new Map<string, number>();
  for (const device of record.snapshot?.devices ?? []) {
    const { chain = [], made } = findDevice(table, device) ?? {};
    const kept = chain.findIndex(({ sealedBy }) => sealedBy !== undefined);
    for (const [depth, entry] of chain.slice(0, kept === -1 ? chain.length : kept).entries()) {
      if (entry.isMade || entry.image === made) continue;
      for (const { image } of filesOfEntry(entry))
        depths.set(image, Math.min(depth, depths.get(image) ?? depth));
    }
  }
  if (depths.size === 0) return [];
  const changed = changedImages(record);
  const held = table.devices.filter(({ mirror, frozen }) => mirror !== null || frozen !== null);
  const files = held.flatMap((entry) => [...filesOfDevice(entry), ...(entry.mirror?.source ?? [])]);
  const others = new Set(files.map(({ image }) => image));
  return record.watched.flatMap((watched) => {
    const { image } = watched;
    const depth = depths.get(image);
    if (depth === undefined || changed.has(image) || others.has(image)) return [];
    return [{ watched, isActive: depth === 0 }];
  });
}

/** What it looks like then. Undefined: it says so already, can't say it, or was changed since the plan read it. */
async function setOn(
  workspace: Workspace,
  { watched: { image, fingerprint }, isActive }: Sealed,
  file: StorageFile,
): Promise<Fingerprint | undefined> {
  if (file.onDisk || isDeviceIdentity(fingerprint) || isInOverlay(fingerprint)) return undefined;
  const { storage, root } = workspace;
  const mayBeSet = async (): Promise<boolean> => {
    // Others' snapshots know what it looks like.
    if (!isActive && (await findUserElsewhere(workspace, image))) return false;
    return (await file.stat()).changedNs === fingerprint.changedNs;
  };
  if (!(await setSignpost(storage, image, root, mayBeSet))) return undefined;
  const { changedNs, settled, ...now } = await file.stat();
  if (describeStatChanges(fingerprint, now).length > 0) return undefined;
  return { ...fingerprint, changedNs, settled };
}

// Which device stands on a file, or which snapshot keeps it, for those who are about to overwrite or remove it and know of
// no workspace, or of their own alone.
//
// Records of snapshots are read only for a file that no device's chain has: the chains say themselves who has sealed what.
// In a record no file is looked for but those of its name or its inode number, so that the reading is all that it takes.
// Workspaces are found by the folders above a file, and by what the file, or its folder, says (signposts.ts); one that has
// moved elsewhere by what it left. What lies no more where it was kept is known by its inode and its birth.

import { posix } from "node:path";
import { settleAll, unlessItFails } from "../../errors/index.ts";
import { identityOf, isSameFile } from "../../format/index.ts";
import type { FileStat, Storage } from "../../storage/index.ts";
import { filesOfDevice, filesOfEntry, type SeenFile } from "../table/device-entry.ts";
import { type DeviceTable, findDevice, type StoredTable } from "../table/device-table.ts";
import { withEarlierSnapshots } from "./earlier-snapshots.ts";
import type { SnapshotRef } from "../table/snapshot-record.ts";
import { readSnapshot } from "./snapshots.ts";
import { isFolderName, readSignpost } from "../workspace/signposts.ts";
import { pathsOf, readMovedAway, readTableFile, type Workspace } from "../workspace/workspace.ts";

export interface DeviceOnFile {
  readonly device: string;
  /** The workspace's folder. */
  readonly root: string;
  /** Whether it is the device's own active layer, and not one that others stand on, or a copy. */
  readonly isActive: boolean;
  /** A snapshot of the device that keeps it; undefined: none does, or it is in the way as it is. */
  readonly keptBy: Pick<SnapshotRef, "number" | "name"> | undefined;
  /** Whether the table has the device still. */
  readonly isPresent: boolean;
}

/**
 * The first device with the file in its chain, in its mirror's, or in what a snapshot keeps of it, of all workspaces in
 * the folders and above them, which are absolute, and of those that the file says; one that may write to it, where no other
 * is. Nothing is done in these workspaces, so whose they are does not matter. own: one that is passed over, by whatever name.
 */
export async function findDeviceOnFile(
  storage: Storage,
  folders: readonly string[],
  paths: readonly string[],
  file: FileStat,
  own?: Workspace,
): Promise<DeviceOnFile | undefined> {
  const wanted: Wanted = { file, names: new Set(paths.map((path) => posix.basename(path))) };
  let active: DeviceOnFile | undefined;
  const roots = await findRoots(storage, folders, paths);
  for (const root of roots.all) {
    const workspace = { storage, root };
    if (own && (await isSameWorkspace(own, workspace))) continue;
    const stored = await readAny(workspace, roots);
    if (!stored) continue;
    const found =
      (await findUser(workspace, stored.table, file)) ?? (await findKeeper(workspace, stored, wanted));
    if (found && !found.isActive) return found;
    active ??= found;
  }
  return active;
}

/** The same of an image by its name, of all workspaces but this one, whose commands know themselves what it needs. */
export async function findUserElsewhere(
  workspace: Workspace,
  image: string,
): Promise<DeviceOnFile | undefined> {
  const { storage } = workspace;
  const stat = await storage.stat(image);
  if (stat?.kind !== "file") return undefined;
  const real = await storage.realPath(image);
  const folders = [posix.dirname(real), await storage.realPath(posix.dirname(image))];
  return await findDeviceOnFile(storage, folders, [image, real], stat, workspace);
}

/** Whether any other workspace is in the folders of the images, above them, or said by them. */
export async function isAnyElsewhere(workspace: Workspace, images: readonly string[]): Promise<boolean> {
  const { storage } = workspace;
  const named = [...new Set(images.map((image) => posix.dirname(image)))];
  const real = await Promise.all(
    named.map(async (folder) => await unlessItFails(() => storage.realPath(folder))),
  );
  const folders = [...named, ...real.filter((folder) => folder !== undefined)];
  const roots = await findRoots(storage, folders, images);
  for (const root of roots.all) {
    const other = { storage, root };
    if (root === workspace.root || !(await unlessItFails(() => storage.statLink(pathsOf(other).own))))
      continue;
    if (!(await isSameWorkspace(workspace, other)) && (await readAny(other, roots))) return true;
  }
  return false;
}

/** Where workspaces may be. */
interface Roots {
  readonly all: Set<string>;
  /** How many there may be, with those that others have moved to. */
  readonly most: number;
}

const MOST_MOVES = 16;

/** Those of the folders and above them, and those that the files say, or the folders that these are in. */
async function findRoots(
  storage: Storage,
  folders: readonly string[],
  files: readonly string[],
): Promise<Roots> {
  const all = new Set(folders.flatMap(withFoldersAbove));
  for (const place of new Set(files.flatMap((path) => [path, posix.dirname(path)])))
    for (const root of await readSignpost(storage, place)) all.add(root);
  return { all, most: all.size + MOST_MOVES };
}

async function isSameWorkspace(own: Workspace, other: Workspace): Promise<boolean> {
  if (own.root === other.root) return true;
  const there = await unlessItFails(() => other.storage.stat(pathsOf(other).own));
  return there !== undefined && isSame(await own.storage.stat(pathsOf(own).own), there);
}

interface Wanted {
  readonly file: FileStat;
  /** Of the names that lead to it. */
  readonly names: ReadonlySet<string>;
}

async function findUser(
  { storage, root }: Workspace,
  { devices, snapshots }: DeviceTable,
  file: FileStat,
): Promise<DeviceOnFile | undefined> {
  for (const entry of devices) {
    for (const seen of filesOfDevice(entry)) {
      const path = seen.image;
      const depth = entry.chain.findIndex((one) => filesOfEntry(one).some(({ image }) => image === path));
      // An active layer by another name is what it was for no command here: that one can't find its device.
      if (!(await isIt(storage, seen, file, depth > 0))) continue;
      const sealer = entry.chain.slice(0, depth + 1).findLast(({ sealedBy }) => sealedBy !== undefined);
      const keptBy = sealer && snapshots.find(({ number }) => number === sealer.sealedBy);
      return { device: entry.name, root, isActive: path === entry.image, keptBy, isPresent: true };
    }
  }
  return undefined;
}

/** Records that are read side by side. */
const AT_ONCE = 64;

async function findKeeper(
  workspace: Workspace,
  stored: StoredTable,
  wanted: Wanted,
): Promise<DeviceOnFile | undefined> {
  const table = stored.isEarlier ? await withEarlierSnapshots(workspace, stored.table) : stored.table;
  const newest = table.snapshots.toReversed();
  for (let from = 0; from < newest.length; from += AT_ONCE) {
    const devices = await settleAll(
      newest.slice(from, from + AT_ONCE).map(async (ref) => {
        const device = await findKept(workspace, table, ref, wanted);
        return device === undefined ? [] : [{ device, keptBy: ref }];
      }),
    );
    const [found] = devices.flat();
    if (!found) continue;
    const isPresent = findDevice(table, found.device) !== undefined;
    return { ...found, root: workspace.root, isActive: false, isPresent };
  }
  return undefined;
}

async function findKept(
  workspace: Workspace,
  table: DeviceTable,
  ref: SnapshotRef,
  { file, names }: Wanted,
): Promise<string | undefined> {
  const snapshot = await unlessItFails(() => readSnapshot(workspace, table, ref));
  const mayBe = ({ image, fingerprint }: SeenFile): boolean =>
    fingerprint.inode === file.inode || names.has(posix.basename(image));
  for (const { device, chain } of snapshot?.devices ?? []) {
    for (const seen of chain.flatMap(filesOfEntry).filter(mayBe)) {
      if (await isIt(workspace.storage, seen, file, true)) return device;
    }
  }
  return undefined;
}

/** mayHaveMoved: whether it may lie elsewhere by now, with nothing in its place. */
async function isIt(
  storage: Storage,
  { image, fingerprint }: SeenFile,
  file: FileStat,
  mayHaveMoved: boolean,
): Promise<boolean> {
  const there = await unlessItFails(() => storage.stat(image));
  if (there) return isSame(there, file);
  // Numbers of inodes come back; with the same birth none does.
  return mayHaveMoved && file.bornNs !== "0" && fingerprint.bornNs !== "0" && isSameFile(fingerprint, file);
}

function isSame(there: FileStat | undefined, file: FileStat): boolean {
  return there !== undefined && identityOf(there) === identityOf(file);
}

function withFoldersAbove(folder: string): string[] {
  const above: string[] = [];
  for (let at = folder; ; at = posix.dirname(at)) {
    above.push(at);
    if (at === "/") return above;
  }
}

/**
 * What can't be read protects nothing here: the commands of its workspace say what is wrong with it. One that has moved
 * elsewhere is added to the roots.
 */
async function readAny(workspace: Workspace, { all, most }: Roots): Promise<StoredTable | undefined> {
  const path = pathsOf(workspace).table;
  const isFile = async () => (await workspace.storage.statLink(path))?.kind === "file";
  if ((await unlessItFails(isFile)) !== true) return undefined;
  const stored = await unlessItFails(() => readTableFile(workspace, path));
  const moved = stored || all.size >= most ? undefined : await readMovedAway(workspace);
  if (moved && isFolderName(moved.to)) all.add(moved.to);
  return stored;
}

// Which device stands on a file, for those who are about to overwrite it and know of no workspace.

import { posix } from "node:path";
import { ImgtxError } from "../errors/index.ts";
import type { FileStat, Storage } from "../storage/index.ts";
import { filesOfDevice } from "./device-entry.ts";
import type { DeviceTable } from "./device-table.ts";
import { pathsOf, readTableFile } from "./workspace.ts";

export interface DeviceOnFile {
  readonly device: string;
  /** The workspace's folder. */
  readonly root: string;
  /** Whether it is the device's own active layer, and not one that others stand on, or a copy. */
  readonly isActive: boolean;
}

/**
 * The first device with the file in its chain, or in its mirror's, of all workspaces in the folders and above
 * them, which are absolute. Nothing is done in these workspaces, so whose they are does not matter.
 */
export async function findDeviceOnFile(
  storage: Storage,
  folders: readonly string[],
  file: FileStat,
): Promise<DeviceOnFile | undefined> {
  const roots = new Set(folders.flatMap(withFoldersAbove));
  for (const root of roots) {
    const table = await readAny(storage, root);
    for (const entry of table?.devices ?? []) {
      for (const { image: path } of filesOfDevice(entry)) {
        const there = await storage.stat(path);
        if (there?.inode === file.inode && there.fileSystem === file.fileSystem) {
          return { device: entry.name, root, isActive: path === entry.image };
        }
      }
    }
  }
  return undefined;
}

function withFoldersAbove(folder: string): string[] {
  const above: string[] = [];
  for (let at = folder; ; at = posix.dirname(at)) {
    above.push(at);
    if (at === "/") return above;
  }
}

/** A table that can't be read protects nothing here: the commands of its workspace say what is wrong with it. */
async function readAny(storage: Storage, root: string): Promise<DeviceTable | undefined> {
  const workspace = { storage, root };
  const path = pathsOf(workspace).table;
  try {
    if ((await storage.statLink(path))?.kind !== "file") return undefined;
    return (await readTableFile(workspace, path)).table;
  } catch (error) {
    if (error instanceof ImgtxError) return undefined;
    throw error;
  }
}

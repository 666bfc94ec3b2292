// Overlays that nobody told of: qcow2 images in the folder of an image whose headers name it as what they stand on.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import type { Storage } from "../../storage/index.ts";
import { hasQcowMagic } from "../probe.ts";
import { readHead, readOwnHeader } from "../read-header.ts";
import { identityOf } from "../fingerprint.ts";
import { composeBackingPath, isProtocolName, localFileOf } from "./backing-name.ts";

/** In a folder of more files, the first so many by name are looked at. */
const FILES_MAX = 4096;

/** What the headers of a folder's files say. */
export interface FolderOverlays {
  readonly folder: string;
  /** The overlays, by what identifies the file that they stand on. */
  readonly byBacking: ReadonlyMap<string, readonly string[]>;
  /** How many files were looked at, and how many nobody looked at. */
  readonly filesSeen: number;
  readonly filesLeft: number;
  /** Paths of the folders in it, but for those of a workspace's own files. */
  readonly folders: readonly string[];
}

/** Reads each header of the folder once. What can't be read is left out: its owner is somebody else. */
export async function readOverlaysIn(storage: Storage, folder: string): Promise<FolderOverlays> {
  const names = await storage.readFolder(folder);
  const byBacking = new Map<string, string[]>();
  const folders: string[] = [];
  const seen = names.slice(0, FILES_MAX);
  for (const name of seen) {
    const path = posix.join(folder, name);
    const kind = (await storage.statLink(path))?.kind;
    if (kind === "folder" && name !== ".imgtx") folders.push(path);
    const backing = kind === "file" ? await findBacking(storage, path) : undefined;
    if (backing === undefined) continue;
    const others = byBacking.get(backing);
    if (others) others.push(path);
    else byBacking.set(backing, [path]);
  }
  const [filesSeen, filesLeft] = [seen.length, names.length - seen.length];
  return { folder, byBacking, filesSeen, filesLeft, folders };
}

/** What identifies the file that the image in this file stands on. mayBeDevice: where images of the workspace were on it. */
export async function findBacking(
  storage: Storage,
  path: string,
  mayBeDevice = false,
): Promise<string | undefined> {
  try {
    const file = await storage.openFile(path, "read", { mayBeDevice });
    try {
      if (!hasQcowMagic(await readHead(file))) return undefined;
      const { backingFileName } = await readOwnHeader(file, path);
      if (backingFileName === undefined) return undefined;
      if (isProtocolName(backingFileName) && localFileOf(backingFileName) === undefined) return undefined;
      const backing = await storage.stat(composeBackingPath(path, backingFileName, posix.dirname(path)));
      return backing && identityOf(backing);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof ImgtxError && error.code !== "E_INTERNAL") return undefined;
    throw error;
  }
}

// Overlays that nobody told of: qcow2 images in the folder of an image whose headers name it as what they stand on.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import type { Storage } from "../../storage/index.ts";
import { hasQcowMagic } from "../probe.ts";
import { readHead, readOwnHeader } from "../read-header.ts";
import { identityOf } from "../fingerprint.ts";
import { composeBackingPath, isProtocolName } from "./backing-name.ts";

/** In a folder of more files, the first so many by name are looked at. */
const FILES_MAX = 4096;

/** Their paths, in its own folder or another one. What can't be read is left out: its owner is somebody else. */
export async function findOverlaysBeside(
  storage: Storage,
  image: string,
  folder = posix.dirname(image),
): Promise<string[]> {
  const stat = await storage.stat(image);
  if (stat === undefined) return [];
  const identity = identityOf(stat);
  const names = (await storage.readFolder(folder)).slice(0, FILES_MAX);
  const overlays: string[] = [];
  for (const name of names) {
    const path = posix.join(folder, name);
    if (path !== image && (await namesAsBacking(storage, path, identity))) overlays.push(path);
  }
  return overlays;
}

async function namesAsBacking(storage: Storage, path: string, identity: string): Promise<boolean> {
  const stat = await storage.statLink(path);
  if (stat?.kind !== "file") return false;
  try {
    const file = await storage.openFile(path, "read");
    try {
      if (!hasQcowMagic(await readHead(file))) return false;
      const { backingFileName } = await readOwnHeader(file, path);
      if (backingFileName === undefined || isProtocolName(backingFileName)) return false;
      const backing = await storage.stat(composeBackingPath(path, backingFileName, posix.dirname(path)));
      return backing !== undefined && identityOf(backing) === identity;
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof ImgtxError && error.code !== "E_INTERNAL") return false;
    throw error;
  }
}

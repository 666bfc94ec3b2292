// How paths are kept in the device table and the journals: relative to the workspace where they lie
// inside it, so that a workspace can be moved as a whole, and to a workspace beside an image where they lie beside it;
// else absolute. In memory every path is absolute
// and canonical: its folder has no symbolic link left in it. The last part is kept as it was named,
// because QEMU resolves relative backing names beside a link, not beside what it points to.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import { isBesideImage } from "../../format/index.ts";
import { kindOfFileSystem, type Storage } from "../../storage/index.ts";

export function toStoredPath(root: string, path: string): string {
  if (isBelow(root, path)) return pathBelow(root, path);
  const folder = posix.dirname(root);
  return isBesideImage(root) && isBelow(folder, path) ? `../${pathBelow(folder, path)}` : path;
}

export function fromStoredPath(root: string, stored: string): string {
  if (posix.isAbsolute(stored)) return stored;
  // A table may have fifty thousand: most need no more than this.
  return root === "/" || NO_PLAIN_NAME.test(stored) ? posix.join(root, stored) : `${root}/${stored}`;
}

const NO_PLAIN_NAME = /(?:^|\/)\.{0,2}(?:\/|$)/;

export function isBelow(root: string, path: string): boolean {
  return path.startsWith(root === "/" ? root : `${root}/`);
}

/** The part of a canonical path after a folder that it is inside of. */
export function pathBelow(root: string, path: string): string {
  return path.slice(root === "/" ? 1 : root.length + 1);
}

/** The canonical form of an absolute path whose folder exists, else E_NOT_FOUND. The file itself need not. */
export async function canonicalPath(storage: Storage, path: string): Promise<string> {
  return await canonicalPathsOf(storage)(path);
}

/** The same of many paths at one moment: each folder is asked for once. */
export function canonicalPathsOf(storage: Storage): (path: string) => Promise<string> {
  const folders = new Map<string, Promise<RealFolder>>();
  return async (path) => {
    const name = posix.basename(path);
    if (name === "" || name === "." || name === "..") {
      throw new ImgtxError("E_NOT_A_FILE", `'${path}' names a folder, not a file`, { image: path });
    }
    const folder = posix.dirname(path);
    const asked = folders.get(folder) ?? lookAtFolder(storage, folder);
    folders.set(folder, asked);
    const { real, mayFold } = await asked;
    const canonical = posix.join(real, name);
    const isFile = mayFold && (await storage.statLink(canonical))?.kind === "file";
    return isFile ? await storage.realPath(canonical) : canonical;
  };
}

interface RealFolder {
  readonly real: string;
  /** Whether its files may be found in other letters than it lists. */
  readonly mayFold: boolean;
}

async function lookAtFolder(storage: Storage, folder: string): Promise<RealFolder> {
  const real = await realFolder(storage, folder);
  const stat = await storage.stat(real);
  return { real, mayFold: !kindOfFileSystem(stat?.fileSystemId ?? "").keepsInodes };
}

/** The canonical path of a folder; E_NOT_FOUND where there is none. */
export async function realFolder(storage: Storage, folder: string): Promise<string> {
  try {
    return await storage.realPath(folder);
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code !== "E_NOT_FOUND") throw error;
    throw error.reworded(`there is no folder '${folder}'`, {
      hint: "name a folder that is there, or make it",
    });
  }
}

/** E_NOT_A_FILE for what is there, and no folder, though a file in it was named. */
export async function assertFolder(
  storage: Pick<Storage, "stat">,
  folder: string,
  named = folder,
): Promise<void> {
  if ((await storage.stat(folder))?.kind === "folder") return;
  throw new ImgtxError("E_NOT_A_FILE", `'${named}' is not a folder`, {
    image: folder,
    hint: "name a folder that is there, or make it",
  });
}

/**
 * E_REFUSED for a path in the own folder of any workspace, `devices/…` among them: a view is taken away
 * two generations later, and a device that was named by it, or an image that was put there, is lost to it.
 */
export function assertOutsideOwnFolder(path: string): void {
  if (!path.split("/").includes(".imgtx")) return;
  throw new ImgtxError("E_REFUSED", "it is in a folder that imgtx keeps its own files in, and replaces", {
    image: path,
    hint: "name the image by a path of its own, not through `devices` or `.imgtx`",
  });
}

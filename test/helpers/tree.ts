// What a folder holds, in a form that shows every difference: names, kinds, inodes, modes and contents. For
// claims such as "an abort leaves the tree as it was".

import { createHash } from "node:crypto";
import { lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import path from "node:path";

/** One line a name, sorted. Compared with toEqual, so that a failing test names the file. */
export type TreeSnapshot = readonly string[];

/** Everything below root, but not what is in the folders of `except` (paths relative to root). */
export function snapshotTree(root: string, except: readonly string[] = []): TreeSnapshot {
  return listPaths(root, "", new Set(except)).map((name) => describeEntry(path.join(root, name), name));
}

/** The workspace's tree without what imgtx may leave of a transaction: the journals' folder. */
export function snapshotWorkspace(root: string): TreeSnapshot {
  return snapshotTree(root, [".imgtx/journal"]);
}

/** Paths of everything below root, relative to it. */
function listPaths(root: string, below = "", except: ReadonlySet<string> = new Set()): string[] {
  return readdirSync(path.join(root, below), { withFileTypes: true })
    .flatMap((entry) => {
      const name = path.join(below, entry.name);
      const inside = entry.isDirectory() && !except.has(name) ? listPaths(root, name, except) : [];
      return [name, ...inside];
    })
    .sort();
}

function describeEntry(file: string, name: string): string {
  const { ino, mode } = lstatSync(file);
  return `${name} inode ${ino} mode ${mode.toString(8)} ${describeContent(file)}`;
}

function describeContent(file: string): string {
  const stat = lstatSync(file);
  if (stat.isSymbolicLink()) return `-> ${readlinkSync(file)}`;
  if (!stat.isFile()) return "";
  return `${stat.size} bytes ${createHash("sha256").update(readFileSync(file)).digest("hex")}`;
}

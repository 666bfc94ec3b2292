// How a workspace knows itself. Its table and its journals are made anew, as files, each time that they are
// replaced, and each names within itself the file that it was written to. What cp, tar, rsync or a backup made
// of it is another file, and does not match; what was renamed, moved with its folders, or mounted again does. A copy by
// hard links has the very files, in folders of its own: the table names its folder as well.
//
// Invariants
// - A file system that does not keep inode numbers over mounts can't show a copy by them: there a file is taken
//   for itself. Nothing that happens to a workspace which nobody copied makes it look like a copy.
// - What was written before there were marks has none, and is taken for itself.

import type { FileStat, Storage } from "../../storage/index.ts";
import { isText, objectOf } from "./data-shape.ts";

export interface FileMark {
  readonly inode: string;
  /** Nanoseconds since 1970; "0" where the file system keeps no birth times. */
  readonly bornNs: string;
}

export const isFileMark = objectOf<FileMark>({ inode: isText, bornNs: isText });

export function markOf({ inode, bornNs }: FileStat): FileMark {
  return { inode, bornNs };
}

/** Whether the file is the one that its content was written to. */
export async function isMarkedFile(
  storage: Storage,
  path: string,
  stat: FileStat,
  mark: FileMark | null,
): Promise<boolean> {
  if (mark === null || isSame(stat, mark)) return true;
  return !(await storage.describeFileSystem(path)).keepsInodes;
}

function isSame(stat: FileStat, mark: FileMark): boolean {
  if (stat.inode !== mark.inode) return false;
  // A newer kernel may tell a birth time that an older one did not.
  return stat.bornNs === mark.bornNs || stat.bornNs === "0" || mark.bornNs === "0";
}

// Whether the disk is there that a file was planned on. A file that can't be seen may be on one that is not mounted,
// or in whose place another is, with a file of the same name: then nothing is known of it, and it has to be waited for.
//
// Invariant: of a folder that no journal has marked, its being there is all that is asked.

import { posix } from "node:path";
import { isMarkedFile, markOf } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { type Fingerprint, isSameFile } from "../../format/index.ts";
import type { Storage } from "../../storage/index.ts";
import {
  copiesOf,
  lastSeen,
  type PlannedFolder,
  type PlanRecord,
  redoOf,
  type TransactionState,
} from "../journal/index.ts";

/** The folders of these files, each once, as they are now. */
export async function markFolders(storage: Storage, paths: readonly string[]): Promise<PlannedFolder[]> {
  const folders = [...new Set(paths.map((path) => posix.dirname(path)))];
  const marked = await Promise.all(
    folders.map(async (path) => {
      const stat = await storage.stat(path);
      return stat ? [{ path, mark: markOf(stat) }] : [];
    }),
  );
  return marked.flat();
}

/** A mount point without its disk is another folder, and so is one that was made anew. */
export async function isDiskThere(
  storage: Storage,
  path: string,
  folders: PlanRecord["folders"],
): Promise<boolean> {
  const folder = posix.dirname(path);
  const stat = await storage.stat(folder);
  if (stat?.kind !== "folder") return false;
  const mark = folders.find((one) => one.path === folder)?.mark ?? null;
  return await isMarkedFile(storage, folder, stat, mark);
}

/** Whether an image may be on a disk that is not there: it can't be seen, or what has its name is of another disk. */
export async function isElsewhere(
  storage: Storage,
  image: string,
  { expected, folders }: { readonly expected: Fingerprint; readonly folders: PlanRecord["folders"] },
): Promise<boolean> {
  const there = await storage.stat(image);
  if (there && isSameFile(expected, there)) return false;
  return !(await isDiskThere(storage, image, folders));
}

/**
 * E_NOT_FOUND where the disk is away of one of these images, which is still to be changed or copied into: what waits
 * writes nothing, however often it is tried, so that is asked before any of it is done.
 */
export async function assertDisksThere(
  storage: Storage,
  state: TransactionState,
  images: readonly string[],
): Promise<void> {
  const seen = lastSeen(state);
  const redone = redoOf(state);
  const copied = new Set(copiesOf(state).map(({ into }) => into));
  for (const image of images) {
    const expected = seen.get(image)?.fingerprint;
    const isPending = copied.has(image) || (redone.has(image) && !state.applied.has(image));
    if (!expected || !isPending) continue;
    if (await isElsewhere(storage, image, { expected, folders: foldersOf(state) }))
      throw diskIsAway(image, "it is still to be changed");
  }
}

export function foldersOf({ statements }: TransactionState): PlannedFolder[] {
  return statements.flatMap(({ plan }) => plan.folders);
}

/** What is to be done to a file whose disk is not there. */
export function diskIsAway(path: string, what: string): ImgtxError {
  return new ImgtxError("E_NOT_FOUND", `the disk that it is on is not there, and ${what}`, {
    image: path,
    hint: "mount the disk, then run `imgtx recover`",
  });
}

// Fills the files of a relocation, one after the other: copied, read back, and given the times and the mode of their sources.

import { posix } from "node:path";
import { ImgtxError } from "../../../errors/index.ts";
import type { FileStat, Storage, StorageFile } from "../../../storage/index.ts";
import { copyFile, type FileCopy, verifyFile } from "../../images/copy-file.ts";
import { type FileToMake, type FillTools, progressOf } from "../plan/action.ts";

export interface PlannedFileCopy {
  readonly source: { readonly path: string; readonly file: StorageFile; readonly stat: FileStat };
  /** What the copy begins with instead. */
  readonly head: Uint8Array | undefined;
  readonly toMake: FileToMake;
}

/** E_NO_SPACE before the first byte where the disk has no room for what is still to be written. */
export async function fillCopies(
  copies: readonly PlannedFileCopy[],
  files: readonly StorageFile[],
  { folder, storage }: { readonly folder: string; readonly storage: Storage },
  tools: FillTools,
): Promise<void> {
  const totalBytes = copies.reduce((sum, { source }) => sum + source.stat.allocatedBytes, 0);
  const tell = progressOf(tools, `moving to ${posix.basename(folder)}`);
  let doneBytes = 0;
  const onProgress = (lengthBytes: number): void => {
    doneBytes += lengthBytes;
    // Half of the work is to read it back.
    tell?.(Math.min(doneBytes / 2, totalBytes), totalBytes);
  };
  let isRoomKnown = false;
  for (const [index, { source, head, toMake }] of copies.entries()) {
    const target = files[index];
    if (!target) throw new Error("a file for each copy was planned");
    const copy: FileCopy = { source: source.file, target, head };
    const startBytes = tools.resumeAt(index) ?? 0;
    const makeRoom = async (): Promise<void> => {
      if (isRoomKnown) return;
      isRoomKnown = true;
      await assertRoom(copies.slice(index), files.slice(index), { folder, storage });
    };
    await copyFile(copy, {
      startBytes,
      signal: tools.signal,
      throttle: async (lengthBytes) => {
        await makeRoom();
        await tools.throttle?.(lengthBytes);
      },
      onProgress,
      isMarkDue: () => tools.isMarkDue(index),
      keepMark: async (offset) => await tools.keepMark(index, offset),
    });
    await verify(copy, source.stat, { signal: tools.signal, onProgress });
    await giveRights(target, source.stat, toMake);
  }
}

/** E_CHANGED where the source is not what was planned: then no disk is to blame. */
async function verify(
  copy: FileCopy,
  { modifiedNs }: FileStat,
  how: Parameters<typeof verifyFile>[1],
): Promise<void> {
  try {
    await verifyFile(copy, how);
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code !== "E_IO") throw error;
    if ((await copy.source.stat()).modifiedNs === modifiedNs) throw error;
    throw new ImgtxError("E_CHANGED", "somebody wrote to it while it was copied", {
      image: copy.source.path,
      hint: "stop the guest or program that writes to it, then run the command again",
      cause: error,
    });
  }
}

/** What is there already of a copy that goes on needs no room. */
async function assertRoom(
  copies: readonly PlannedFileCopy[],
  files: readonly StorageFile[],
  { folder, storage }: { readonly folder: string; readonly storage: Storage },
): Promise<void> {
  let wantedBytes = 0;
  for (const [index, { source }] of copies.entries()) {
    const there = (await files[index]?.stat())?.allocatedBytes ?? 0;
    wantedBytes += Math.max(0, source.stat.allocatedBytes - there);
  }
  await (await storage.reserveSpace(folder, wantedBytes)).release();
}

/** A mode without the owner's right to write is one that a copy could not be gone on with: it comes last. */
async function giveRights(
  target: StorageFile,
  { mode, modifiedNs, ...source }: FileStat,
  { acl }: FileToMake,
): Promise<void> {
  const made = await target.stat();
  const isTheirs = made.ownerId === source.ownerId && made.groupId === source.groupId;
  if (isTheirs && !acl && made.mode !== mode) {
    await target.setAccess({ mode, ownerId: made.ownerId, groupId: made.groupId });
  }
  await target.setModified(modifiedNs);
}

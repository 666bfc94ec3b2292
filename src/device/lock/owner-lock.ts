// The owner of a `txn exec` transaction: the process that runs the command and will commit or abort.
//
// Its life is shown by an open-file-description lock on one byte of the workspace's lock file, derived
// from the transaction's id. Not by a lock on the journal: the commands inside lock that one in turn, and
// may replace it.

import { elseClosed, whileOpen } from "../../errors/index.ts";
import { createHash } from "node:crypto";
import { lockFile, type StorageFile } from "../../storage/index.ts";
import { findLiveness, type Liveness, type Worker } from "./liveness.ts";
import { pathsOf, type Workspace } from "../workspace/workspace.ts";

/** Holds the owner's lock until the file that it returns is closed. */
export async function lockOwner(workspace: Workspace, id: string): Promise<StorageFile> {
  return await elseClosed(
    await workspace.storage.openFile(pathsOf(workspace).lock, "write"),
    async (file) => {
      const waiting = { waitMs: 0, onWait: () => undefined };
      await lockFile(workspace.storage, file, ownerByte(id), waiting, `transaction ${id}`);
      return file;
    },
  );
}

/**
 * Whether the owner lives. Its lock is enough; where that is free, the file may be another one by now, or the lock of
 * another mounting: the process itself is asked for.
 */
export async function findOwner(workspace: Workspace, id: string, owner: Worker | null): Promise<Liveness> {
  const { lock } = pathsOf(workspace);
  const isThere = (await workspace.storage.statLink(lock))?.kind === "file";
  if (isThere && (await isLocked(workspace, lock, id))) return "alive";
  // A lost lock file says nothing of who holds it.
  return owner === null && !isThere ? "alive" : await findLiveness(workspace, owner);
}

async function isLocked({ storage }: Workspace, lock: string, id: string): Promise<boolean> {
  return await whileOpen(await storage.openFile(lock, "read"), (file) => {
    return file.wouldConflict(ownerByte(id), "exclusive");
  });
}

/** Bytes 1 to 2^48: after the byte that stands for the workspace. Ids are random, so two rarely meet. */
function ownerByte(id: string): { start: number; lengthBytes: number } {
  return { start: 1 + createHash("sha256").update(id).digest().readUIntBE(0, 6), lengthBytes: 1 };
}

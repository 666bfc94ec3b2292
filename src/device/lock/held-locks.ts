// Which workspaces this process has locked, so that what needs the lock can say so before it writes.

import { ImgtxError } from "../../errors/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import type { Claim } from "./claims.ts";
import { pathsOf, type Workspace } from "../workspace/workspace.ts";

/** The lock of a workspace, which closing gives back. */
export type WorkspaceLock = Pick<StorageFile, "close">;

const held = new WeakMap<Workspace, Set<StorageFile>>();

export function keepLock(workspace: Workspace, file: StorageFile, claim: Claim): WorkspaceLock {
  const locks = held.get(workspace) ?? new Set();
  held.set(workspace, locks.add(file));
  return {
    close: async () => {
      locks.delete(file);
      try {
        // First: a claim that outlives its lock would count as left by a crash.
        await claim.drop();
      } finally {
        await file.close();
      }
    },
  };
}

export function isLocked(workspace: Workspace): boolean {
  return (held.get(workspace)?.size ?? 0) > 0;
}

/** E_INTERNAL where the workspace is not locked: another process could change the same thing at this moment. */
export function assertLocked(workspace: Workspace, what: string): void {
  if (isLocked(workspace)) return;
  throw new ImgtxError("E_INTERNAL", `${what} is written without the workspace's lock`, {
    image: pathsOf(workspace).table,
  });
}

// The lock of a workspace: held only while the table or the set of journals changes hands, never while data moves.
//
// Invariants
// - Only who may write to the workspace can open the file. A shared lock needs no more than reading, and anybody's would
//   keep all others out.
// - Where locks are not seen by all, who has the lock has a claim as well: see claims.ts.

import { elseClosed, ImgtxError, whileOpen } from "../../errors/index.ts";
import { type LockWaiting, lockFile, type Storage, type StorageFile } from "../../storage/index.ts";
import { type Claim, claimWorkspace, waitForClaim } from "./claims.ts";
import { isLocked, keepLock, type WorkspaceLock } from "./held-locks.ts";
import { clearTheWay } from "../workspace/in-the-way.ts";
import { assertFolders } from "../workspace/lost-parts.ts";
import { readPresent } from "../history/present-table.ts";
import { assertOwn } from "./standing.ts";
import { pathsOf, type Workspace } from "../workspace/workspace.ts";

const LOCK_MODE = 0o600;

/** Byte of the lock file that stands for the workspace as a whole. */
const WORKSPACE_BYTE = { start: 0, lengthBytes: 1 };

/** The lock is held for moments: even a command that does not wait for others waits for that. */
const GRACE_MS = 5_000;

/**
 * Takes the workspace lock; closing what it returns gives it back. E_BUSY when it is held, E_EXISTS where a
 * name in .imgtx is taken by something else.
 */
export async function lockWorkspace(workspace: Workspace, waiting: LockWaiting): Promise<WorkspaceLock> {
  await assertOwn(workspace);
  return await unlessMovedAway(workspace, await lockAsItIs(workspace, waiting));
}

/** E_NO_WORKSPACE where somebody has moved the workspace while its lock was waited for. */
async function unlessMovedAway(workspace: Workspace, lock: WorkspaceLock): Promise<WorkspaceLock> {
  try {
    await readPresent(workspace);
    return lock;
  } catch (error) {
    await lock.close();
    throw error;
  }
}

/** The same for as long as the work takes. */
export async function underWorkspaceLock<T>(
  workspace: Workspace,
  waiting: LockWaiting,
  work: () => Promise<T>,
): Promise<T> {
  return await whileOpen(await lockWorkspace(workspace, waiting), work);
}

/** The same, where the caller may hold the lock already. */
export async function insideWorkspaceLock<T>(
  workspace: Workspace,
  waiting: LockWaiting,
  work: () => Promise<T>,
): Promise<T> {
  return isLocked(workspace) ? await work() : await underWorkspaceLock(workspace, waiting, work);
}

/** The same, of a workspace that may be a copy: to make it one of its own. */
export async function lockAsItIs(workspace: Workspace, waiting: LockWaiting): Promise<WorkspaceLock> {
  await assertFolders(workspace);
  const patient =
    waiting.waitMs >= GRACE_MS ? waiting : { ...waiting, waitMs: GRACE_MS, onWait: () => undefined };
  for (;;) {
    const file = await openLock(workspace);
    try {
      await lockFile(workspace.storage, file, WORKSPACE_BYTE, patient, "the workspace");
      if (await isNamed(workspace, file))
        return keepLock(workspace, file, await waitForClaim(workspace, patient));
      await file.close();
    } catch (error) {
      await file.close();
      throw error;
    }
  }
}

/** The same without waiting at all: undefined when it is held. */
export async function lockWorkspaceIfFree(
  workspace: Workspace,
  { asItIs = false } = {},
): Promise<WorkspaceLock | undefined> {
  if (!asItIs) await assertOwn(workspace);
  const file = await openLock(workspace);
  let claim: Claim | undefined;
  try {
    if (!file.lock(WORKSPACE_BYTE, "exclusive") || !(await isNamed(workspace, file))) return undefined;
    ({ claim } = await claimWorkspace(workspace));
  } finally {
    if (!claim) await file.close();
  }
  if (!claim) return undefined;
  const lock = keepLock(workspace, file, claim);
  return asItIs ? lock : await unlessMovedAway(workspace, lock);
}

/** A lock stays with the file: one that was removed meanwhile, and made again by another process, is no lock. */
async function isNamed({ storage }: Workspace, file: StorageFile): Promise<boolean> {
  return (await file.stat()).inode === (await storage.statLink(file.path))?.inode;
}

/** Made again where it is lost, or something else has its name: it holds nothing. */
async function openLock(workspace: Workspace): Promise<StorageFile> {
  const { storage } = workspace;
  const { lock } = pathsOf(workspace);
  if ((await storage.statLink(lock))?.kind !== "file") {
    await clearTheWay(storage, lock);
    await makeLock(storage, lock);
  }
  return await elseClosed(await storage.openFile(lock, "write", { refuseSymlink: true }), async (file) => {
    await closeToOthers(workspace, file);
    return file;
  });
}

async function makeLock(storage: Storage, lock: string): Promise<void> {
  try {
    await (await storage.createFile(lock, LOCK_MODE)).close();
  } catch (error) {
    // Another process made it at the same moment.
    if (!(error instanceof ImgtxError && error.code === "E_EXISTS")) throw error;
  }
}

/** A lock file that an older imgtx made is open for reading. */
async function closeToOthers({ storage, root }: Workspace, file: StorageFile): Promise<void> {
  const stat = await file.stat();
  if ((stat.mode & ~LOCK_MODE) === 0 || ![stat.ownerId, 0].includes(storage.host.userId)) return;
  if ((await storage.describeFileSystem(root)).keepsModes) await file.setAccess({ ...stat, mode: LOCK_MODE });
}

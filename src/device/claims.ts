// The lock of a workspace once more, by names alone: for commands that see no locks of each other, through two
// mountings of one folder, from two machines, or with a lock file that somebody has removed.
//
// Who has the lock makes a link of a name of its own in .imgtx, and then looks at all others. Of two that do so at the
// same moment, the one that made its link later sees the other's, and gives way: so both may, but never neither.
//
// Invariants
// - A link says in its text whose it is: there is no moment at which it says nothing.
// - A name is given once. So to remove what a dead process left can hit no other's, whoever removes it at the same time.
// - Nothing is flushed: after a power cut nobody that has a claim is alive, whether its link is there or not.
// - Only what has provably gone is removed. What may be alive is waited for, and then told.
//
// Decision, 2026-11-27: it is taken on every file system, since who works on the disk itself can't know who has it by
// another mounting; and for all that the lock is for, since journals and staged names would collide as the table does.
// It costs three calls, and no flush.

import { posix } from "node:path";
import { ImgtxError } from "../errors/index.ts";
import { shellQuote } from "../format/index.ts";
import { type LockWaiting, type Refusal, waitForLock } from "../storage/index.ts";
import { describeWorker, findLiveness, isWorker, sayWorker, type Worker } from "./liveness.ts";
import { forgetTable } from "./present-table.ts";
import { pathsOf, type Workspace } from "./workspace.ts";

/** This process's. */
export interface Claim {
  drop(): Promise<void>;
}

export const CLAIM_NAME = /^claim\.[a-z0-9]+$/;

/** Of a process that can't be seen: what it holds the workspace for takes less, and if it has gone nobody gives it back. */
const UNSEEN_MS = 5_000;

/** Waits for others. The caller has the lock. E_BUSY where it takes too long. */
export async function waitForClaim(workspace: Workspace, waiting: LockWaiting): Promise<Claim> {
  const { host } = workspace.storage;
  const started = host.monotonicMs();
  let claim: Claim | undefined;
  await waitForLock(host, waiting, 0, async () => {
    const attempt = await claimWorkspace(workspace);
    ({ claim } = attempt);
    const { other } = attempt;
    if (!other) return undefined;
    if (other.isUnseen && host.monotonicMs() - started >= UNSEEN_MS) throw await other.toError();
    return other;
  });
  if (claim) return claim;
  throw new ImgtxError("E_INTERNAL", "the workspace was not claimed", { image: pathsOf(workspace).lock });
}

interface Attempt {
  readonly claim?: Claim;
  /** Whose claim is in the way. */
  readonly other?: Refusal & { readonly isUnseen: boolean };
}

/** Without waiting. The caller has the lock. */
export async function claimWorkspace(workspace: Workspace): Promise<Attempt> {
  const worker = await describeWorker(workspace);
  const own = await makeLink(workspace, worker);
  const claim = {
    drop: async () => {
      if (own !== undefined) await removeOwn(workspace, own);
    },
  };
  try {
    const other = await findOther(workspace, own);
    if (other) {
      await claim.drop();
      return { other };
    }
    // Who has shared no lock has not been waited for by it either: the table may have moved since it was read.
    if (!worker.sharesLocks) forgetTable(workspace);
    return { claim };
  } catch (error) {
    await claim.drop();
    throw error;
  }
}

/** Undefined where a full disk has no room for it, and the lock is all that there is: what takes back needs none. */
async function makeLink(workspace: Workspace, worker: Worker): Promise<string | undefined> {
  const { storage } = workspace;
  const path = posix.join(pathsOf(workspace).own, `claim.${storage.host.randomName()}`);
  try {
    await storage.makeSymlink(JSON.stringify(worker), path);
    return path;
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    if (error.code === "E_NO_SPACE" && worker.sharesLocks) return undefined;
    throw error.reworded(error.message, { image: pathsOf(workspace).lock });
  }
}

/** What stays is removed by the next one, once this process has ended: no reason to fail with what is done. */
async function removeOwn({ storage }: Workspace, path: string): Promise<void> {
  try {
    await storage.removeFile(path);
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
  }
}

/** Somebody else's claim that counts. Those of processes that have gone are removed on the way. */
async function findOther(workspace: Workspace, own: string | undefined): Promise<Attempt["other"]> {
  const folder = pathsOf(workspace).own;
  const names = (await workspace.storage.readFolder(folder)).filter((name) => CLAIM_NAME.test(name));
  const paths = names.map((name) => posix.join(folder, name));
  if (own !== undefined && !paths.includes(own)) throw notShown(folder);
  for (const path of paths) {
    if (path === own) continue;
    const text = await readLink(workspace, path);
    if (text === undefined) continue;
    const worker = decodeClaim(text);
    const life = worker && (await findLiveness(workspace, worker));
    if (life === "gone") await removeLeft(workspace, path);
    else return refuse(workspace, path, worker, life !== "alive");
  }
  return undefined;
}

/** Who does not see its own would not see another's. */
function notShown(folder: string): ImgtxError {
  return new ImgtxError("E_BUSY", `a link that was made in '${folder}' is not shown there`, {
    image: folder,
    hint: "somebody has just removed it, or the folder is shown as it was a while ago: try again, or mount it without a cache",
  });
}

/** Undefined where it has just gone, or is none. */
async function readLink({ storage }: Workspace, path: string): Promise<string | undefined> {
  if ((await storage.statLink(path))?.kind !== "symlink") return undefined;
  return await unlessGone(async () => await storage.readSymlink(path));
}

async function removeLeft({ storage }: Workspace, path: string): Promise<void> {
  await unlessGone(async () => {
    await storage.removeFile(path);
  });
}

async function unlessGone<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_NOT_FOUND") return undefined;
    throw error;
  }
}

/** Whose it is; undefined where it does not say so. */
function decodeClaim(text: string): Worker | undefined {
  try {
    const worker: unknown = JSON.parse(text);
    return isWorker(worker) ? worker : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function refuse(
  workspace: Workspace,
  path: string,
  worker: Worker | undefined,
  isUnseen: boolean,
): Attempt["other"] {
  const who = worker ? sayWorker(workspace, worker) : "a process that it does not name";
  const remove = `\`rm ${shellQuote(path)}\``;
  return {
    isUnseen,
    describe: async () => await Promise.resolve(`the workspace, claimed by ${who}`),
    toError: async () =>
      await Promise.resolve(
        new ImgtxError(
          "E_BUSY",
          `the workspace is busy: claimed by ${who}, which shares no locks with this one`,
          {
            image: path,
            hint: isUnseen
              ? `make sure that it has ended, there: then ${remove} and try again`
              : "try again when it is done, or wait for it with --wait",
          },
        ),
      ),
  };
}

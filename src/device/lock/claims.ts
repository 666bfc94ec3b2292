// The lock of a workspace once more, by names alone: for commands that see no locks of each other, through two
// mountings of one folder, or from two machines.
//
// Who has the lock makes a link of a name of its own in .imgtx/claims, and then looks at all others. Of two that do so
// at the same moment, the one that made its link later sees the other's, and gives way: so both may, but never neither.
//
// Invariants
// - A link says in its text whose it is: there is no moment at which it says nothing.
// - A name is given once. So to remove what a dead process left can hit no other's, whoever removes it at the same time.
// - Nothing is flushed: after a power cut nobody that has a claim is alive, whether its link is there or not.
// - Only what has provably gone is removed, but by a person's word. What may be alive is waited for, and then told.
//
// Decisions, 2026-11-28
// - Claims are made where the file system does not say that all see its locks. The first one makes the folder, and from
//   then on everybody makes them: who works on the disk itself can't know who has the workspace by another mounting. So a
//   workspace whose locks all see gets no claim, no file and no call more than a look at that name.
// - They stand for all that the lock is for: journals, staged names and snapshots' numbers would collide as the table does.

import { posix } from "node:path";
import { ImgtxError, unlessItFails } from "../../errors/index.ts";
import { type LockWaiting, type Refusal, type Storage, waitForLock } from "../../storage/index.ts";
import { parseJson } from "../table/data-shape.ts";
import { historyPath } from "../history/history.ts";
import { describeWorker, findLiveness, isWorker, sayWorker, type Worker } from "./liveness.ts";
import { forgetTable, readTable } from "../history/present-table.ts";
import { pathsOf, type Workspace } from "../workspace/workspace.ts";

/** This process's. */
export interface Claim {
  drop(): Promise<void>;
}

const NO_CLAIM: Claim = { drop: async () => await Promise.resolve() };

const FOLDER_MODE = 0o755;

const CLAIM_NAME = /^claim-[a-z0-9]+$/;

/** Of a process that can't be seen: what it holds the workspace for takes less, and if it has gone nobody gives it back. */
const UNSEEN_MS = 5_000;

/** For longer no usual mounting shows a name as it was: FUSE one second, NFS asks as a file is opened. */
const STALE_MS = 2_000;

const LOOK_AGAIN_MS = 100;

/** Whether the lock alone leaves somebody out. */
export async function areClaimsNeeded(workspace: Workspace): Promise<boolean> {
  const { storage, root } = workspace;
  if ((await storage.statLink(pathsOf(workspace).claims))?.kind === "folder") return true;
  return !(await storage.describeFileSystem(root)).sharesLocks;
}

/** Waits for others. The caller has the lock. E_BUSY where it takes too long. */
export async function waitForClaim(workspace: Workspace, waiting: LockWaiting): Promise<Claim> {
  const { host } = workspace.storage;
  let claim: Claim | undefined;
  let unseen: { readonly path: string; readonly sinceMs: number } | undefined;
  await waitForLock(host, waiting, 0, async () => {
    const attempt = await claimWorkspace(workspace);
    ({ claim } = attempt);
    const { other } = attempt;
    if (!other) return undefined;
    const nowMs = host.monotonicMs();
    // Others come and go: one and the same that stays.
    if (!other.isUnseen) unseen = undefined;
    else if (unseen?.path !== other.path) unseen = { path: other.path, sinceMs: nowMs };
    if (unseen && nowMs - unseen.sinceMs >= UNSEEN_MS) throw await other.toError();
    return other;
  });
  if (claim) return claim;
  throw new ImgtxError("E_INTERNAL", "the workspace was not claimed", { image: pathsOf(workspace).claims });
}

interface Attempt {
  readonly claim?: Claim;
  /** Whose claim is in the way. */
  readonly other?: Refusal & { readonly path: string; readonly isUnseen: boolean };
}

/** Without waiting. The caller has the lock. */
export async function claimWorkspace(workspace: Workspace): Promise<Attempt> {
  if (!(await areClaimsNeeded(workspace))) return { claim: NO_CLAIM };
  const { storage } = workspace;
  const own = await makeLink(workspace, await describeWorker(workspace));
  const claim = { drop: async () => await removeOwn(storage, own) };
  try {
    const other = await findOther(workspace, own);
    if (other) {
      await claim.drop();
      return { other };
    }
    await showAnew(workspace);
    return { claim };
  } catch (error) {
    await claim.drop();
    throw error;
  }
}

async function makeLink(workspace: Workspace, worker: Worker): Promise<string> {
  const { storage } = workspace;
  const { claims } = pathsOf(workspace);
  if (!(await storage.statLink(claims))) await makeFolder(storage, claims);
  const path = posix.join(claims, `claim-${storage.host.randomName()}`);
  try {
    await storage.makeSymlink(JSON.stringify(worker), path);
    return path;
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    // As for the lock, which is next to it: then nothing in the workspace can be changed.
    throw error.reworded(error.message, { image: pathsOf(workspace).lock });
  }
}

/** Never flushed: claims that a power cut takes away are of nobody. */
async function makeFolder(storage: Storage, path: string): Promise<void> {
  await unlessItFails(() => storage.makeFolder(path, FOLDER_MODE), ["E_EXISTS"]);
}

/** What stays is removed by the next one, once this process has ended: no reason to fail with what is done. */
async function removeOwn(storage: Storage, path: string): Promise<void> {
  try {
    await storage.removeFile(path);
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
  }
}

/** Somebody else's claim that counts. Those of processes that have gone are removed on the way. */
async function findOther(workspace: Workspace, own: string): Promise<Attempt["other"]> {
  const { storage } = workspace;
  const paths = await listClaims(workspace);
  if (!paths.includes(own)) throw notShown(pathsOf(workspace).claims);
  for (const path of paths) {
    if (path === own) continue;
    const text = await readLink(storage, path);
    if (text === undefined) continue;
    const worker = decodeClaim(text);
    const life = worker && (await findLiveness(workspace, worker));
    if (life === "gone") await unlessItFails(() => storage.removeFile(path), ["E_NOT_FOUND"]);
    else return refuse(workspace, path, worker, life !== "alive");
  }
  return undefined;
}

async function listClaims(workspace: Workspace): Promise<string[]> {
  const { claims } = pathsOf(workspace);
  const names = await workspace.storage.readFolder(claims);
  return names.filter((name) => CLAIM_NAME.test(name)).map((name) => posix.join(claims, name));
}

/** Who does not see its own would not see another's. */
function notShown(folder: string): ImgtxError {
  return new ImgtxError("E_BUSY", `a link that was made in '${folder}' is not shown there`, {
    image: folder,
    hint: "somebody has just removed it, or the folder is shown as it was a while ago: try again, or mount it without a cache",
  });
}

/** Undefined where it has just gone, or is none. */
async function readLink(storage: Storage, path: string): Promise<string | undefined> {
  if ((await storage.statLink(path))?.kind !== "symlink") return undefined;
  return await unlessItFails(() => storage.readSymlink(path), ["E_NOT_FOUND"]);
}

/** Whose it is; undefined where it does not say so. */
function decodeClaim(text: string): Worker | undefined {
  const worker = parseJson(text);
  return isWorker(worker) ? worker : undefined;
}

/**
 * Who shares no lock has not been waited for either: the table may have moved since it was read, and the mounting may show
 * it as it was for a while. A generation that is in the history already may have closed. Or a commit has been
 * cut off, and then the table stays as it is.
 */
async function showAnew(workspace: Workspace): Promise<void> {
  const { storage } = workspace;
  const { own, journals } = pathsOf(workspace);
  // By a listing FUSE learns the names anew.
  for (const folder of [own, journals])
    if ((await storage.statLink(folder))?.kind === "folder") await storage.readFolder(folder);
  const started = storage.host.monotonicMs();
  for (;;) {
    forgetTable(workspace);
    // Where it can't be read, that is what the lock was taken for, or what comes next says so.
    const generation = await unlessItFails(async () => (await readTable(workspace)).generation);
    if (generation === undefined || lastCutOff.get(workspace) === generation) return;
    if (!(await storage.statLink(historyPath(workspace, generation)))) return;
    if (storage.host.monotonicMs() - started >= STALE_MS) {
      lastCutOff.set(workspace, generation);
      return;
    }
    await storage.host.sleep(LOOK_AGAIN_MS);
  }
}

/** Generations that have stayed, though the history has them: looked at once. */
const lastCutOff = new WeakMap<Workspace, number>();

function refuse(
  workspace: Workspace,
  path: string,
  worker: Worker | undefined,
  isUnseen: boolean,
): Attempt["other"] {
  const who = sayOwner(workspace, worker);
  const name = posix.basename(path);
  return {
    path,
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
              ? `make sure that it has ended, there: then \`imgtx recover --give-up ${name}\` frees the workspace`
              : "try again when it is done, or wait for it with --wait",
          },
        ),
      ),
  };
}

function sayOwner(workspace: Workspace, worker: Worker | undefined): string {
  return worker ? sayWorker(workspace, worker) : "a process that it does not name";
}

export function isClaimName(name: string): boolean {
  return CLAIM_NAME.test(name);
}

/**
 * Takes away a claim of a process that can't be seen, by the word of a person that it has ended. Returns whose it was. E_BUSY
 * where it is alive, E_NO_TRANSACTION where there is none of this name.
 */
export async function removeClaim(
  workspace: Workspace,
  name: string,
  { dryRun }: { readonly dryRun: boolean },
): Promise<string> {
  const { storage } = workspace;
  const path = posix.join(pathsOf(workspace).claims, name);
  const text = isClaimName(name) ? await readLink(storage, path) : undefined;
  if (text === undefined) {
    throw new ImgtxError("E_NO_TRANSACTION", `there is no claim '${name}' on the workspace`, {
      image: workspace.root,
      hint: "it has been given back, or taken away, since: nothing is in the way",
    });
  }
  const worker = decodeClaim(text);
  if (worker && (await findLiveness(workspace, worker)) === "alive") {
    throw new ImgtxError("E_BUSY", `${sayOwner(workspace, worker)} has claimed the workspace, and is alive`, {
      image: path,
      hint: "wait until it has ended",
    });
  }
  if (!dryRun) await unlessItFails(() => storage.removeFile(path), ["E_NOT_FOUND"]);
  return sayOwner(workspace, worker);
}

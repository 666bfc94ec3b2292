// Whether a workspace may be used by who runs the command. What is in a workspace leads to files: a table that
// another user forged has imgtx read, write and remove what that user could not (as with git, CVE-2022-24765).
//
// Invariants
// - A workspace is used only where its folder and all parts of .imgtx belong to the caller or to root, and nobody
//   else may write to the parts. One that was found upwards is not passed over: what is above or below it is
//   another workspace's business, and a second one must not be made inside of the first unseen.
// - Who may write to the folder itself can take .imgtx away, and put another one there, which belongs to them: that
//   one is refused by its owner. So a group may write to the folder (a umask of 002 makes such ones), and everybody
//   where it is sticky, as /tmp is.
// - The parts are folders and files themselves. A symbolic link among them would lead out of .imgtx.
// - A workspace of another user is used where the caller names it, and the caller or root has listed it.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import { shellQuote } from "../../format/index.ts";
import type { FileStat, Storage } from "../../storage/index.ts";
import { readWholeFile } from "./replace-file.ts";
import { pathsOf, type Workspace } from "./workspace.ts";

/** Folders that the caller trusts though they are another user's, and whether this one was named. */
export interface Trust {
  readonly wasNamed: boolean;
  /** Absolute paths, from IMGTX_SAFE_WORKSPACES. */
  readonly safe: readonly string[];
}

/** One path a line; `#` begins a comment. Counts where it is root's, and only root may write to it. */
export const SAFE_LIST = "/etc/imgtx/safe-workspaces";
const SAFE_LIST_LIMIT_BYTES = 2 ** 20;

const OTHERS_WRITE = 0o002;
const GROUP_OR_OTHERS_WRITE = 0o022;
const STICKY = 0o1000;
export const ROOT = 0;

/** The other user to whom the workspace belongs, and who is trusted; undefined where it is the caller's or root's. */
export type OtherOwner = Pick<FileStat, "ownerId" | "groupId"> | undefined;

/** E_NOT_OWNER where the caller is not to use the workspace in this folder; E_REFUSED for links among its parts. */
export async function assertUsable(storage: Storage, root: string, trust: Trust): Promise<OtherOwner> {
  const folder = await storage.statLink(root);
  const own = await storage.statLink(pathsOf({ storage, root }).own);
  if (!folder) return undefined;
  // What is found through it is another's, or nothing.
  if (own?.kind === "symlink") throw await linkRefusal(storage, pathsOf({ storage, root }).own);
  const parts = await lookAtParts(storage, root);
  const problem = await findProblem(storage, root, parts);
  if (problem === undefined) {
    await assertNoLinks(storage, parts);
    return undefined;
  }
  const isListed = await isSafe(storage, root, trust.safe);
  if (!isListed || !trust.wasNamed) throw refusal(storage, root, problem, isListed);
  await assertNoLinks(storage, parts);
  const { ownerId, groupId } = own ?? folder;
  return ownerId === ROOT || ownerId === storage.host.userId ? undefined : { ownerId, groupId };
}

/**
 * E_NOT_OWNER where somebody else than the caller and root may write to the workspace, whatever is listed as safe: what it names
 * is not to be run.
 */
export async function assertMayRun({ storage, root }: Workspace): Promise<void> {
  const problem = await findProblem(storage, root, await lookAtParts(storage, root));
  if (!problem) return;
  const { ownerId } = problem.stat;
  const who = problem.is === "open to others" ? "others" : storage.host.nameOfUser(ownerId);
  throw new ImgtxError(
    "E_NOT_OWNER",
    `a program that the workspace in ${root} names is not run: ${who} may write there, and would choose what is`,
    {
      image: problem.path,
      hint:
        problem.is === "open to others"
          ? `take that away: \`chmod go-w ${shellQuote(problem.path)}\``
          : `work there as that user: \`sudo -u ${shellQuote(who)} imgtx --workspace ${shellQuote(root)} recover\``,
    },
  );
}

interface Problem {
  readonly path: string;
  readonly stat: FileStat;
  readonly is: "another user's" | "open to others";
}

async function findProblem(
  storage: Storage,
  root: string,
  parts: readonly Part[],
): Promise<Problem | undefined> {
  const trusted = new Set([storage.host.userId, ROOT]);
  const { keepsModes } = await storage.describeFileSystem(root);
  for (const { path, stat, mayNotWrite } of parts) {
    if (!trusted.has(stat.ownerId)) return { path, stat, is: "another user's" };
    if (!keepsModes || stat.kind === "symlink" || (path === root && (stat.mode & STICKY) !== 0)) continue;
    if ((stat.mode & mayNotWrite) !== 0) return { path, stat, is: "open to others" };
  }
  return undefined;
}

interface Part {
  readonly path: string;
  readonly stat: FileStat;
  readonly mayNotWrite: number;
}

/** Those of its parts that are there. */
async function lookAtParts(storage: Storage, root: string): Promise<readonly Part[]> {
  const { own, table, history, journals, views, lock, givenUp } = pathsOf({ storage, root });
  const parts: Part[] = [];
  for (const path of [root, own, table, history, journals, views, lock, givenUp]) {
    const stat = await storage.statLink(path);
    const mayNotWrite = path === root ? OTHERS_WRITE : GROUP_OR_OTHERS_WRITE;
    if (stat) parts.push({ path, stat, mayNotWrite });
  }
  return parts;
}

async function assertNoLinks(storage: Storage, parts: readonly Part[]): Promise<void> {
  const link = parts.find(({ stat }) => stat.kind === "symlink");
  if (link) throw await linkRefusal(storage, link.path);
}

export async function linkRefusal(storage: Storage, path: string): Promise<ImgtxError> {
  const target = posix.resolve(posix.dirname(path), await storage.readSymlink(path));
  return new ImgtxError(
    "E_REFUSED",
    `a part of a workspace is never a symbolic link, as this one to '${target}'`,
    {
      image: path,
      hint: `put what belongs there in its place; \`mv ${shellQuote(path)} ${shellQuote(`${path}.old`)}\` moves the link away`,
    },
  );
}

async function isSafe(storage: Storage, root: string, given: readonly string[]): Promise<boolean> {
  for (const path of [...given, ...(await readSafeList(storage))]) {
    if ((await storage.stat(path)) && (await storage.realPath(path)) === root) return true;
  }
  return false;
}

async function readSafeList(storage: Storage): Promise<string[]> {
  const there = await storage.stat(SAFE_LIST);
  if (there?.kind !== "file" || there.ownerId !== ROOT || (there.mode & GROUP_OR_OTHERS_WRITE) !== 0)
    return [];
  const text = Buffer.from(await readWholeFile(storage, SAFE_LIST, SAFE_LIST_LIMIT_BYTES)).toString();
  return text
    .split("\n")
    .map((line) => line.replace(/#.*/, "").trim())
    .filter((line) => posix.isAbsolute(line));
}

function refusal(storage: Storage, root: string, { path, stat, is }: Problem, isListed: boolean): ImgtxError {
  const listed = isListed
    ? `it is listed as safe: name it with \`--workspace ${shellQuote(root)}\` as well`
    : `if you trust all that may write there, name it with \`--workspace ${shellQuote(root)}\`, and list it in ` +
      `IMGTX_SAFE_WORKSPACES or ${SAFE_LIST}`;
  if (is === "open to others") {
    return new ImgtxError(
      "E_NOT_OWNER",
      `the workspace in ${root} is not safe to use: others may write to ${path}`,
      { image: path, hint: `take that away: \`chmod go-w ${shellQuote(path)}\`; or, ${listed}` },
    );
  }
  const owner = storage.host.nameOfUser(stat.ownerId);
  const what = path === root ? "folder" : "workspace in";
  return new ImgtxError("E_NOT_OWNER", `the ${what} ${root} belongs to another user, ${owner}`, {
    image: path,
    hint:
      `work there as that user: \`sudo -u ${shellQuote(owner)} imgtx --workspace ${shellQuote(root)} device list\`; or make a workspace of ` +
      `your own, in a folder of your own, with \`imgtx init\`; or, ${listed}`,
  });
}

// Where to ask who needs a file: an extended attribute of an image, or of the folder that it is in, with the folders of
// workspaces. It goes with the file wherever that goes: to another name, a hard link, into a copy by `cp -a`.
//
// Invariants
// - It proves nothing. The workspaces that it names are asked, and their tables alone say what they need: one that is
//   old, false, or came along with a copy leads to a question more, and to nothing else.
// - It is set where it costs nothing that counts: no flush is made for it, and none of what keeps it from being set
//   (another user's file, a file system without such attributes, a full disk) is a reason to fail. Then only the folders
//   above a file lead to its workspace.
// - It moves the change time of an image, by which snapshots tell that somebody wrote. So an image gets it where no snapshot
//   is known to keep it: as it is made, and as the first one seals it. What others keep already has theirs, and a folder has
//   all of them.
//
// Decision, 2026-11-28: whose a workspace is does not matter here, as it does not for those in the folders above: nothing is
// done in it, and a file of a user who keeps it in a snapshot is to be left alone by root, too. Who may set the attribute may
// write to the file anyway.

import { posix } from "node:path";
import { unlessItFails } from "../../errors/index.ts";
import type { Storage, StorageFile } from "../../storage/index.ts";
import { isText, listOf, parseJson } from "../table/data-shape.ts";

const NAME = "user.imgtx.workspaces";

/** ext4 has a block of 4 KiB for all attributes of a file; and each name is a table to read. */
const MOST_WORKSPACES = 16;
const MOST_BYTES = 2048;
const MOST_BYTES_READ = 4096;
/** PATH_MAX, less the zero at the end. */
const PATH_BYTES = 4095;

/** The folders that it names, the latest first. None where there is no attribute, or it can't be read or made out. */
export async function readSignpost(storage: Storage, path: string): Promise<readonly string[]> {
  return (await readRaw(storage, path)).roots;
}

/** Whether the file was found without a name of this workspace, and has got it, as it may where it has none. */
export async function setSignpost(
  storage: Storage,
  path: string,
  root: string,
  mayBeSet: () => Promise<boolean> = async () => await Promise.resolve(true),
): Promise<boolean> {
  const { roots, canHave } = await readRaw(storage, path);
  const value = canHave && !roots.includes(root) ? encode([root, ...roots]) : undefined;
  if (!value || !(await mayBeSet())) return false;
  return (await unlessItFails(async () => await storage.setAttribute(path, NAME, value))) === true;
}

/** Of a file that was just made, before it is flushed. */
export async function setFirstSignpost(file: StorageFile, root: string): Promise<void> {
  const value = encode([root]);
  if (value) await unlessItFails(async () => await file.setAttribute(NAME, value));
}

async function readRaw(
  storage: Storage,
  path: string,
): Promise<{ readonly roots: readonly string[]; readonly canHave: boolean }> {
  const read = await unlessItFails(async () => ({ value: await storage.readAttribute(path, NAME) }));
  const { value } = read ?? {};
  return { roots: value === undefined ? [] : decode(value), canHave: read !== undefined };
}

/** What does not fit is left out, the oldest first. Undefined: not even the latest does. */
function encode(roots: readonly string[]): Uint8Array | undefined {
  for (let length = Math.min(roots.length, MOST_WORKSPACES); length > 0; length -= 1) {
    const value = Buffer.from(JSON.stringify(roots.slice(0, length)));
    if (value.length <= MOST_BYTES) return value;
  }
  return undefined;
}

const isListOfTexts = listOf(isText);

function decode(value: Uint8Array): readonly string[] {
  if (value.length > MOST_BYTES_READ) return [];
  const list = parseJson(Buffer.from(value).toString());
  return isListOfTexts(list) ? list.filter(isFolderName).slice(0, MOST_WORKSPACES) : [];
}

/** Whether it may be a workspace's, from a file that anybody may have written. */
export function isFolderName(path: string): boolean {
  if (!posix.isAbsolute(path) || path.includes("\0") || Buffer.byteLength(path) > PATH_BYTES) return false;
  return posix.resolve(path) === path;
}

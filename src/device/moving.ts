// A workspace changes its folder: `.imgtx` is written anew in the other one, with all paths as they are from there, and then
// the table of the old folder becomes a record of where it went. Images are none of its business: they have gone before.
//
// Invariants
// - One file decides, by one rename: as long as the old folder has its table, that is the workspace, and what is in the new one
//   is only read. From the record on the new one is it. No third file has to agree.
// - All that the new folder needs is durable before that rename, and the rename is before anything of the old one goes, or
//   the new one says that it has come. Each step may be repeated; what was cut off before the rename is made again from its
//   beginning, and what was cut off after it is ended by the next command in either folder.
// - The caller holds the lock of the old workspace, in which nothing is open.

import { ImgtxError, whileOpen } from "../errors/index.ts";
import { shellQuote } from "../format/index.ts";
import type { Storage } from "../storage/index.ts";
import { findForeignFile, removeViews } from "./view/view.ts";
import { isWorkspaceMade, workspaceAt } from "./workspace/find-workspace.ts";
import { decodeGeneration, encodeGeneration } from "./table/generation-file.ts";
import type { WorkspaceLock } from "./lock/held-locks.ts";
import { encodeMovedAway } from "./table/moved-away.ts";
import { replaceTable } from "./next-generation.ts";
import { readPresent, readTable } from "./history/present-table.ts";
import { readWholeFile, replaceFile } from "./workspace/replace-file.ts";
import { decodeSnapshot, encodeSnapshot } from "./table/snapshot-record.ts";
import { removeIfEmpty } from "./unmake-workspace.ts";
import {
  encodeForHere,
  FILE_MODE,
  pathsOf,
  readMovedAway,
  refuseForeignDevices,
  TABLE_LIMIT_BYTES,
  type Workspace,
} from "./workspace/workspace.ts";
import { lockAsItIs } from "./lock/workspace-lock.ts";

const FOLDER_MODE = 0o755;

/** E_EXISTS where the folder has a workspace of its own, or anything that a part of one would need the name of. */
export async function assertRoomFor(from: Workspace, to: Workspace): Promise<void> {
  await refuseForeignDevices(to);
  const foreign = await findForeignFile(from);
  if (foreign !== undefined) {
    throw new ImgtxError("E_REFUSED", "it is no file of the workspace's, and would not come along", {
      image: foreign,
      hint: `take it out of the workspace's own folder first: \`mv ${shellQuote(foreign)} ${shellQuote(from.root)}\``,
    });
  }
  const { own, journals, ...parts } = pathsOf(to);
  const there = await to.storage.statLink(own);
  if (!there) return;
  // Without a table nothing says that what is there may go.
  const isOther = (await isWorkspaceMade(to))
    ? !(await comesFrom(from, to))
    : await holdsAny(to.storage, [journals, ...PARTS.map((part) => parts[part])]);
  if (there.kind === "folder" && !isOther) return;
  throw new ImgtxError("E_EXISTS", "the folder has a workspace of its own", {
    image: to.root,
    hint: "name another folder: one workspace can't become part of another",
  });
}

/** Whether what is there was begun by a move of this very workspace. */
async function comesFrom(from: Workspace, to: Workspace): Promise<boolean> {
  const [here, there] = [await readPresent(from), await readPresent(to)];
  return (
    there.mark?.comesFrom === from.root && [null, there.table.workspaceId].includes(here.table.workspaceId)
  );
}

/** Does the whole of it. The lock of the new one is given back by the caller, who may use it. */
export async function moveWorkspace(from: Workspace, to: Workspace): Promise<void> {
  await assertRoomFor(from, to);
  const { storage, root } = to;
  const { own } = pathsOf(to);
  await makeFolderLike(from, pathsOf(from).own, own);
  await whileOpen(await lockAsItIs(to, PATIENT), async () => {
    await writeAnew(from, to);
    await storage.flushFolder(root, "folder of a workspace that is to come");
    await endMove(from, to);
  });
}

/** Both locks are held for moments only. */
const PATIENT = { waitMs: 10_000, onWait: () => undefined };

/** Folders of .imgtx whose files come along: as they are, or with their paths as seen from the new folder. */
const PARTS = ["history", "snapshots", "beside", "givenUp", "volumes"] as const;

async function writeAnew(from: Workspace, to: Workspace): Promise<void> {
  const { storage } = to;
  const [source, target] = [pathsOf(from), pathsOf(to)];
  const { table, stat } = await readPresent(from);
  const mode = { exact: stat?.mode ?? FILE_MODE };
  // The first file of all, so that what is cut off is known by it.
  await replaceFile(storage, target.table, await encodeForHere(to, table, from.root), mode, {
    content: "table of a workspace that is to come",
    name: "name of that table",
  });
  for (const part of PARTS) {
    await storage.removeFolder(target[part]);
    const there = await from.storage.statLink(source[part]);
    if (there?.kind !== "folder") continue;
    await storage.makeFolder(target[part], there.mode);
    for (const name of await from.storage.readFolder(source[part])) {
      // What a crash left of something that was to be: nothing counts it.
      if (name.endsWith(".json.new")) continue;
      const path = `${source[part]}/${name}`;
      const stored = await readPart(from, path);
      await writePart(
        storage,
        `${target[part]}/${name}`,
        stored.mode,
        seenFrom(to, from, { part, name, path, ...stored }),
      );
    }
    await storage.flushFolder(target[part], "files of a workspace that is to come");
  }
  for (const folder of ["journals", "views"] as const)
    await makeFolderLike(from, source[folder], target[folder]);
  await storage.flushFolder(target.own, "folders of a workspace that is to come");
}

const RECORD = /^(\d{6,15})(-\d{1,15})?\.json$/;

/** Who could look into the one can look into the other, and nobody else. */
async function makeFolderLike({ storage }: Workspace, source: string, target: string): Promise<void> {
  if (await storage.statLink(target)) return;
  await storage.makeFolder(target, (await storage.statLink(source))?.mode ?? FOLDER_MODE);
}

async function readPart(
  { storage }: Workspace,
  path: string,
): Promise<{ readonly bytes: Uint8Array; readonly mode: number }> {
  const there = await storage.statLink(path);
  if (there?.kind !== "file" || there.sizeBytes > TABLE_LIMIT_BYTES) {
    throw new ImgtxError("E_NOT_A_FILE", "it is no file of a workspace's, and would have to come along", {
      image: path,
      hint: "take it out of the workspace first",
    });
  }
  return { bytes: await readWholeFile(storage, path, TABLE_LIMIT_BYTES), mode: there.mode };
}

interface Part {
  readonly part: (typeof PARTS)[number];
  readonly name: string;
  readonly path: string;
  readonly bytes: Uint8Array;
}

/** E_CORRUPT, with its way out, for a record that can't be read: nobody could say where its images are from elsewhere. */
function seenFrom(to: Workspace, from: Workspace, { part, name, path, bytes }: Part): Uint8Array {
  const [, digits, record] = RECORD.exec(name) ?? [];
  const number = Number(digits);
  // Whatever else somebody has put there comes along as it is.
  if (digits === undefined || (record === undefined) !== (part === "history")) return bytes;
  if (part === "history") return encodeGeneration(to.root, decodeGeneration(from.root, bytes, path, number));
  if (part === "snapshots") return encodeSnapshot(to.root, decodeSnapshot(from.root, bytes, path, number));
  return bytes;
}

async function writePart(storage: Storage, path: string, mode: number, bytes: Uint8Array): Promise<void> {
  await whileOpen(await storage.createFile(path, mode), async (file) => {
    const made = await file.stat();
    if (made.mode !== mode) await file.setAccess({ ...made, mode });
    await file.write(bytes, 0);
    await file.flush("file of a workspace that is to come");
    const back = new Uint8Array(bytes.length);
    await file.read(back, 0);
    if (Buffer.compare(back, bytes) !== 0)
      throw new ImgtxError("E_IO", "it reads back as something else", { image: path });
  });
}

/**
 * From the rename that decides to the end. Of a move that was cut off after that rename too: the record is written once more,
 * since it may have been read from the page cache alone. The caller holds the locks of both.
 */
async function endMove(from: Workspace, to: Workspace): Promise<void> {
  const { storage } = from;
  const { own, lock, devices, hooks, journals, ...parts } = pathsOf(from);
  const present = await readTable(to);
  await leaveRecord(from, encodeMovedAway(to.root, present.workspaceId ?? ""));
  for (const part of PARTS) await storage.removeFolder(parts[part]);
  // What has come into one of these meanwhile is nobody's to remove.
  await removeViews(from);
  for (const part of [hooks, journals]) await removeIfEmpty(storage, part);
  const link = await storage.statLink(devices);
  if (link?.kind === "symlink" && (await storage.readSymlink(devices)).startsWith(".imgtx/"))
    await storage.removeFile(devices);
  await storage.flushFolder(from.root, "view of a moved workspace");
  if (await storage.statLink(lock)) await storage.removeFile(lock);
  await storage.flushFolder(own, "what a moved workspace leaves");
  await replaceTable(to, present);
}

/**
 * After a failed flush the kernel takes a name for clean, and a second flush would succeed without writing it: what has its
 * name already is written once more, as another file.
 */
async function leaveRecord(from: Workspace, record: Uint8Array): Promise<void> {
  const { storage } = from;
  const { table } = pathsOf(from);
  const mode = { exact: (await storage.statLink(table))?.mode ?? FILE_MODE };
  const write = async (): Promise<void> => {
    await replaceFile(storage, table, record, mode, {
      content: "place of a moved workspace",
      name: "name of a moved workspace's place",
    });
  };
  try {
    await write();
  } catch (error) {
    if (!(error instanceof ImgtxError) || !(await readMovedAway(from))) throw error;
    await write();
  }
}

/**
 * Ends a move to this folder that was cut off after it was decided. The folder that the workspace came from; undefined where
 * there is no such move, or it has not been decided.
 */
export async function endMoveHere(to: Workspace): Promise<string | undefined> {
  const { mark, table } = await readPresent(to);
  const root = mark?.comesFrom;
  if (root === undefined || to.ownerId !== undefined) return undefined;
  const moved = await readMovedAway({ storage: to.storage, root });
  if (moved?.to !== to.root || moved.workspaceId !== table.workspaceId) return undefined;
  const from = await workspaceAt(to.storage, root);
  const locks: WorkspaceLock[] = [];
  try {
    for (const one of [from, to]) locks.push(await lockAsItIs(one, PATIENT));
    // Another command may have ended it meanwhile.
    if ((await readPresent(to)).mark?.comesFrom === undefined) return undefined;
    await endMove(from, to);
    return root;
  } finally {
    for (const lock of locks) await lock.close();
  }
}

async function holdsAny(storage: Storage, folders: readonly string[]): Promise<boolean> {
  for (const folder of folders) {
    if ((await storage.statLink(folder))?.kind !== "folder") continue;
    if ((await storage.readFolder(folder)).length > 0) return true;
  }
  return false;
}

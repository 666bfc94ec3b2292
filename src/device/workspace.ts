// A workspace: a folder with a .imgtx in it. Finds it, makes it, and holds its lock.
//
// Invariants
// - A workspace is there once .imgtx/table.json is. What init makes before that is harmless, and
//   making it again goes on from wherever a crash left it.
// - The lock is held only while the table or the set of journals changes hands; never while data moves.

import { posix } from "node:path";
import { ImgtxError } from "../errors/index.ts";
import {
  type FileStat,
  type LockWaiting,
  lockFile,
  type Storage,
  type StorageFile,
} from "../storage/index.ts";
import { type DeviceTable, decodeTable, encodeTable, firstTable } from "./device-table.ts";
import { readWholeFile, replaceFile } from "./replace-file.ts";
import { realFolder } from "./stored-path.ts";

export interface Workspace {
  readonly storage: Storage;
  /** Canonical absolute path. */
  readonly root: string;
}

const TABLE_LIMIT_BYTES = 256 * 2 ** 20;
const FOLDER_MODE = 0o755;
export const FILE_MODE = 0o644;

/** Byte of the lock file that stands for the workspace as a whole. */
const WORKSPACE_BYTE = { start: 0, lengthBytes: 1 };

export const pathsOf = (workspace: Workspace) => ({
  own: `${workspace.root}/.imgtx`,
  table: `${workspace.root}/.imgtx/table.json`,
  history: `${workspace.root}/.imgtx/history`,
  journals: `${workspace.root}/.imgtx/journal`,
  views: `${workspace.root}/.imgtx/view`,
  lock: `${workspace.root}/.imgtx/lock`,
  devices: `${workspace.root}/devices`,
});

/**
 * The workspace that a command works in: the named one, else the nearest at startFolder or above it.
 * E_NO_WORKSPACE where there is none.
 */
export async function findWorkspace(
  storage: Storage,
  startFolder: string,
  named: string | undefined,
): Promise<Workspace> {
  const from = await realFolder(storage, named ?? startFolder);
  for (let folder = from; ; folder = posix.dirname(folder)) {
    if (await storage.stat(`${folder}/.imgtx/table.json`)) return { storage, root: folder };
    if (named !== undefined || folder === "/") break;
  }
  throw new ImgtxError(
    "E_NO_WORKSPACE",
    named === undefined ? "no workspace here or in a folder above" : `'${named}' is not a workspace`,
    { image: from, hint: "make one with `imgtx init`, or name one with --workspace" },
  );
}

/** The workspace that folder would be; nothing is made, and nothing needs to be there but the folder. */
export async function workspaceAt(storage: Storage, folder: string): Promise<Workspace> {
  return { storage, root: await realFolder(storage, folder) };
}

/** Whether the workspace is there, and not only the place for it. */
export async function isWorkspaceMade(workspace: Workspace): Promise<boolean> {
  return (await workspace.storage.stat(pathsOf(workspace).table)) !== undefined;
}

/** Makes the workspace durably where it is not there yet. True when this call made it. */
export async function makeWorkspace(workspace: Workspace, committed: string): Promise<boolean> {
  const { storage, root } = workspace;
  const paths = pathsOf(workspace);
  if (await storage.stat(paths.table)) return false;
  await refuseForeignDevices(workspace);
  for (const folder of [paths.own, paths.history, paths.journals, paths.views]) {
    await makeFolderUnlessThere(storage, folder);
  }
  await makeFileUnlessThere(storage, paths.lock);
  const lock = await lockWorkspace(workspace, { waitMs: 10_000, onWait: () => undefined });
  try {
    if (await storage.stat(paths.table)) return false;
    // Before the table has its name: whoever finds the table takes all of the workspace for made.
    await storage.flushFolder(paths.own, "folders in .imgtx");
    await storage.flushFolder(root, "the workspace's own folder");
    await replaceFile(storage, paths.table, encodeTable(root, firstTable(committed)), FILE_MODE, {
      content: "first table",
      name: "names in .imgtx",
    });
    return true;
  } finally {
    await lock.close();
  }
}

/** The lock is held for moments: even a command that does not wait for others waits for that. */
const GRACE_MS = 5_000;

/** Takes the workspace lock; closing the file that it returns gives it back. E_BUSY when it is held. */
export async function lockWorkspace(workspace: Workspace, waiting: LockWaiting): Promise<StorageFile> {
  const file = await workspace.storage.openFile(pathsOf(workspace).lock, "write");
  try {
    const patient =
      waiting.waitMs >= GRACE_MS ? waiting : { ...waiting, waitMs: GRACE_MS, onWait: () => undefined };
    await lockFile(workspace.storage, file, WORKSPACE_BYTE, patient, "the workspace");
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** The present generation. A workspace that is not made yet has the empty first one. */
export async function readTable(workspace: Workspace): Promise<DeviceTable> {
  const path = pathsOf(workspace).table;
  const there = await workspace.storage.stat(path);
  if (!there) return firstTable(new Date(workspace.storage.host.now()).toISOString());
  const file = identify(there);
  const last = lastRead.get(workspace);
  if (last?.file === file) return last.table;
  const table = await readTableFile(workspace, path);
  lastRead.set(workspace, { file, table });
  return table;
}

export async function readGeneration(
  workspace: Workspace,
  generation: number,
): Promise<DeviceTable | undefined> {
  const path = historyPath(workspace, generation);
  return (await workspace.storage.stat(path)) ? await readTableFile(workspace, path) : undefined;
}

/**
 * Numbers of the generations before the table's that the history keeps, oldest first. A crash amid a commit
 * may have left the table's own there: that one is not closed.
 */
export async function listHistory(workspace: Workspace, table: DeviceTable): Promise<number[]> {
  const { history } = pathsOf(workspace);
  if (!(await workspace.storage.stat(history))) return [];
  const names = await workspace.storage.readFolder(history);
  return names
    .flatMap((name) => /^(\d+)\.json$/.exec(name)?.[1] ?? [])
    .map(Number)
    .filter((generation) => generation < table.generation)
    .sort((a, b) => a - b);
}

/** Makes the table's present name durable: it was found moved, by a process that died before it knew. */
export async function flushTableName(workspace: Workspace): Promise<void> {
  await workspace.storage.flushFolder(pathsOf(workspace).own, "name of a table found moved");
}

export function historyPath(workspace: Workspace, generation: number): string {
  return `${pathsOf(workspace).history}/${String(generation).padStart(6, "0")}.json`;
}

async function readTableFile(workspace: Workspace, path: string): Promise<DeviceTable> {
  return decodeTable(workspace.root, await readWholeFile(workspace.storage, path, TABLE_LIMIT_BYTES), path);
}

/**
 * The table that each workspace object read last, with the file that it read it from. A command looks at
 * the table many times; it is replaced as a whole, so a file that is the same one says the same.
 */
const lastRead = new WeakMap<Workspace, { file: string; table: DeviceTable }>();

function identify({ inode, bornNs, modifiedNs, sizeBytes }: FileStat): string {
  return [inode, bornNs, modifiedNs, sizeBytes].join(" ");
}

/** E_EXISTS where something that imgtx did not make stands under the name of its view. */
export async function refuseForeignDevices(workspace: Workspace): Promise<void> {
  const { devices } = pathsOf(workspace);
  const there = await workspace.storage.statLink(devices);
  if (!there) return;
  if (there.kind === "symlink" && (await workspace.storage.readSymlink(devices)).startsWith(".imgtx/"))
    return;
  throw new ImgtxError("E_EXISTS", "'devices' is in the way: imgtx keeps its view of the devices there", {
    image: devices,
    hint: "move it away, or make the workspace in another folder",
  });
}

async function makeFolderUnlessThere(storage: Storage, path: string): Promise<void> {
  if (await storage.stat(path)) return;
  await unlessThere(async () => await storage.makeFolder(path, FOLDER_MODE));
}

async function makeFileUnlessThere(storage: Storage, path: string): Promise<void> {
  if (await storage.stat(path)) return;
  await unlessThere(async () => await (await storage.createFile(path, FILE_MODE)).close());
}

/** Another process that makes the same workspace at the same moment is welcome. */
async function unlessThere(make: () => Promise<void>): Promise<void> {
  try {
    await make();
  } catch (error) {
    if (!(error instanceof ImgtxError && error.code === "E_EXISTS")) throw error;
  }
}

// A workspace: a folder with a .imgtx in it. Its parts by path, and its table and history as they are read.

import { ImgtxError } from "../errors/index.ts";
import { shellQuote } from "../format/index.ts";
import type { FileStat, Storage } from "../storage/index.ts";
import type { DeviceEntry } from "./device-entry.ts";
import { type DeviceTable, decodeTable, encodeTable, firstTable, type StoredTable } from "./device-table.ts";
import { inTheWay } from "./in-the-way.ts";
import { markOf } from "./file-mark.ts";
import { readWholeFile } from "./replace-file.ts";

export interface Workspace {
  readonly storage: Storage;
  /** Canonical absolute path. */
  readonly root: string;
  /** Of another user, to whom it belongs and whom the caller trusts with it. */
  readonly ownerId?: number;
  /** Of a workspace beside an image, which comes and goes with what changes it: its one device, until it is made. */
  readonly first?: DeviceEntry;
}

/** What is read. */
export const TABLE_LIMIT_BYTES = 256 * 2 ** 20;
export const FILE_MODE = 0o644;

export const pathsOf = (workspace: Workspace) => ({
  own: `${workspace.root}/.imgtx`,
  table: `${workspace.root}/.imgtx/table.json`,
  history: `${workspace.root}/.imgtx/history`,
  snapshots: `${workspace.root}/.imgtx/snapshots`,
  beside: `${workspace.root}/.imgtx/beside`,
  journals: `${workspace.root}/.imgtx/journal`,
  givenUp: `${workspace.root}/.imgtx/given-up`,
  hooks: `${workspace.root}/.imgtx/hooks`,
  views: `${workspace.root}/.imgtx/view`,
  lock: `${workspace.root}/.imgtx/lock`,
  devices: `${workspace.root}/devices`,
});

/** What a workspace begins with. */
export function firstTableOf({ first }: Workspace, committed: string): DeviceTable {
  return { ...firstTable(committed), ...(first && { devices: [first] }) };
}

/** The content of a table that knows the file that it is written to. */
export async function encodeForHere(
  workspace: Workspace,
  table: DeviceTable,
): Promise<(file: FileStat) => Uint8Array> {
  const { storage, root } = workspace;
  const folder = await storage.stat(pathsOf(workspace).own);
  const own = { ...table, workspaceId: table.workspaceId ?? storage.host.randomName() };
  const place = { root, ...(folder && { folder: markOf(folder) }) };
  return (file) => encodeTable(root, own, { ...markOf(file), ...place });
}

/** Undefined where the history does not have it; E_CORRUPT where its file is damaged. */
export async function readGeneration(
  workspace: Workspace,
  generation: number,
): Promise<DeviceTable | undefined> {
  const path = historyPath(workspace, generation);
  // What is no file is none of imgtx's.
  if ((await workspace.storage.statLink(path))?.kind !== "file") return undefined;
  try {
    return (await readTableFile(workspace, path)).table;
  } catch (error) {
    if (!(error instanceof ImgtxError && error.code === "E_CORRUPT")) throw error;
    const away = `mv ${shellQuote(path)} ${shellQuote(`${path}.damaged`)}`;
    throw new ImgtxError("E_CORRUPT", `generation ${generation} in the history is damaged`, {
      image: path,
      hint: `put the file back from a copy, or forget this generation: \`${away}\``,
    });
  }
}

/**
 * Numbers of the generations before the table's that the history keeps, oldest first. A crash amid a commit
 * may have left the table's own there: that one is not closed.
 */
export async function listHistory(workspace: Workspace, table: DeviceTable): Promise<number[]> {
  return (await listStoredGenerations(workspace)).filter((generation) => generation < table.generation);
}

/** Numbers of all generations that the history has, oldest first. */
export async function listStoredGenerations(workspace: Workspace): Promise<number[]> {
  const { history } = pathsOf(workspace);
  if ((await workspace.storage.statLink(history))?.kind !== "folder") return [];
  const names = await workspace.storage.readFolder(history);
  return names
    .flatMap((name) => /^(\d{6,15})\.json$/.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b);
}

/** Makes the table's present name durable: it was found moved, by a process that died before it knew. */
export async function flushTableName(workspace: Workspace): Promise<void> {
  await workspace.storage.flushFolder(pathsOf(workspace).own, "name of a table found moved");
}

export function historyPath(workspace: Workspace, generation: number): string {
  return `${pathsOf(workspace).history}/${String(generation).padStart(6, "0")}.json`;
}

export async function readTableFile(workspace: Workspace, path: string): Promise<StoredTable> {
  return decodeTable(workspace.root, await readWholeFile(workspace.storage, path, TABLE_LIMIT_BYTES), path);
}

/** E_EXISTS where something that imgtx did not make stands under the name of its view. */
export async function refuseForeignDevices(workspace: Workspace): Promise<void> {
  const { devices } = pathsOf(workspace);
  const there = await workspace.storage.statLink(devices);
  if (!there) return;
  if (there.kind === "symlink" && (await workspace.storage.readSymlink(devices)).startsWith(".imgtx/"))
    return;
  throw inTheWay(devices, "its view of the devices");
}

// A workspace: a folder with a .imgtx in it. Its parts by path, and its table as it is read.

import type { FileStat, Storage } from "../../storage/index.ts";
import type { DeviceEntry } from "../table/device-entry.ts";
import {
  type DeviceTable,
  decodeTable,
  encodeTable,
  firstTable,
  type StoredTable,
} from "../table/device-table.ts";
import { inTheWay } from "./in-the-way.ts";
import { markOf } from "../table/file-mark.ts";
import { unlessItFails } from "../../errors/index.ts";
import { assertNotMovedAway, decodeMovedAway, type MovedAway } from "../table/moved-away.ts";
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
  volumes: `${workspace.root}/.imgtx/volumes`,
  views: `${workspace.root}/.imgtx/view`,
  lock: `${workspace.root}/.imgtx/lock`,
  claims: `${workspace.root}/.imgtx/claims`,
  devices: `${workspace.root}/devices`,
});

/** What a workspace begins with. */
export function firstTableOf({ first }: Workspace, committed: string): DeviceTable {
  return { ...firstTable(committed), ...(first && { devices: [first] }) };
}

/** The content of a table that knows the file that it is written to; and where it comes from, as long as it has not come. */
export async function encodeForHere(
  workspace: Workspace,
  table: DeviceTable,
  comesFrom?: string,
): Promise<(file: FileStat) => Uint8Array> {
  const { storage, root } = workspace;
  const folder = await storage.stat(pathsOf(workspace).own);
  const own = { ...table, workspaceId: table.workspaceId ?? storage.host.randomName() };
  const coming = comesFrom !== undefined && { comesFrom };
  const place = { root, ...(folder && { folder: markOf(folder) }), ...coming };
  return (file) => encodeTable(root, own, { ...markOf(file), ...place });
}

/** Makes the table's present name durable: it was found moved, by a process that died before it knew. */
export async function flushTableName(workspace: Workspace): Promise<void> {
  await workspace.storage.flushFolder(pathsOf(workspace).own, "name of a table found moved");
}

/** E_NO_WORKSPACE where it has moved elsewhere. */
export async function readTableFile(workspace: Workspace, path: string): Promise<StoredTable> {
  const bytes = await readWholeFile(workspace.storage, path, TABLE_LIMIT_BYTES);
  assertNotMovedAway(bytes, path);
  return decodeTable(workspace.root, bytes, path);
}

/** Where a workspace has moved to that was in this folder. Undefined: it has not, or nobody can tell. */
export async function readMovedAway(workspace: Workspace): Promise<MovedAway | undefined> {
  const { storage } = workspace;
  const { table } = pathsOf(workspace);
  return await unlessItFails(async () => {
    if ((await storage.statLink(table))?.kind !== "file") return undefined;
    return decodeMovedAway(await readWholeFile(storage, table, TABLE_LIMIT_BYTES));
  });
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

// The present generation, as table.json has it. A table of the version before gets the snapshots that its history comes to.

import type { FileStat } from "../../storage/index.ts";
import type { DeviceTable, StoredTable } from "../table/device-table.ts";
import { withEarlierSnapshots } from "./earlier-snapshots.ts";
import { firstTableOf, pathsOf, readTableFile, type Workspace } from "../workspace/workspace.ts";

/** The present generation. A workspace that is not made yet has the empty first one. */
export async function readTable(workspace: Workspace): Promise<DeviceTable> {
  return (await readPresent(workspace)).table;
}

export interface PresentTable extends StoredTable {
  /** Undefined where the workspace is not made yet. */
  readonly stat: FileStat | undefined;
}

/** The present generation with what it says of its own file. */
export async function readPresent(workspace: Workspace): Promise<PresentTable> {
  const path = pathsOf(workspace).table;
  const stat = await workspace.storage.stat(path);
  if (!stat) {
    const now = new Date(workspace.storage.host.now()).toISOString();
    return { table: firstTableOf(workspace, now), mark: null, isEarlier: false, stat };
  }
  const file = identify(stat);
  const last = lastRead.get(workspace);
  if (last?.file === file) return last.present;
  const stored = await readTableFile(workspace, path);
  const table = stored.isEarlier ? await withEarlierSnapshots(workspace, stored.table) : stored.table;
  const present = { ...stored, table, stat };
  lastRead.set(workspace, { file, present });
  return present;
}

/**
 * The table that each workspace object read last, with the file that it read it from. A command looks at
 * the table many times; it is replaced as a whole, so a file that is the same one says the same.
 */
const lastRead = new WeakMap<Workspace, { file: string; present: PresentTable }>();

/** Has the table read again: a mounting may show a file's old stat for a while. */
export function forgetTable(workspace: Workspace): void {
  lastRead.delete(workspace);
}

function identify({ inode, bornNs, modifiedNs, sizeBytes }: FileStat): string {
  return [inode, bornNs, modifiedNs, sizeBytes].join(" ");
}

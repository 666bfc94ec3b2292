// Files that something needs, in the whole workspace: devices and their mirrors, open transactions, snapshots, and what an
// undo or a redo can go to.
//
// Invariant: a file that is left out here may be removed. Where a record or a generation can't be read, that is an error.

import {
  type DeviceTable,
  fileBesidePath,
  filesOfDevice,
  filesOfSnapshot,
  movesNothing,
  readingHistory,
  readingSnapshots,
  type Workspace,
} from "../../device/index.ts";
import { findUses } from "../images/removal.ts";

/** Why a file is needed that a snapshot keeps. */
export const KEPT_BY_SNAPSHOT = "a snapshot keeps it";

/** By path: what needs it, as a clause. */
export async function findNeeded(
  workspace: Workspace,
  table: DeviceTable,
): Promise<ReadonlyMap<string, string>> {
  const needed = new Map<string, string>();
  const add = (paths: readonly string[], why: string): void => {
    for (const path of paths) needed.set(path, why);
  };
  for await (const { generation, isForward } of walkReachable(workspace, table)) {
    const why = `${isForward ? "a redo" : "an undo"} can go to generation ${generation.generation}`;
    add(pathsOfDevices(generation), why);
    // A redo brings snapshots back, and an undo none.
    if (isForward) add(await pathsOfSnapshots(workspace, generation), why);
  }
  add(await pathsOfSnapshots(workspace, table), KEPT_BY_SNAPSHOT);
  for (const [path, why] of await findUses(workspace, "")) needed.set(path, why);
  return needed;
}

interface Reachable {
  readonly generation: DeviceTable;
  readonly isForward: boolean;
}

/**
 * What undo, as often as that goes, and redo lead to: a commit after an undo leaves what was undone behind. None goes to
 * before the workspace was copied, and each passes over what the history lacks. None goes past a commit that moved no device, such
 * as a deletion of snapshots: there each undo is refused, by whatever commits were taken back before.
 */
async function* walkReachable(workspace: Workspace, table: DeviceTable): AsyncGenerator<Reachable> {
  const history = readingHistory(workspace, table);
  const { adopted = 0 } = table;
  for (const number of table.undone ?? []) {
    const generation = number < adopted ? undefined : await history.read(number);
    if (generation) yield { generation, isForward: true };
  }
  let from = table;
  for (let at = positionOf(table) - 1; at >= adopted; ) {
    const generation = await history.read(at);
    if (generation && at === positionOf(from) - 1 && movesNothing(from, generation)) return;
    if (generation) yield { generation, isForward: false };
    at = (generation?.position ?? at) - 1;
    from = generation ?? from;
  }
}

function positionOf({ position, generation }: DeviceTable): number {
  return position ?? generation;
}

async function pathsOfSnapshots(workspace: Workspace, table: DeviceTable): Promise<string[]> {
  const reads = readingSnapshots(workspace, table);
  const paths: string[] = [];
  for (const ref of table.snapshots) {
    const snapshot = await reads.read(ref);
    paths.push(...(snapshot.files ?? []).map(({ copy }) => fileBesidePath(workspace.root, copy)));
    paths.push(...filesOfSnapshot(snapshot).map(({ image }) => image));
  }
  return paths;
}

function pathsOfDevices({ devices }: DeviceTable): string[] {
  return devices.flatMap(filesOfDevice).map(({ image }) => image);
}

// Which redo log each change of a plan goes into.
//
// Invariant: numbered through the transaction, so that no two logs of it have one name, wherever they lie.

import { posix } from "node:path";
import { pathsOf } from "../../device/index.ts";
import type { Plan } from "../actions/plan/action.ts";
import {
  type CopyStep,
  logsOf,
  type PlanRecord,
  type PreparedRedo,
  redoLogPath,
  redoOf,
} from "../journal/index.ts";
import { isDeviceAt } from "../images/devices.ts";
import type { Work } from "./work.ts";

/** The changes of a plan, its copies, and what is changed after those, with their logs. */
export async function nameLogs(
  work: Work,
  { redo = [], copies = [], late = [] }: Plan,
): Promise<{
  readonly redo: PlanRecord["redo"];
  readonly copies: CopyStep[];
  readonly late: PlanRecord["late"];
}> {
  const { id, staged, journal } = work;
  const before = journal ? redoOf(journal.state) : new Map<string, PreparedRedo>();
  let taken = journal?.state.statements.flatMap(({ plan }) => logsOf(plan)).length ?? 0;
  const next = async (image: string): Promise<string> => {
    const log = redoLogPath(await folderFor(work, image), id, taken);
    taken += 1;
    return log;
  };
  const changes: PlanRecord["redo"][number][] = [];
  for (const { link, isLast } of redo) {
    const log = staged.logOf(link.stat);
    const known = before.get(link.path);
    changes.push({
      // All of a log at once: what waits makes the rest wait.
      ...((isLast === true || (known?.log === log && known?.isLast === true)) && { isLast: true }),
      image: link.path,
      // The one that the image has already in this transaction, else a new one.
      log: log ?? (await next(link.path)),
    });
  }
  const copying: CopyStep[] = [];
  // Those of copies are made after the mark.
  for (const { up, ...copy } of copies) {
    copying.push({ ...copy, ...(up && { up: { ...up, log: await next(copy.into) } }) });
  }
  const last: PlanRecord["late"][number][] = [];
  for (const one of late) last.push({ ...one, log: await next(one.image) });
  return { redo: changes, copies: copying, late: last };
}

/** Beside the image; of a block device beside the journal, since nothing that is made in /dev lasts. */
async function folderFor({ workspace }: Work, image: string): Promise<string> {
  const isDevice = await isDeviceAt(workspace.storage, image);
  return isDevice ? pathsOf(workspace).journals : posix.dirname(image);
}

// Copies that were cut off and kept. The command that would make the same copy takes over its journal and goes
// on; any other one that wants the device's mirror takes the unfinished copy away first. Kept is the copy of a single
// command that died: Ctrl-C takes it back, and so does a crash in a transaction of several commands.
//
// Invariant: a copy goes on only where its plan is what it was: the same images in the same state, the same
// target, laid out in the same way. The caller holds the workspace lock.

import type { Workspace } from "../../device/index.ts";
import { Journal, type JournalSnapshot, parkedAmong, type PlanRecord } from "../journal/index.ts";
import { abortJournal } from "./undo.ts";
import type { LockWait } from "../requests/request.ts";

/** The journal of the same copy, which is held and goes on; undefined where there is none. */
export async function takeParked(
  workspace: Workspace,
  journals: readonly JournalSnapshot[],
  { id: planned, record }: { readonly id: string; readonly record: PlanRecord },
  onKept: LockWait["onKept"],
): Promise<Journal | undefined> {
  let taken: Journal | undefined;
  for (const id of listParked(journals, record.devices)) {
    const journal = await Journal.open(workspace, id);
    if (!journal) continue;
    try {
      const plan = journal.state.statements[0]?.plan;
      if (!taken && plan && contentOf(plan, id) === contentOf(record, planned)) {
        await journal.append({ type: "resumed", statement: 0 }, "resumed");
        taken = journal;
      } else {
        for (const file of await abortJournal(workspace, journal, true)) onKept?.(file);
      }
    } finally {
      if (taken !== journal) await journal.close();
    }
  }
  return taken;
}

/** Removes the unfinished copies of the devices. */
export async function removeParked(
  workspace: Workspace,
  journals: readonly JournalSnapshot[],
  devices: readonly string[],
  onKept: LockWait["onKept"],
): Promise<void> {
  for (const id of listParked(journals, devices)) {
    const journal = await Journal.open(workspace, id);
    if (!journal) continue;
    try {
      for (const file of await abortJournal(workspace, journal, true)) onKept?.(file);
    } finally {
      await journal.close();
    }
  }
}

function listParked(journals: readonly JournalSnapshot[], devices: readonly string[]): string[] {
  return parkedAmong(journals).flatMap(({ id, busy, plan }) =>
    !busy && plan.devices.some((device) => devices.includes(device)) ? [id] : [],
  );
}

/**
 * But for the time, where the command was, and the transaction's id: that is in the names of its files, and of its
 * bitmap's witness.
 */
function contentOf(plan: PlanRecord, id: string): string {
  const withoutTime = (key: string, value: unknown): unknown => (key === "syncedAt" ? undefined : value);
  return JSON.stringify({ ...plan, currentFolder: undefined, folders: [] }, withoutTime).replaceAll(id, "");
}

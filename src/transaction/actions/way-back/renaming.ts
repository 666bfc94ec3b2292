// Devices that an undo or a redo gives the names that they had, or will have again.
//
// Invariant: everything else about the way back is planned by the names of the generation that is gone to.

import {
  type DeviceEntry,
  nameAt,
  refByNames,
  renamed,
  type Renaming,
  snapshotByNames,
  type SnapshotReads,
  withRenames,
} from "../../../device/index.ts";
import type { PlannedReport } from "../../journal/index.ts";
import type { UndoRequest } from "../../requests/way-back-requests.ts";
import type { Plan, PlanContext } from "../plan/action.ts";

/** What an undo is planned by: the table, and what snapshots keep, have the names of the generation that is gone to. */
export interface UndoContext extends PlanContext {
  /** The name that such a device had at a generation in between. */
  nameThen(device: string, generation: number): string;
}

export function byNames(context: PlanContext, renames: readonly Renaming[]): UndoContext {
  const { table } = context;
  const devices = table.devices
    .map((entry) => ({ ...entry, name: renamed(entry.name, renames) }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  const back = renames.map(({ from, to }) => ({ from: to, to: from })).toReversed();
  return {
    ...context,
    snapshots: readingByNames(context.snapshots, renames, back),
    table: withRenames({ ...table, devices }, renames, table.generation + 1),
    nameThen: (device, generation) => nameAt(renamed(device, back), generation, table) ?? device,
  };
}

/** References have the names that are gone to, also in what they say of later records. */
function readingByNames(
  snapshots: SnapshotReads,
  renames: readonly Renaming[],
  back: readonly Renaming[],
): SnapshotReads {
  if (renames.length === 0) return snapshots;
  return {
    read: async (ref) => snapshotByNames(await snapshots.read(refByNames(ref, back)), renames),
    chainOf: async (snapshot, device) =>
      await snapshots.chainOf(snapshotByNames(snapshot, back), renamed(device, back)),
    partsOf: (snapshot, device) => snapshots.partsOf(snapshotByNames(snapshot, back), renamed(device, back)),
  };
}

/** The changes with the devices that get other names, whether they move or not. */
export function planRenaming(
  { devices }: PlanContext["table"],
  renames: readonly Renaming[],
  { kind, changes }: { readonly kind: UndoRequest["kind"]; readonly changes: Plan["changes"] },
): Pick<Plan, "devices" | "reports" | "changes"> {
  const after = new Map<string, DeviceEntry | null>(changes.map((one) => [one.device, one.after]));
  const named = devices
    .map((entry) => ({ entry, to: renamed(entry.name, renames) }))
    .filter(({ entry, to }) => entry.name !== to);
  const staying = named.filter(({ to }) => !after.has(to));
  for (const { entry, to } of staying) after.set(to, { ...entry, name: to });
  for (const { entry } of named) if (!after.has(entry.name)) after.set(entry.name, null);
  return {
    devices: named.flatMap(({ entry, to }) => [entry.name, to]),
    reports: staying.map(
      ({ entry, to }): PlannedReport => ({
        kind,
        device: to,
        before: entry.image,
        after: entry.image,
        format: entry.format,
        files: [],
        notes: [{ code: "renamed from", device: entry.name }],
      }),
    ),
    changes: [...after].map(([device, entry]) => ({ device, after: entry })),
  };
}

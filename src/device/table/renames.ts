// Devices that have other names since. Records of snapshots, and closed generations, have the name that a device had when
// they were written: they are read by the one that it has now.
//
// Invariants
// - What was written for a generation below `below` has the old name, and what was written for it or later the new one. Read
//   in order, so that two devices may change names through a third.
// - A name that a snapshot has given up is hidden before another device of that snapshot gets it: what is given up would else
//   be that one's.
// - The table's own words (its devices, what its snapshots keep no more, which records are the later ones) always have the
//   names of now.

import { isSameImage, type Renamed, type Renaming } from "./device-entry.ts";
import { type DeviceTable, findDevice } from "./device-table.ts";
import type { GivenUp } from "./seals.ts";
import type { Snapshot, SnapshotRef } from "./snapshot-record.ts";

/** The name that a device has after these. */
export function renamed(name: string, renames: readonly Renaming[]): string {
  return renames.reduce((now, { from, to }) => (now === from ? to : now), name);
}

/** The name that a device of the table had at an earlier generation; undefined: it had none, or another device has it now. */
export function nameAt(name: string, generation: number, { renames = [] }: DeviceTable): string | undefined {
  const since = renames.filter(({ below }) => below > generation).toReversed();
  const then = renamed(
    name,
    since.map(({ from, to }) => ({ from: to, to: from })),
  );
  return renamed(then, since.toReversed()) === name ? then : undefined;
}

/** What a record that was written for a generation keeps, by the names of now. */
export function readByNames(snapshot: Snapshot, record: number, renames: readonly Renamed[] = []): Snapshot {
  const since = renames.filter(({ below }) => below > record);
  return since.length === 0 ? snapshot : snapshotByNames(snapshot, since);
}

/** What a snapshot keeps, by the new names. */
export function snapshotByNames(snapshot: Snapshot, renames: readonly Renaming[]): Snapshot {
  const devices = snapshot.devices.map((one) => ({ ...one, device: renamed(one.device, renames) }));
  return { ...snapshot, devices };
}

/** The table where what its snapshots say of devices is by their new names. Its devices have them already. */
export function withRenames(table: DeviceTable, renames: readonly Renaming[], below: number): DeviceTable {
  return renames.reduce((sum, renaming) => withRenaming(sum, renaming, below), table);
}

function withRenaming(table: DeviceTable, renaming: Renaming, below: number): DeviceTable {
  const { to } = renaming;
  // No device's own name has a colon.
  const hidden = { from: to, to: `${to}:${below}` };
  const isGivenUp = table.snapshots.some(({ without = [] }) => without.includes(to));
  const renames = isGivenUp ? [hidden, renaming] : [renaming];
  return {
    ...table,
    renames: [...(table.renames ?? []), ...renames.map((one) => ({ ...one, below }))],
    snapshots: table.snapshots.map((ref) => refByNames(ref, renames)),
  };
}

/** A snapshot in the table, by the new names. */
export function refByNames(ref: SnapshotRef, renames: readonly Renaming[]): SnapshotRef {
  const { without, later, unwritten } = ref;
  const all = (names: readonly string[]): string[] => names.map((name) => renamed(name, renames));
  return {
    ...ref,
    ...(without && { without: all(without) }),
    ...(later && {
      later: later.map((one) => ({
        ...one,
        devices: all(one.devices),
        ...(one.unwritten && { unwritten: snapshotByNames(one.unwritten, renames) }),
      })),
    }),
    ...(unwritten && { unwritten: snapshotByNames(unwritten, renames) }),
  };
}

/** What a device gives up of snapshots, by the new names. */
export function givenUpByNames(givenUp: GivenUp, renames: readonly Renaming[]): GivenUp {
  if (renames.length === 0) return givenUp;
  return {
    ...givenUp,
    device: renamed(givenUp.device, renames),
    snapshots: givenUp.snapshots.map((one) => ({
      ...one,
      devices: one.devices.map((name) => renamed(name, renames)),
    })),
    ...(givenUp.renewed && { renewed: givenUp.renewed.map((one) => snapshotByNames(one, renames)) }),
  };
}

/**
 * What gives the devices of the table the names that they had, or will have, in another generation of the workspace: what
 * was renamed on the way there, and taken back what was renamed since both were the same.
 */
export function renamesTowards(
  { renames: own = [] }: DeviceTable,
  { renames: wanted = [] }: DeviceTable,
): Renaming[] {
  const isSame = (one: Renamed | undefined, other: Renamed): boolean =>
    one?.from === other.from && one.to === other.to && one.below === other.below;
  const end = own.findIndex((one, index) => !isSame(wanted[index], one));
  const common = end === -1 ? own.length : end;
  return [
    ...own
      .slice(common)
      .toReversed()
      .map(({ from, to }) => ({ from: to, to: from })),
    ...wanted.slice(common).map(({ from, to }) => ({ from, to })),
  ];
}

/**
 * Whether the way from one generation to the other moves no device, and ends with the names that there are. An undo or a redo
 * there is refused, whenever it comes to that.
 */
export function movesNothing(from: DeviceTable, to: DeviceTable): boolean {
  const renames = renamesTowards(from, to);
  const names = [...from.devices, ...to.devices].map(({ name }) => name);
  return names.every(
    (name) => renamed(name, renames) === name && isSameImage(findDevice(from, name), findDevice(to, name)),
  );
}

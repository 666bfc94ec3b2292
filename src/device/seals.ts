// What the entries of a table know of who keeps their images, and what becomes of that where snapshots give devices up.
//
// Invariant: a record of a snapshot is never changed. Where images of a device have changed places, a later record has that
// device anew, and the table says which one counts.

import { type ChainEntry, filesOfEntry } from "./device-entry.ts";
import type { DeviceTable } from "./device-table.ts";
import type { Snapshot, SnapshotRef } from "./snapshot-record.ts";

type Marks = Pick<ChainEntry, "sealedBy" | "isMade">;

/** The table with what another knows of who has sealed, or made, images that both have. */
export function withSealsOf(table: DeviceTable, known: DeviceTable): DeviceTable {
  const marks = new Map<string, Marks>();
  for (const { image, sealedBy, isMade } of known.devices.flatMap(({ chain }) => chain)) {
    if (sealedBy === undefined && isMade === undefined) continue;
    const { sealedBy: other, isMade: made } = marks.get(image) ?? {};
    marks.set(image, marksOf({ sealedBy: sealedBy ?? other, isMade: isMade ?? made }));
  }
  if (marks.size === 0) return table;
  return withChains(table, undefined, (entry, depth) => {
    const { sealedBy, isMade } = marks.get(entry.image) ?? {};
    if (depth === 0) return entry;
    return { ...entry, ...marksOf({ sealedBy: entry.sealedBy ?? sealedBy, isMade: entry.isMade ?? isMade }) };
  });
}

function marksOf({ sealedBy, isMade }: Marks): Marks {
  return { ...(sealedBy !== undefined && { sealedBy }), ...(isMade !== undefined && { isMade }) };
}

/** What a device gives up of the snapshots that keep it. */
export interface GivenUp {
  readonly device: string;
  /** Images of its chain that get another content, or go, also for snapshots that have no record yet. */
  readonly images: readonly string[];
  /** Those of the table that keep it no more, with all devices that each keeps. */
  readonly snapshots: readonly { readonly number: number; readonly devices: readonly string[] }[];
  /** What others have of that device alone, where its images have changed places. Left out: nothing. */
  readonly renewed?: readonly Snapshot[] | undefined;
  /** Who keeps, or has made, what of the device's own chain then. Left out: as before. */
  readonly marks?: readonly (Pick<ChainEntry, "image"> & Marks)[] | undefined;
}

/**
 * The table where those snapshots keep that device no more, and so those that it has no record of yet and that need the
 * images. One that keeps nothing any more is none.
 */
export function withGivenUp(
  table: DeviceTable,
  { device, images, snapshots, renewed = [], marks = [] }: GivenUp,
): DeviceTable {
  const keeping = new Map(snapshots.map(({ number, devices }) => [number, devices]));
  for (const { number, unwritten } of table.snapshots) {
    const own = unwritten?.devices.find((one) => one.device === device);
    if (!unwritten || !own) continue;
    const isOnThem = own.below !== null && keeping.has(own.below);
    if (!isOnThem && !own.chain.flatMap(filesOfEntry).some(({ image }) => images.includes(image))) continue;
    keeping.set(
      number,
      unwritten.devices.map((one) => one.device),
    );
  }
  const refs = table.snapshots.flatMap((ref): readonly SnapshotRef[] => {
    const later = renewed.find(({ number }) => number === ref.number);
    const devices = keeping.get(ref.number);
    if (!devices) return [later ? withLater(ref, later, table.generation) : ref];
    const without = [...new Set([...(ref.without ?? []), device])];
    return devices.every((one) => without.includes(one)) ? [] : [{ ...ref, without }];
  });
  const known = new Map(marks.map(({ image, ...mark }) => [image, mark]));
  const unsealed = withoutSeals(table, new Set(keeping.keys()), device);
  const marked = withChains(unsealed, device, (entry, depth) => {
    const mark = depth === 0 ? undefined : known.get(entry.image);
    if (!mark) return entry;
    const { sealedBy: _sealedBy, isMade: _isMade, ...rest } = entry;
    return { ...rest, ...mark };
  });
  return { ...marked, snapshots: refs };
}

/** Of devices that changed in the same generation there is one record. */
function withLater(ref: SnapshotRef, { devices, ...snapshot }: Snapshot, record: number): SnapshotRef {
  const names = devices.map(({ device }) => device);
  if (ref.unwritten) {
    const others = ref.unwritten.devices.filter(({ device }) => !names.includes(device));
    return { ...ref, unwritten: { ...ref.unwritten, devices: [...others, ...devices] } };
  }
  const before = (ref.later ?? []).flatMap((one) => {
    const left = one.devices.filter((device) => !names.includes(device));
    return left.length === 0 ? [] : [{ ...one, devices: left }];
  });
  const own = before.find((one) => one.record === record);
  const unwritten = { ...snapshot, devices: [...(own?.unwritten?.devices ?? []), ...devices] };
  const now = { record, devices: [...(own?.devices ?? []), ...names], unwritten };
  return { ...ref, later: [...before.filter((one) => one !== own), now] };
}

/** The table where these snapshots have sealed nothing, of a device or of any. */
export function withoutSeals(table: DeviceTable, dropped: ReadonlySet<number>, device?: string): DeviceTable {
  return withChains(table, device, (one) => {
    if (one.sealedBy === undefined || !dropped.has(one.sealedBy)) return one;
    const { sealedBy: _sealedBy, ...rest } = one;
    return rest;
  });
}

/** Of one device, or of all. */
function withChains(
  table: DeviceTable,
  device: string | undefined,
  change: (entry: ChainEntry, depth: number) => ChainEntry,
): DeviceTable {
  return {
    ...table,
    devices: table.devices.map((entry) =>
      device === undefined || entry.name === device ? { ...entry, chain: entry.chain.map(change) } : entry,
    ),
  };
}

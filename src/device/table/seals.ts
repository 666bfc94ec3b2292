// What the entries of a table know of who keeps their images, and what becomes of that where snapshots give devices up.
//
// Invariant: a record of a snapshot is never changed. Where images of a device have changed places, a later record has that
// device anew, and the table says which one counts.

import type { Fingerprint } from "../../format/index.ts";
import { type ChainEntry, filesOfEntry, withLooksIn } from "./device-entry.ts";
import type { DeviceTable } from "./device-table.ts";
import type { SealedDevice, Snapshot, SnapshotRef } from "./snapshot-record.ts";

type Marks = Pick<ChainEntry, "sealedBy" | "isMade">;

/** The table with what another knows of who has sealed, or made, images that both have. */
export function withSealsOf(table: DeviceTable, known: DeviceTable): DeviceTable {
  const marks = new Map<string, Marks>();
  const made = new Set(known.devices.flatMap((entry) => (entry.made === entry.image ? [entry.image] : [])));
  for (const { image, sealedBy, isMade = made.has(image) || undefined } of chainsOf(known)) {
    if (sealedBy === undefined && isMade === undefined) continue;
    const other = marks.get(image);
    marks.set(image, marksOf({ sealedBy: sealedBy ?? other?.sealedBy, isMade: isMade ?? other?.isMade }));
  }
  if (marks.size === 0) return table;
  return withChains(table, undefined, (entry, depth) => {
    const { sealedBy, isMade } = marks.get(entry.image) ?? {};
    if (depth === 0) return entry;
    return { ...entry, ...marksOf({ sealedBy: entry.sealedBy ?? sealedBy, isMade: entry.isMade ?? isMade }) };
  });
}

function chainsOf({ devices }: DeviceTable): readonly ChainEntry[] {
  return devices.flatMap(({ chain }) => chain);
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
  /** The same of those that have no record yet, which stay. Left out: they are given up where they need the images. */
  readonly taken?: TakenThen | undefined;
}

/** What snapshots that the transaction has taken keep of a device, oldest first. */
export interface TakenThen {
  /** The number that stands here for the oldest one, with those that follow it for the others. */
  readonly first: number;
  readonly snapshots: readonly Pick<SealedDevice, "chain" | "below" | "isMade">[];
}

/** With what images look like that the transaction has made. */
export function withLooksOfMade(givenUp: GivenUp, looks: ReadonlyMap<string, Fingerprint>): GivenUp {
  if (looks.size === 0) return givenUp;
  const renew = <Part extends Pick<SealedDevice, "chain">>(part: Part): Part => ({
    ...part,
    chain: withLooksIn(part.chain, looks),
  });
  const { renewed, taken } = givenUp;
  return {
    ...givenUp,
    ...(renewed && { renewed: renewed.map((one) => ({ ...one, devices: one.devices.map(renew) })) }),
    ...(taken && { taken: { ...taken, snapshots: taken.snapshots.map(renew) } }),
  };
}

/**
 * The table where those snapshots keep that device no more, and so those that it has no record of yet and that need the
 * images. One that keeps nothing any more is none.
 */
export function withGivenUp(
  table: DeviceTable,
  { device, images, snapshots, renewed = [], marks = [], taken }: GivenUp,
): DeviceTable {
  const keeping = new Map(snapshots.map(({ number, devices }) => [number, devices]));
  const unwrittenOf = ({ unwritten }: SnapshotRef) => unwritten?.devices.find((one) => one.device === device);
  // Those of a workspace of the version before have no record yet either, and the numbers that were planned with.
  const takenNow = taken
    ? table.snapshots.filter((ref) => ref.number >= taken.first && unwrittenOf(ref))
    : [];
  const numberOf = (planned: number): number => (taken && takenNow[planned - taken.first]?.number) ?? planned;
  for (const ref of taken ? [] : table.snapshots) {
    const { number, unwritten } = ref;
    const own = unwrittenOf(ref);
    if (!unwritten || !own) continue;
    const isOnThem = own.below !== null && keeping.has(own.below);
    if (!isOnThem && !own.chain.flatMap(filesOfEntry).some(({ image }) => images.includes(image))) continue;
    keeping.set(
      number,
      unwritten.devices.map((one) => one.device),
    );
  }
  const refs = table.snapshots.flatMap((ref): readonly SnapshotRef[] => {
    const then = taken?.snapshots[takenNow.indexOf(ref)];
    if (then) return [withTaken(ref, device, { ...then, below: then.below && numberOf(then.below) })];
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
    const { sealedBy, isMade } = mark;
    return { ...rest, ...marksOf({ sealedBy: sealedBy && numberOf(sealedBy), isMade }) };
  });
  return { ...marked, snapshots: refs };
}

/** The table where one of its snapshots keeps something else of these devices. */
export function withRenewed(table: DeviceTable, renewed: Snapshot): DeviceTable {
  const snapshots = table.snapshots.map((ref) =>
    ref.number === renewed.number ? withLater(ref, renewed, table.generation) : ref,
  );
  return { ...table, snapshots };
}

/** One without a record, where its device is on other images then. */
function withTaken(ref: SnapshotRef, device: string, then: TakenThen["snapshots"][number]): SnapshotRef {
  const { unwritten } = ref;
  if (!unwritten) return ref;
  const devices = unwritten.devices.map((one) => {
    if (one.device !== device) return one;
    const { isMade: _isMade, ...rest } = one;
    return { ...rest, ...then };
  });
  return { ...ref, unwritten: { ...unwritten, devices } };
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
  const own = before.find((one) => one.record === record && one.unwritten);
  const beside = own?.unwritten?.devices.filter(({ device }) => own.devices.includes(device)) ?? [];
  const unwritten = { ...snapshot, devices: [...beside, ...devices] };
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

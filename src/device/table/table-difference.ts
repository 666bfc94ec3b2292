// What one table has and another has not: with it, and with the other, the one is known. So the history takes no more than
// what changes: devices and snapshots that both have alike are left out, and of a chain the images that the other entry of
// the device has in the same chain are told by their places there.
//
// Invariants
// - Applied to the table that it was made against, a difference gives the other one back, to the last field.
// - What else has come to be known of that table's images since is known of the other one's then. So a chain is told by no
//   other chain than its own: what a mirror was in sync with must not learn what was written to the device since.
// - Nothing that is stored makes a chain longer than LONGEST_CHAIN.

import { isCount, isText, listOf, objectOf } from "./data-shape.ts";
import { type ChainEntry, type DeviceEntry, mapEntryPaths, mapImagePaths } from "./device-entry.ts";
import { type DeviceTable, findDisorder, isTableHead, type TableHead } from "./device-table.ts";
import { isChain, isDeviceEntry } from "./entry-shape.ts";
import { ImagePool } from "./pooled-chains.ts";
import { isSnapshotRef, type SnapshotRef, withoutUnwritten } from "./snapshot-record.ts";
import { fromStoredPath, toStoredPath } from "./stored-path.ts";

/** A chain: images of the difference by number, and [place, count] for images of the other entry's chain. */
type Places = readonly (number | readonly [place: number, count: number])[];

interface ChangedDevice {
  /** Its chains are left empty. */
  readonly entry: DeviceEntry;
  readonly chain: Places;
  /** The chains of its mirror; empty where it has none. */
  readonly mirror: Places;
  readonly source: Places;
}

export interface TableDifference {
  readonly head: TableHead;
  readonly images: readonly ChainEntry[];
  readonly devices: readonly ChangedDevice[];
  /** Devices that the other table alone has. */
  readonly without: readonly string[];
  readonly snapshots: readonly SnapshotRef[];
  /** Snapshots that the other table alone has. */
  readonly dropped: readonly number[];
}

/** Five times what can be opened. */
const LONGEST_CHAIN = 1000;

/** As it is stored. Paths become relative to root inside it. */
export function storeDifference(root: string, difference: TableDifference): object {
  return mapPaths(difference, (path) => toStoredPath(root, path));
}

/** The inverse. Undefined where the shape does not hold. */
export function loadDifference(root: string, stored: unknown): TableDifference | undefined {
  return isDifference(stored) ? mapPaths(stored, (path) => fromStoredPath(root, path)) : undefined;
}

const isPlaces = listOf<Places[number]>(
  (value): value is Places[number] =>
    isCount(value) || (Array.isArray(value) && value.length === 2 && value.every(isCount)),
);

const isDifference = objectOf<TableDifference>({
  head: isTableHead,
  images: isChain,
  devices: listOf(
    objectOf<ChangedDevice>({ entry: isDeviceEntry, chain: isPlaces, mirror: isPlaces, source: isPlaces }),
  ),
  without: listOf(isText),
  snapshots: listOf(isSnapshotRef),
  dropped: listOf(isCount),
});

function mapPaths(difference: TableDifference, map: (path: string) => string): TableDifference {
  return {
    ...difference,
    head: { ...difference.head, allowPaths: difference.head.allowPaths.map(map) },
    images: difference.images.map((entry) => mapImagePaths(entry, map)),
    devices: difference.devices.map((one) => ({ ...one, entry: mapEntryPaths(one.entry, map) })),
  };
}

/** With which `to` is known to who knows `from`. */
export function differ(from: DeviceTable, to: DeviceTable): TableDifference {
  const { devices: _devices, snapshots: _snapshots, sinceWhole: _sinceWhole, ...head } = to;
  const others = new Map(from.devices.map((entry) => [entry.name, entry]));
  const refs = new Map(from.snapshots.map((ref) => [ref.number, ref]));
  const images = new ImagePool();
  const names = new Set(to.devices.map(({ name }) => name));
  const numbers = new Set(to.snapshots.map(({ number }) => number));
  return {
    head,
    devices: to.devices
      .filter((entry) => !isAlikeDevice(others.get(entry.name), entry))
      .map((entry) => changeOf(entry, others.get(entry.name), images)),
    images: images.images,
    without: from.devices.map(({ name }) => name).filter((name) => !names.has(name)),
    snapshots: to.snapshots
      .filter((ref) => refs.get(ref.number) !== ref)
      .map(withoutUnwritten)
      .filter((ref) => {
        const other = refs.get(ref.number);
        return !other || !isAlike(withoutUnwritten(other), ref);
      }),
    dropped: from.snapshots.map(({ number }) => number).filter((number) => !numbers.has(number)),
  };
}

/** The table; a text says why there is none, as a clause. The inverse of differ. */
export function applyDifference(from: DeviceTable, difference: TableDifference): DeviceTable | string {
  const { head, images, devices, without, snapshots, dropped } = difference;
  const entries = new Map(from.devices.map((entry) => [entry.name, entry]));
  for (const name of without) entries.delete(name);
  for (const changed of devices) {
    const { entry } = changed;
    const there = chainsOf(entries.get(entry.name));
    const [chain, mirror, source] = CHAINS.map((name) => imagesAt(changed[name], images, there[name]));
    if (!chain || !mirror || !source) return `a chain of '${entry.name}' leads to no image`;
    entries.set(entry.name, {
      ...entry,
      chain,
      mirror: entry.mirror && { ...entry.mirror, chain: mirror, source },
    });
  }
  const refs = new Map(from.snapshots.map((ref) => [ref.number, ref]));
  for (const number of dropped) refs.delete(number);
  for (const ref of snapshots) refs.set(ref.number, ref);
  const table = {
    ...head,
    devices: [...entries.values()].sort((a, b) => (a.name < b.name ? -1 : 1)),
    snapshots: [...refs.values()].sort((a, b) => a.number - b.number),
  };
  return findDisorder(table) ?? table;
}

function changeOf(entry: DeviceEntry, other: DeviceEntry | undefined, fresh: ImagePool): ChangedDevice {
  const [own, there] = [chainsOf(entry), chainsOf(other)];
  const placesOf = (name: (typeof CHAINS)[number]): Places => {
    const chain = own[name];
    if (chain.length === 0) return [];
    const find = findAmong(there[name]);
    if (chain.length > LONGEST_CHAIN) throw new Error("a chain of a table is no longer than what opens");
    const places: (number | [number, number])[] = [];
    for (const image of chain) {
      const place = find(image);
      const last = places.at(-1);
      if (place === undefined) places.push(fresh.numberOf(image));
      else if (Array.isArray(last) && last[0] + last[1] === place) last[1] += 1;
      else places.push([place, 1]);
    }
    return places;
  };
  return {
    entry: withoutChains(entry),
    chain: placesOf("chain"),
    mirror: placesOf("mirror"),
    source: placesOf("source"),
  };
}

/** Undefined where a place leads nowhere, or the chain would be longer than any. */
function imagesAt(
  places: Places,
  images: readonly ChainEntry[],
  there: readonly ChainEntry[],
): readonly ChainEntry[] | undefined {
  const chain: ChainEntry[] = [];
  for (const each of places) {
    const [from, place, count] = typeof each === "number" ? [images, each, 1] : [there, ...each];
    if (place + count > from.length || chain.length + count > LONGEST_CHAIN) return undefined;
    chain.push(...from.slice(place, place + count));
  }
  return chain;
}

const CHAINS = ["chain", "mirror", "source"] as const;

function chainsOf(entry: DeviceEntry | undefined): Record<(typeof CHAINS)[number], readonly ChainEntry[]> {
  const { chain: mirror = [], source = [] } = entry?.mirror ?? {};
  return { chain: entry?.chain ?? [], mirror, source };
}

function findAmong(images: readonly ChainEntry[]): (image: ChainEntry) => number | undefined {
  // No path stands in a chain twice; where one does, an image of it is written out, and no harm done.
  const byPath = new Map(images.map(({ image }, place) => [image, place]));
  return (image) => {
    const place = byPath.get(image.image);
    const there = place === undefined ? undefined : images[place];
    // What is below another image by now has a name there: that differs most often.
    return there?.name === image.name && isAlike(there, image) ? place : undefined;
  };
}

function isAlikeDevice(a: DeviceEntry | undefined, b: DeviceEntry): boolean {
  if (a === b) return true;
  // Nearly all that are not alike have moved to another image.
  if (a?.image !== b.image) return false;
  const [ours, theirs] = [chainsOf(a), chainsOf(b)];
  return (
    isAlike(withoutChains(a), withoutChains(b)) &&
    CHAINS.every(
      (name) =>
        ours[name].length === theirs[name].length &&
        ours[name].every((image, place) => isAlike(image, theirs[name][place])),
    )
  );
}

function withoutChains(entry: DeviceEntry): DeviceEntry {
  return { ...entry, chain: [], mirror: entry.mirror && { ...entry.mirror, chain: [], source: [] } };
}

/** What is taken for another one is written, and no harm done. */
function isAlike(a: object | undefined, b: object | undefined): boolean {
  return a === b || JSON.stringify(a) === JSON.stringify(b);
}

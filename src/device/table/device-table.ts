// The device table: which devices there are, and which image is the active layer of each.
//
// Invariants, checked on encode and decode
// - Devices are sorted by name, and no name stands twice.
// - A chain has its active layer first, and its first image is the device's image.
// - Snapshots stand in the order of their numbers, each below the next one to be given: so no number comes twice.
// - The checksum covers every byte of the table; a table that does not match it is refused.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import {
  describeChanges,
  describeDoubt,
  type Fingerprint,
  isDeviceIdentity,
  shellQuote,
} from "../../format/index.ts";
import { isCount, isText, listOf, objectOf, orAbsent, orNull } from "./data-shape.ts";
import {
  type ChainEntry,
  type DeviceEntry,
  type FenceEntry,
  filesOfDevice,
  filesOfEntry,
  mapEntryPaths,
  type Renamed,
  type SeenFile,
} from "./device-entry.ts";
import { isDeviceEntry, isRenamed } from "./entry-shape.ts";
import { type FileMark, isFileMark } from "./file-mark.ts";
import { poolChains, unpoolChains } from "./pooled-chains.ts";
import { type AppliedOnce, isAppliedOnce, isOperation, type Operation } from "./operation.ts";
import { openSealed, sealJson } from "./sealed-json.ts";
import { isSnapshotRef, type SnapshotRef, withoutUnwritten } from "./snapshot-record.ts";
import { fromStoredPath, toStoredPath } from "./stored-path.ts";

export interface DeviceTable {
  /** The workspace's own, kept over its generations; null until the first commit by an imgtx that gives one. */
  readonly workspaceId: string | null;
  readonly generation: number;
  /** ISO 8601, UTC. */
  readonly committed: string;
  /** The transaction that made this generation; null for the first. */
  readonly transaction: string | null;
  /** What made it, in words. */
  readonly summary: string;
  /** The same as data, for `history`. Absent: an imgtx before this one made it, and what it was called may be the summary. */
  readonly operation?: Operation | undefined;
  /** The id that its transaction was given, so that it is applied once. Absent: none. */
  readonly once?: AppliedOnce | undefined;
  /** Folders trusted for raw backing images and data files. */
  readonly allowPaths: readonly string[];
  readonly devices: readonly DeviceEntry[];
  /** Those that are kept, oldest first. */
  readonly snapshots: readonly SnapshotRef[];
  /** The number that the next one gets. */
  readonly nextSnapshot: number;
  /** The generation whose state this one is, which an undo or a redo went to. Absent: its own. */
  readonly position?: number | undefined;
  /** Closed generations that a redo goes to, the next one last. Absent: none. */
  readonly undone?: readonly number[] | undefined;
  /**
   * The generation at which the workspace, which was a copy, was made one of its own: the images of that one are the original's
   * as well. Absent: it never was a copy.
   */
  readonly adopted?: number | undefined;
  /** Devices that have other names since, in order: earlier records are read by that. Absent: none. */
  readonly renames?: readonly Renamed[] | undefined;
  /** Bytes of the differences in the history after its last whole generation. Absent: the next one is kept whole. */
  readonly sinceWhole?: number | undefined;
}

/** What a table says of itself: all but what grows with the workspace. */
export type TableHead = Omit<DeviceTable, "devices" | "snapshots" | "sinceWhole">;

const KIND = "imgtx device table";
const VERSION = 4;
/** One with devices that were renamed: an imgtx that does not know of that would look for their snapshots in vain. */
const VERSION_WITH_RENAMES = 5;
/** Of these the first two knew of no snapshots, and the third of no history that has differences. */
const READ_VERSIONS: readonly unknown[] = [1, 2, 3, VERSION, VERSION_WITH_RENAMES];

const MAX_DEVICE_NAME_LENGTH = 64;
const DEVICE_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.+-]*$/;

export function assertDeviceName(name: string): void {
  if (isDeviceName(name)) return;
  throw new ImgtxError("E_USAGE", `'${name}' can't be the name of a device`, {
    hint: `use 1 to ${MAX_DEVICE_NAME_LENGTH} of the characters A-Z a-z 0-9 _ . + -, beginning with a letter, digit or _`,
  });
}

/** Asked for each device of a group several times: a loop takes a third of what `find` does. */
export function findDevice(table: DeviceTable, name: string): DeviceEntry | undefined {
  return table.devices[placeOf(table, name)];
}

/** -1: nowhere. */
function placeOf({ devices }: DeviceTable, name: string): number {
  for (let place = 0; place < devices.length; place += 1) if (devices[place]?.name === name) return place;
  return -1;
}

/** The entry of a device that must be there. E_NO_DEVICE otherwise. */
export function requireDevice(table: DeviceTable, name: string): DeviceEntry {
  const entry = findDevice(table, name);
  if (entry) return entry;
  const names = table.devices.map((device) => device.name);
  throw new ImgtxError("E_NO_DEVICE", `no device is called '${name}'`, {
    device: name,
    hint:
      names.length === 0
        ? "add one with `imgtx device add NAME FILE`"
        : `the devices are ${names.slice(0, 8).join(", ")}${names.length > 8 ? " …" : ""}`,
  });
}

/**
 * Where the images of a device may lead: what its operator trusted, and an active layer that is raw or a block device,
 * which he named himself. It stays trusted when it becomes a backing image. So is what its mirror has on block devices.
 */
export function trustedBy(entry: DeviceEntry): readonly string[] {
  const { image, format, mirror, trusted = [] } = entry;
  const isNamed = format === "raw" || isOnDevice(entry.chain[0]);
  // As nearly all are.
  if (!isNamed && !mirror) return trusted;
  const copied = mirror?.chain.filter(isOnDevice) ?? [];
  const named = [...(isNamed ? [image] : []), ...copied.map((one) => one.image)];
  return [...trusted, ...named.filter((one) => !trusted.includes(one))];
}

/** Whether any of them has an image on a block device, which its operator allowed. */
export function standsOnDevices(entries: readonly DeviceEntry[]): boolean {
  return entries.some((entry) => isProvisioned(entry) || filesOfDevice(entry).some(isOnDevice));
}

function isOnDevice(file: SeenFile | undefined): boolean {
  return isDeviceIdentity(file?.fingerprint ?? {});
}

/** Whether a command makes volumes for it. */
export function isProvisioned({ provision }: DeviceEntry): boolean {
  return provision !== undefined;
}

/** The same entry, trusting these places too. */
export function withTrusted(entry: DeviceEntry, places: readonly string[]): DeviceEntry {
  if (places.length === 0) return entry;
  return { ...entry, trusted: [...new Set([...(entry.trusted ?? []), ...places])] };
}

/** The table with some devices set, or removed where the entry is null. */
export function withDevices(
  table: DeviceTable,
  changes: readonly { readonly device: string; readonly after: DeviceEntry | null }[],
): DeviceTable {
  const [only, ...others] = changes;
  // A group is planned by one table for each device.
  if (only?.after && others.length === 0) {
    const place = placeOf(table, only.device);
    if (place !== -1) return { ...table, devices: table.devices.with(place, only.after) };
  }
  const left = new Map(changes.map(({ device, after }) => [device, after]));
  const devices: DeviceEntry[] = [];
  for (const entry of table.devices) {
    const after = left.get(entry.name);
    if (after !== null) devices.push(after ?? entry);
    left.delete(entry.name);
  }
  const added = [...left.values()].filter((after) => after !== null);
  // In order already where all of them were there before.
  return { ...table, devices: added.length === 0 ? devices : [...devices, ...added].sort(byName) };
}

export function firstTable(committed: string): DeviceTable {
  return {
    workspaceId: null,
    generation: 0,
    committed,
    transaction: null,
    summary: "init",
    allowPaths: [],
    devices: [],
    snapshots: [],
    nextSnapshot: 1,
  };
}

export interface StoredTable {
  readonly table: DeviceTable;
  /** Whether an imgtx wrote it that knew of no snapshots: they are in its history. */
  readonly isEarlier: boolean;
  /** The file that it was written to; null in the history. */
  readonly mark: TableMark | null;
}

export interface TableMark extends FileMark {
  /** The workspace's folder when it was written: absolute, since it tells whether the workspace was moved. */
  readonly root: string;
  /** The folder `.imgtx`: a copy by hard links has the very file, in another folder. Left out where it was not kept. */
  readonly folder?: FileMark;
  /** The folder of the workspace that is being moved here: see moving.ts. Absent: it is here. */
  readonly comesFrom?: string;
}

/** One JSON object with its checksum, ready to be written. */
export function encodeTable(root: string, table: DeviceTable, mark: TableMark | null): Uint8Array {
  return sealJson("table", JSON.stringify(storeTable(root, table, mark)));
}

/** As it is stored. Paths become relative to root inside it. */
export function storeTable(root: string, table: DeviceTable, mark: TableMark | null): object {
  const problem = findDisorder(table);
  if (problem !== undefined) throw new Error(`a device table is not to be written: ${problem}`);
  const stored = mapPaths(table, (path) => toStoredPath(root, path));
  const snapshots = stored.snapshots.map(withoutUnwritten);
  const version = table.renames ? VERSION_WITH_RENAMES : VERSION;
  return { kind: KIND, version, mark, ...stored, snapshots, ...poolChains(stored.devices) };
}

/** The inverse of encodeTable. E_CORRUPT where the checksum or the shape does not hold. */
export function decodeTable(root: string, bytes: Uint8Array, file: string): StoredTable {
  const parsed = openSealed("table", "a device table", bytes);
  if (typeof parsed === "string") throw damaged(file, parsed);
  return loadTable(root, parsed, file);
}

/** The inverse of storeTable. */
export function loadTable(
  root: string,
  parsed: Readonly<Record<string, unknown>>,
  file: string,
): StoredTable {
  if (parsed["kind"] !== KIND) throw damaged(file, "it holds something else");
  const { kind: _kind, version, mark = null, images, ...fields } = parsed;
  // Without a list of images each chain is written out.
  const devices = images === undefined ? fields["devices"] : unpoolChains(images, fields["devices"]);
  const isEarlier = version === 1 || version === 2;
  const none = isEarlier ? { snapshots: [], nextSnapshot: 1 } : {};
  const stored: Record<string, unknown> = { workspaceId: null, ...none, ...fields, devices };
  if (!READ_VERSIONS.includes(version)) {
    throw new ImgtxError(
      "E_UNSUPPORTED",
      `the device table has version ${String(version)}; this imgtx reads ${READ_VERSIONS.slice(0, -1).join(", ")} and ${VERSION_WITH_RENAMES}`,
      { image: file, hint: "use the imgtx that wrote it, or a newer one" },
    );
  }
  if (!isTable(stored) || !orNull(isTableMark)(mark))
    throw damaged(file, "a field of it is missing or of another kind");
  const problem = findDisorder(stored);
  if (problem !== undefined) throw damaged(file, problem);
  const table = mapPaths(stored, (path) => fromStoredPath(root, path));
  return { table, mark, isEarlier };
}

const isTableMark = objectOf<TableMark>({
  inode: isText,
  bornNs: isText,
  root: isText,
  folder: orAbsent(isFileMark),
  comesFrom: orAbsent(isText),
});

const HEAD = {
  workspaceId: orNull(isText),
  generation: isCount,
  committed: isText,
  transaction: orNull(isText),
  summary: isText,
  operation: orAbsent(isOperation),
  once: orAbsent(isAppliedOnce),
  allowPaths: listOf(isText),
  nextSnapshot: isCount,
  position: orAbsent(isCount),
  undone: orAbsent(listOf(isCount)),
  adopted: orAbsent(isCount),
  renames: orAbsent(listOf(isRenamed)),
};

export const isTableHead = objectOf<TableHead>(HEAD);

const isTable = objectOf<DeviceTable>({
  ...HEAD,
  devices: listOf(isDeviceEntry),
  snapshots: listOf(isSnapshotRef),
  sinceWhole: orAbsent(isCount),
});

/** What breaks the invariants of a table, or undefined. */
export function findDisorder({ devices, snapshots, nextSnapshot }: DeviceTable): string | undefined {
  for (const [index, { name, image, chain }] of devices.entries()) {
    const before = devices[index - 1];
    if (!isDeviceName(name)) return `'${name}' can't be the name of a device`;
    if (before !== undefined && before.name >= name) return `'${name}' stands after '${before.name}'`;
    if (chain[0]?.image !== image) return `the chain of '${name}' does not begin with its image`;
  }
  for (const [index, { number }] of snapshots.entries()) {
    const after = snapshots[index + 1]?.number ?? nextSnapshot;
    if (number < 1 || number >= after) return `snapshot ${number} stands before ${after}`;
  }
  return undefined;
}

function isDeviceName(name: string): boolean {
  return DEVICE_NAME.test(name) && name.length <= MAX_DEVICE_NAME_LENGTH;
}

/** What the journal knows of files that a transaction made or changed. */
export interface FingerprintChange {
  /** Undefined: the transaction made it. */
  readonly before: Fingerprint | undefined;
  readonly now: Fingerprint;
}

/**
 * The entry with what some of its images, or of its mirror's, look like now. What a mirror is in sync with is
 * renewed only where it was that before, without a doubt: what somebody else wrote since, or may have written, must go on
 * to tell that it is not.
 */
export function withFingerprints(
  entry: DeviceEntry,
  changed: ReadonlyMap<string, FingerprintChange>,
): DeviceEntry {
  if (changed.size === 0) return entry;
  const renewOne = (image: string, known: Fingerprint, always: boolean): Fingerprint => {
    const change = changed.get(image);
    if (!change) return known;
    const { before, now } = change;
    const isKnown = !before || (describeChanges(known, before).length === 0 && !isInDoubt(known, change));
    return always || isKnown ? now : known;
  };
  const renew = (chain: readonly ChainEntry[], always: boolean): ChainEntry[] =>
    chain.map((element) =>
      filesOfEntry(element).some(({ image }) => changed.has(image))
        ? {
            ...element,
            fingerprint: renewOne(element.image, element.fingerprint, always),
            dataFile: element.dataFile && {
              ...element.dataFile,
              fingerprint: renewOne(element.dataFile.image, element.dataFile.fingerprint, always),
            },
          }
        : element,
    );
  const { mirror, frozen } = entry;
  // What was written under a fence that stays was there before it is lifted: no earlier time is put back then.
  const timeOf = ({ image, modifiedNs }: FenceEntry) => changed.get(image)?.now.modifiedNs ?? modifiedNs;
  return {
    ...entry,
    chain: renew(entry.chain, true),
    frozen: frozen && {
      ...frozen,
      fences: frozen.fences.map((fence) => ({ ...fence, modifiedNs: timeOf(fence) })),
    },
    mirror: mirror && {
      ...mirror,
      chain: renew(mirror.chain, false),
      source: renew(mirror.source, false),
    },
  };
}

/**
 * Of what the transaction has made itself, no change time is kept before it has its name; and of what is still to be copied
 * none at all, which hides no write. A block device is in doubt whatever it looks like: no look of it hides one.
 */
function isInDoubt(known: Fingerprint, { before, now }: FingerprintChange): boolean {
  if (!before || known.changedNs === undefined || now.changedNs === undefined) return false;
  if (isDeviceIdentity(now)) return false;
  return describeDoubt(known, before) !== undefined;
}

function mapPaths(table: DeviceTable, map: (path: string) => string): DeviceTable {
  const done = new Map<ChainEntry, ChainEntry>();
  return {
    ...table,
    allowPaths: table.allowPaths.map(map),
    devices: table.devices.map((entry) => mapEntryPaths(entry, map, done)),
  };
}

function byName(a: DeviceEntry, b: DeviceEntry): number {
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}

function damaged(file: string, why: string): ImgtxError {
  return new ImgtxError("E_CORRUPT", `the device table can't be trusted: ${why}`, {
    image: file,
    hint: `\`imgtx init --restore ${shellQuote(posix.dirname(posix.dirname(file)))}\` puts back the generation before it`,
  });
}

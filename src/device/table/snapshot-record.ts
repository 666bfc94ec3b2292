// A snapshot as it is kept: a moment of one or several devices, and for each of them the sealed image, the layer that was
// active until then, with what it stands on.
//
// Invariants, checked on encode and decode
// - A record is written before the table that counts it, under a name that no other record had, and is not changed.
// - A chain goes on where it says `below`: in the same device's sealed image of an earlier snapshot. So a record takes as
//   much as its moment added, and a chain of 100 is not written out 100 times; and no chain leads back to itself.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import { isCount, isFlag, isText, listOf, objectOf, orAbsent, orNull } from "./data-shape.ts";
import {
  type ChainEntry,
  type DeviceEntry,
  filesOfEntry,
  mapImagePaths,
  type SeenFile,
} from "./device-entry.ts";
import { isChain } from "./entry-shape.ts";
import { type FileBeside, isFileBeside } from "./files-beside.ts";
import { openSealed, sealJson } from "./sealed-json.ts";
import { fromStoredPath, toStoredPath } from "./stored-path.ts";

/** One device in a snapshot. */
export interface SealedDevice {
  readonly device: string;
  readonly virtualSizeBytes: number;
  /** The sealed image first. At least that one. */
  readonly chain: readonly ChainEntry[];
  /** The snapshot whose sealed image of this device comes next; null: the chain ends here. */
  readonly below: number | null;
  /** What the device trusted: see DeviceEntry. */
  readonly trusted?: readonly string[] | undefined;
  /** Whether imgtx made the sealed image, as an overlay. Left out: it is somebody's own. */
  readonly isMade?: boolean | undefined;
}

export interface Snapshot {
  readonly number: number;
  readonly name: string | null;
  readonly message: string | null;
  /** ISO 8601, UTC. */
  readonly created: string;
  readonly devices: readonly SealedDevice[];
  /** Small files of the machine, kept beside. Left out: none. */
  readonly files?: readonly FileBeside[] | undefined;
}

/** A snapshot in the table: what is needed to find it. */
export interface SnapshotRef {
  readonly number: number;
  readonly name: string | null;
  /** The generation that its record was written for. */
  readonly record: number;
  /** Devices of its record that it keeps no state of any more. Absent: none. */
  readonly without?: readonly string[] | undefined;
  /** Records of devices whose images have changed their places since: those count, and not the first. Absent: none. */
  readonly later?: readonly LaterRecord[] | undefined;
  /** What it keeps, where no record has that yet. */
  readonly unwritten?: Snapshot | undefined;
}

interface LaterRecord extends Pick<SnapshotRef, "record" | "unwritten"> {
  readonly devices: readonly string[];
}

const KIND = "imgtx snapshot";
const VERSION = 1;
const MAX_NAME_LENGTH = 128;
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.+:@() -]*$/;

/** E_USAGE for a name that would be taken for a number, whose end nobody sees, or that a command line would have to quote oddly. */
export function assertSnapshotName(name: string): void {
  if (isSnapshotName(name) && !/^\d+$| $/.test(name)) return;
  throw new ImgtxError("E_USAGE", `'${name}' can't be the name of a snapshot`, {
    hint: `use 1 to ${MAX_NAME_LENGTH} of the characters A-Z a-z 0-9 _ . + : @ ( ) - and space, beginning with a letter, digit or _, and not ending with a space; numbers are given by imgtx`,
  });
}

function isSnapshotName(name: string): boolean {
  return NAME.test(name) && name.length <= MAX_NAME_LENGTH;
}

export const isSnapshotRef = objectOf<Omit<SnapshotRef, "unwritten">>({
  number: isCount,
  name: orNull(isText),
  record: isCount,
  without: orAbsent(listOf(isText)),
  later: orAbsent(
    listOf(objectOf<Omit<LaterRecord, "unwritten">>({ record: isCount, devices: listOf(isText) })),
  ),
});

/** As a table stores it. */
export function withoutUnwritten({ unwritten: _first, later, ...ref }: SnapshotRef): SnapshotRef {
  return { ...ref, ...(later && { later: later.map(({ unwritten: _later, ...one }) => one) }) };
}

export const isSnapshot = objectOf<Snapshot>({
  number: isCount,
  name: orNull(isText),
  message: orNull(isText),
  created: isText,
  devices: listOf(
    objectOf<SealedDevice>({
      device: isText,
      virtualSizeBytes: isCount,
      chain: isChain,
      below: orNull(isCount),
      trusted: orAbsent(listOf(isText)),
      isMade: orAbsent(isFlag),
    }),
  ),
  files: orAbsent(listOf(isFileBeside)),
});

/** Its images and their data files, but for what earlier snapshots keep below them. */
export function filesOfSnapshot({ devices }: Pick<Snapshot, "devices">): readonly SeenFile[] {
  return devices.flatMap(({ chain }) => chain.flatMap(filesOfEntry));
}

/** What a device is sealed as: its chain down to the first image that an earlier snapshot of it has sealed. */
export function sealDevice({
  name,
  image,
  virtualSizeBytes,
  chain,
  trusted,
  made,
}: DeviceEntry): SealedDevice {
  const end = chain.findIndex(({ sealedBy }, depth) => depth > 0 && sealedBy !== undefined);
  return {
    device: name,
    virtualSizeBytes,
    chain: (end === -1 ? chain : chain.slice(0, end)).map(({ sealedBy: _other, ...entry }, depth) =>
      // Nothing stands on it in this snapshot.
      depth === 0 ? { ...entry, name: null } : entry,
    ),
    below: chain[end]?.sealedBy ?? null,
    ...(trusted && { trusted }),
    ...(made === image && { isMade: true }),
  };
}

export function encodeSnapshot(root: string, snapshot: Snapshot): Uint8Array {
  const problem = findDisorder(snapshot);
  if (problem !== undefined) throw new Error(`a snapshot is not to be written: ${problem}`);
  const stored = mapSnapshotPaths(snapshot, (path) => toStoredPath(root, path));
  return sealJson("snapshot", JSON.stringify({ kind: KIND, version: VERSION, ...stored }));
}

/** The inverse. E_CORRUPT where checksum, shape or number do not hold. */
export function decodeSnapshot(root: string, bytes: Uint8Array, file: string, number: number): Snapshot {
  const parsed = openSealed("snapshot", "the record of a snapshot", bytes);
  if (typeof parsed === "string") throw damaged(file, number, parsed);
  const { kind, version, ...stored } = parsed;
  if (kind !== KIND) throw damaged(file, number, "it holds something else");
  if (version !== VERSION) {
    throw new ImgtxError("E_UNSUPPORTED", `the record of snapshot ${number} has version ${String(version)}`, {
      image: file,
      hint: "use the imgtx that wrote it, or a newer one",
    });
  }
  if (!isSnapshot(stored)) throw damaged(file, number, "a field of it is missing or of another kind");
  const problem = stored.number === number ? findDisorder(stored) : "it is another snapshot's";
  if (problem !== undefined) throw damaged(file, number, problem);
  return mapSnapshotPaths(stored, (path) => fromStoredPath(root, path));
}

function findDisorder({ number, name, devices }: Snapshot): string | undefined {
  if (name !== null && !isSnapshotName(name)) return "it has a name that imgtx does not give";
  const names = devices.map(({ device }) => device);
  if (new Set(names).size < names.length) return "a device stands in it twice";
  const odd = devices.find(({ chain, below }) => chain.length === 0 || (below !== null && below >= number));
  return odd && `the chain of '${odd.device}' leads nowhere`;
}

export function mapSnapshotPaths(snapshot: Snapshot, map: (path: string) => string): Snapshot {
  return {
    ...snapshot,
    devices: snapshot.devices.map((one) => ({
      ...one,
      ...(one.trusted && { trusted: one.trusted.map(map) }),
      chain: one.chain.map((entry) => mapImagePaths(entry, map)),
    })),
  };
}

/** Without the record. */
export function howToGoOn(file: string, number: number): string {
  return (
    `put \`${posix.basename(file)}\` back from a copy; no image of it is lost with the record, and ` +
    `\`imgtx snapshot-delete ${number} --keep-images\` takes the snapshot away`
  );
}

function damaged(file: string, number: number, why: string): ImgtxError {
  return new ImgtxError("E_CORRUPT", `snapshot ${number} can't be read: ${why}`, {
    image: file,
    hint: howToGoOn(file, number),
  });
}

// The device table: which devices there are, and which image is the active layer of each.
//
// Invariants, checked on encode and decode
// - Devices are sorted by name, and no name stands twice.
// - A chain has its active layer first, and its first image is the device's image.
// - The checksum covers every byte of the table; a table that does not match it is refused.

import { createHash } from "node:crypto";
import { ImgtxError } from "../errors/index.ts";
import type { Fingerprint, ImageFormat } from "../format/index.ts";
import { fromStoredPath, toStoredPath } from "./stored-path.ts";

/** One image of a chain, as it was when the generation was made. */
export interface ChainEntry {
  readonly image: string;
  readonly format: ImageFormat;
  /** The backing file name that the overlay above stores for this image; null for the active layer. */
  readonly name: string | null;
  readonly fingerprint: Fingerprint;
}

export interface DeviceEntry {
  readonly name: string;
  readonly image: string;
  readonly format: ImageFormat;
  /** As it was when the generation was made. */
  readonly virtualSizeBytes: number;
  readonly chain: readonly ChainEntry[];
}

export interface DeviceTable {
  readonly generation: number;
  /** ISO 8601, UTC. */
  readonly committed: string;
  /** The transaction that made this generation; null for the first. */
  readonly transaction: string | null;
  /** What made it, for `history`. */
  readonly summary: string;
  /** Folders trusted for raw backing images and data files. */
  readonly allowPaths: readonly string[];
  readonly devices: readonly DeviceEntry[];
}

const KIND = "imgtx device table";
const VERSION = 1;

export const MAX_DEVICE_NAME_LENGTH = 64;
const DEVICE_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.+-]*$/;

export function assertDeviceName(name: string): void {
  if (DEVICE_NAME.test(name) && name.length <= MAX_DEVICE_NAME_LENGTH) return;
  throw new ImgtxError("E_USAGE", `'${name}' can't be the name of a device`, {
    hint: `use 1 to ${MAX_DEVICE_NAME_LENGTH} of the characters A-Z a-z 0-9 _ . + -, beginning with a letter, digit or _`,
  });
}

export function findDevice(table: DeviceTable, name: string): DeviceEntry | undefined {
  return table.devices.find((device) => device.name === name);
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
        ? "add one with 'imgtx device add NAME FILE'"
        : `the devices are ${names.slice(0, 8).join(", ")}${names.length > 8 ? " …" : ""}`,
  });
}

/** The table with some devices set, or removed where the entry is null. */
export function withDevices(
  table: DeviceTable,
  changes: readonly { readonly device: string; readonly after: DeviceEntry | null }[],
): DeviceTable {
  const entries = new Map(table.devices.map((device) => [device.name, device]));
  for (const { device, after } of changes) {
    if (after) entries.set(device, after);
    else entries.delete(device);
  }
  return { ...table, devices: [...entries.values()].sort(byName) };
}

export function firstTable(committed: string): DeviceTable {
  return { generation: 0, committed, transaction: null, summary: "init", allowPaths: [], devices: [] };
}

/** One JSON object with its checksum, ready to be written. Paths become relative to root inside it. */
export function encodeTable(root: string, table: DeviceTable): Uint8Array {
  const stored = mapPaths(table, (path) => toStoredPath(root, path));
  const content = JSON.stringify({ kind: KIND, version: VERSION, ...stored });
  const checksum = createHash("sha256").update(content).digest("hex");
  return new TextEncoder().encode(`{"sha256":"${checksum}","table":${content}}\n`);
}

/** The inverse of encodeTable. E_CORRUPT where the checksum or the shape does not hold. */
export function decodeTable(root: string, bytes: Uint8Array, file: string): DeviceTable {
  const text = new TextDecoder().decode(bytes);
  const match = /^\{"sha256":"([0-9a-f]{64})","table":(.*)\}\n$/s.exec(text);
  if (!match) throw damaged(file, "it is not a device table");
  const [, checksum = "", content = ""] = match;
  if (createHash("sha256").update(content).digest("hex") !== checksum) {
    throw damaged(file, "its checksum does not match");
  }
  const { kind, version, ...stored } = JSON.parse(content) as DeviceTable & { kind: string; version: number };
  if (kind !== KIND) throw damaged(file, `it holds '${kind}'`);
  if (version !== VERSION) {
    throw new ImgtxError(
      "E_UNSUPPORTED",
      `the device table has version ${version}; this imgtx reads ${VERSION}`,
      {
        image: file,
        hint: "use the imgtx that wrote it, or a newer one",
      },
    );
  }
  return mapPaths(stored, (path) => fromStoredPath(root, path));
}

export function mapEntryPaths(entry: DeviceEntry, map: (path: string) => string): DeviceEntry {
  return {
    ...entry,
    image: map(entry.image),
    chain: entry.chain.map((element) => ({ ...element, image: map(element.image) })),
  };
}

function mapPaths(table: DeviceTable, map: (path: string) => string): DeviceTable {
  return {
    ...table,
    allowPaths: table.allowPaths.map(map),
    devices: table.devices.map((entry) => mapEntryPaths(entry, map)),
  };
}

function byName(a: DeviceEntry, b: DeviceEntry): number {
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}

function damaged(file: string, why: string): ImgtxError {
  return new ImgtxError("E_CORRUPT", `the device table can't be trusted: ${why}`, {
    image: file,
    hint: "put back a copy of the file; the generations before it are in .imgtx/history",
  });
}

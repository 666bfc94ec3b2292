// Which links the `devices` folder has, as data.
//
// QEMU resolves a relative backing file name beside the name that it was given, without following links
// (facts of its block layer: path_combine). So beside the link vda the view has a link for each relative
// name that the chain would look up there, with real folders in between. Names that climb (`../base.img`)
// work because the view lies as many folders deep as the deepest climb.
//
// Invariants
// - Derived from the table alone.
// - A name that two chains need for different files would give one of the guests a wrong disk: then the
//   later device is left out of the view, and the caller is told.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import { isProtocolName, shellQuote } from "../../format/index.ts";
import type { DeviceEntry } from "../table/device-entry.ts";
import type { DeviceTable } from "../table/device-table.ts";

export interface View {
  /** The folder that `devices` shows, in the folder of names: empty, or one part per climb. */
  readonly below: string;
  /** Device name to its image. */
  readonly devices: ReadonlyMap<string, string>;
  /** Path of each link for a backing name, relative to the folder of names, with the absolute path that it leads to. */
  readonly names: ReadonlyMap<string, string>;
  /** Folders that lookups go through, in the same form. */
  readonly folders: ReadonlySet<string>;
  readonly omitted: readonly Omitted[];
}

/** A device that can't be shown. */
interface Omitted {
  readonly device: string;
  /** A clause. */
  readonly why: string;
  /** The relative name that stands in the way, and who stores it; null: the device's own name does. */
  readonly name: { readonly overlay: string; readonly image: string; readonly format: string } | null;
}

/** Images choose their backing names: one that climbs on and on must not make paths too long to be made. */
const MOST_CLIMBS = 64;

/** Names the folders that climbs go up through; unlikely as the name of an image. */
const CLIMB = "up";

/** More than the names of 500 devices on chains of 100 images: `bench -- scale` has what so many cost. */
const NAMES_MAX = 65_536;

/** Tables and entries are never changed once they are made. */
const planned = new WeakMap<DeviceTable, View>();
const lookedUp = new WeakMap<DeviceEntry, readonly Lookup[]>();

export function planView(table: DeviceTable): View {
  const known = planned.get(table);
  if (known) return known;
  const view = planAnew(table);
  planned.set(table, view);
  return view;
}

function planAnew({ devices: entries }: DeviceTable): View {
  const lookups = entries.map((entry) => lookupsOf(entry));
  const climbs = Math.max(0, ...lookups.map(highestClimb).filter(isClimbable));
  const climbed: string[] = [];
  for (let depth = 0; depth < climbs; depth += 1) climbed.push(CLIMB.concat(`/${CLIMB}`.repeat(depth)));
  const below = climbed.at(-1) ?? "";
  const shelf: Shelf = {
    below,
    own: new Set(entries.map(({ name }) => posix.join(below, name))),
    names: new Map(),
    folders: new Set(climbed),
  };
  const devices = new Map<string, string>();
  const omitted: Omitted[] = [];
  for (const [index, { name: device, image }] of entries.entries()) {
    const wanted = lookups[index] ?? [];
    if (!isClimbable(highestClimb(wanted))) {
      omitted.push({
        device,
        why: `a backing file name of its chain climbs more than ${MOST_CLIMBS} folders`,
        name: wanted.find(({ climbs: own }) => !isClimbable(own))?.stored ?? null,
      });
      continue;
    }
    const clash = placeOn(shelf, wanted);
    if (clash) {
      const why = `'${clash.at}' would lead to another device's image there`;
      omitted.push({ device, why, name: clash.stored });
      continue;
    }
    devices.set(device, image);
  }
  return { below, devices, names: shelf.names, folders: shelf.folders, omitted };
}

/** A folder of names as it is being planned. */
interface Shelf {
  readonly below: string;
  /** The links of all devices. */
  readonly own: ReadonlySet<string>;
  readonly names: Map<string, string>;
  readonly folders: Set<string>;
}

/** Puts a device's names there. The one that is in the way of another: then none is put. */
function placeOn(shelf: Shelf, lookups: readonly Lookup[]): Lookup | undefined {
  const { below, own, names, folders } = shelf;
  const added = new Map<string, string>();
  const addedFolders = new Set<string>();
  for (const lookup of lookups) {
    const { image } = lookup;
    const link = below === "" ? lookup.path : posix.join(below, lookup.path);
    if ((added.get(link) ?? names.get(link) ?? image) !== image) return lookup;
    if (folders.has(link) || addedFolders.has(link) || own.has(link)) return lookup;
    added.set(link, image);
    if (below === "" && lookup.isPlain) continue;
    const through = foldersThrough(posix.join(below, "x"), lookup.at);
    if (through.some((folder) => names.has(folder) || added.has(folder) || own.has(folder))) return lookup;
    for (const folder of through) addedFolders.add(folder);
  }
  for (const [link, image] of added) names.set(link, image);
  for (const folder of addedFolders) folders.add(folder);
  return undefined;
}

/** The names that a table's view has, and those that overlays are about to add, one device after the other. */
export class RoomForNames {
  readonly #table: DeviceTable;
  /** By name, of devices that are to be shown otherwise. */
  readonly #taken = new Map<string, DeviceEntry>();
  #view: View | undefined;
  #shelf: Shelf | undefined;

  constructor(table: DeviceTable) {
    this.#table = table;
  }

  /** Whether the device can be shown like this, with no other in the way and not too many names in all; it counts from then on. */
  takes(entry: DeviceEntry): boolean {
    const view = (this.#view ??= planView(this.#table));
    const shelf = (this.#shelf ??= this.#shelfOf(view));
    const lookups = lookupsOf(entry);
    if (posix.join(shelf.below, "../".repeat(highestClimb(lookups))).startsWith("..")) {
      // All names go some folders deeper.
      const deeper = planView(this.#tableWith(entry));
      if (deeper.omitted.length > view.omitted.length || deeper.names.size > NAMES_MAX) return false;
      [this.#view, this.#shelf] = [deeper, undefined];
    } else if (shelf.names.size >= NAMES_MAX || placeOn(shelf, lookups)) {
      return false;
    }
    this.#taken.set(entry.name, entry);
    return true;
  }

  #tableWith(entry: DeviceEntry): DeviceTable {
    const taken = new Map([...this.#taken, [entry.name, entry] as const]);
    return { ...this.#table, devices: this.#table.devices.map((one) => taken.get(one.name) ?? one) };
  }

  #shelfOf({ below, names, folders }: View): Shelf {
    const own = new Set(this.#table.devices.map(({ name }) => posix.join(below, name)));
    return { below, own, names: new Map(names), folders: new Set(folders) };
  }
}

/** E_REFUSED where a device of the next table would not be shown, and no such device is in the present one. */
export function assertShown(present: DeviceTable, next: DeviceTable): void {
  const before = new Set(planView(present).omitted.map(({ device }) => device));
  const hidden = planView(next).omitted.find(({ device }) => !before.has(device));
  if (!hidden) return;
  const { device, why, name } = hidden;
  const isThere = present.devices.some(({ chain }) => chain.some(({ image }) => image === name?.overlay));
  throw new ImgtxError("E_REFUSED", `devices/${device} could not be shown: ${why}`, {
    device,
    ...(name && { image: name.overlay, field: "backing_file_name" }),
    hint: `QEMU looks a relative backing file name up in 'devices': ${wayAround(name, isThere)}, or keep the devices in two workspaces`,
  });
}

function wayAround(name: Omitted["name"], isThere: boolean): string {
  if (!name) return "take another name for the device";
  const { overlay, image, format } = name;
  const rebase = `qemu-img rebase -u -F ${format} -b ${shellQuote(image)} ${shellQuote(overlay)}`;
  const absolute = `make it absolute while no guest runs, \`${rebase}\``;
  return isThere ? absolute : `leave --relative out for a new overlay, or ${absolute}`;
}

interface Lookup {
  /** The path that QEMU composes, relative to `devices`, not normalised. */
  readonly at: string;
  /** The same, normalised. */
  readonly path: string;
  /** No folder in it. */
  readonly isPlain: boolean;
  readonly climbs: number;
  readonly image: string;
  /** Where the name is stored. */
  readonly stored: Omitted["name"];
}

/** Of the backing names of a device. */
function lookupsOf(device: DeviceEntry): readonly Lookup[] {
  const known = lookedUp.get(device);
  if (known) return known;
  const lookups: Lookup[] = [];
  let folder = "";
  for (const [index, { name, image, format }] of device.chain.slice(1).entries()) {
    // After an absolute name, or file:NAME, QEMU is out of the view for good.
    if (name === null || posix.isAbsolute(name) || isProtocolName(name)) break;
    const at = folder + name;
    const isPlain = !at.includes("/") && at !== "." && at !== "..";
    lookups.push({
      at,
      path: isPlain ? at : posix.normalize(at),
      isPlain,
      climbs: isPlain ? 0 : countClimbs(at),
      image,
      stored: { overlay: device.chain[index]?.image ?? "", image, format },
    });
    folder = at.slice(0, at.lastIndexOf("/") + 1);
  }
  lookedUp.set(device, lookups);
  return lookups;
}

function highestClimb(lookups: readonly Lookup[]): number {
  return Math.max(0, ...lookups.map(({ climbs }) => climbs));
}

function isClimbable(climbs: number): boolean {
  return climbs <= MOST_CLIMBS;
}

/** How many folders above `devices` the path goes at its highest. */
function countClimbs(path: string): number {
  let depth = 0;
  let lowest = 0;
  for (const part of path.split("/")) {
    if (part === "..") depth -= 1;
    else if (part !== "." && part !== "") depth += 1;
    lowest = Math.min(lowest, depth);
  }
  return -lowest;
}

/** Every folder that the kernel goes through to look up the path: `a/../b.img` needs a folder `a`. */
function foldersThrough(device: string, path: string): string[] {
  const parts = posix
    .dirname(device)
    .split("/")
    .filter((part) => part !== ".");
  const folders: string[] = [];
  for (const part of path.split("/").slice(0, -1)) {
    if (part === "..") parts.pop();
    else if (part !== "." && part !== "") parts.push(part);
    if (parts.length > 0) folders.push(parts.join("/"));
  }
  return folders;
}

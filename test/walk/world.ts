// The model of a walk: what each device's guest has to find, whatever happens; and how it is looked at.
//
// Content is held in cells of 64 KiB, each filled with one byte; a disk has as many as its size says. The model does
// not predict which image a device is on: that is observed. It predicts what the device holds, given where it is, and
// what each of its internal snapshots does.

import { existsSync, readdirSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { isFilledWith } from "../helpers/filled.ts";
import {
  type Guest,
  type ImageBytes,
  openGuest,
  openHostImage,
  type OpenImage,
  openSnapshots,
  readHeader,
} from "../helpers/guest-content.ts";
import type { Sealed, SealedImage } from "./sealed.ts";
import { type Ended, type Place, complaintOf, runImgtx } from "./tools.ts";

export const CELL_BYTES = 64 * 1024;
/** Of a new disk. */
export const CELLS = 48;

export type Content = Uint8Array;

export interface Device {
  readonly image: string;
  readonly format: string;
  readonly content: Content;
  readonly frozen: boolean;
  readonly mirror: { readonly image: string; readonly format: string; readonly sync: string } | undefined;
  /** Its images, from the active layer down. */
  readonly chain: readonly Layer[];
}

/** What a device stays by whatever it is called: it is `vda`, or `vda_7` after a rename. */
export const slotOf = (name: string): string => name.split("_")[0] ?? name;

export interface Layer {
  readonly image: string;
  readonly format: string;
}

export interface World {
  readonly generation: number;
  readonly devices: ReadonlyMap<string, Device>;
  /** What each image held, through its chain, when a device left it last. */
  readonly left: ReadonlyMap<string, Content>;
  /** What each internal snapshot holds, by its image and its name. */
  readonly kept: ReadonlyMap<string, ReadonlyMap<string, Content>>;
  /** Images that snapshots of the workspace keep, as listed last, and what each of those holds: see sealed.ts. */
  readonly listed: readonly SealedImage[];
  readonly sealed: Sealed;
}

export const NO_WORLD: World = {
  generation: 0,
  devices: new Map(),
  left: new Map(),
  kept: new Map(),
  listed: [],
  sealed: new Map(),
};

/** What a list of devices says of one. */
export interface Listed {
  readonly name: string;
  readonly image: string;
  readonly format: string;
  readonly frozen: boolean;
  readonly mirror: Device["mirror"] | null;
  readonly chain: readonly Layer[];
}

export interface Listing {
  readonly generation: number;
  readonly devices: readonly Listed[];
}

/** A promise that was broken. */
export class Fault extends Error {
  override readonly name = "Fault";
}

export async function listDevices(place: Place): Promise<Listing> {
  const ended = await runImgtx(place, ["device", "list", "--json"]);
  if (ended.status !== 0) throw new Fault(`device list ended with ${sayEnd(ended)}`);
  return JSON.parse(ended.stdout) as Listing;
}

export function sayEnd({ status, stderr }: Ended): string {
  return `${status ?? "a signal"}: ${stderr.trim()}`;
}

/** The world with its devices by the names that they are listed with: which those are is observed. */
export function byNamesOf({ devices }: Listing, world: World): World {
  const named = [...world.devices].map(([name, device]) => {
    const now = devices.find((one) => slotOf(one.name) === slotOf(name));
    return [now?.name ?? name, device] as const;
  });
  return { ...world, devices: new Map(named) };
}

/** What a guest of the image finds, cell by cell. A cell of several bytes is a mixture, which no guest has written. */
export function readContent(image: string, format: string, open: OpenImage = openHostImage): Content {
  return cellsOf(openGuest(open, image, format), image);
}

/** Reads each file once, however many images stand on it: for one look, in which nothing changes. */
export function openOnce(): OpenImage {
  const opened = new Map<string, ImageBytes>();
  return (path) => {
    const bytes = opened.get(path) ?? openHostImage(path);
    opened.set(path, bytes);
    return bytes;
  };
}

/** The names of its internal snapshots. */
export function listSnapshots({ image, format }: Layer): string[] {
  return format === "qcow2" ? [...openSnapshots(openOnce(), image).keys()] : [];
}

/** What a guest finds in each of them. */
function readSnapshots({ image, format }: Layer, open: OpenImage): Map<string, Content> {
  const guests = format === "qcow2" ? [...openSnapshots(open, image)] : [];
  return new Map(guests.map(([name, guest]) => [name, cellsOf(guest, `${image}, snapshot ${name}`)]));
}

function cellsOf(guest: Guest, what: string): Content {
  if (guest.sizeBytes % CELL_BYTES !== 0) throw new Fault(`${what}: a disk of ${guest.sizeBytes} bytes`);
  const content = new Uint8Array(guest.sizeBytes / CELL_BYTES);
  for (let cell = 0; cell < content.length; cell += 1) {
    const bytes = guest.read(cell * CELL_BYTES, CELL_BYTES);
    const [first = 0] = bytes;
    if (!isFilledWith(first, bytes)) throw new Fault(`${what}: cell ${cell} is a mixture`);
    content[cell] = first;
  }
  return content;
}

export function isSame(a: Content, b: Content): boolean {
  return Buffer.compare(a, b) === 0;
}

function describeDifference(wanted: Content, found: Content): string {
  if (wanted.length !== found.length) return `${wanted.length} cells wanted, ${found.length} found`;
  const cells = [...wanted.keys()].filter((cell) => wanted[cell] !== found[cell]);
  return cells.map((cell) => `cell ${cell}: ${wanted[cell]} wanted, ${found[cell]} found`).join("; ");
}

/** The world as it is listed, with the content that the model has for each device. */
export function worldFrom(
  listing: Listing,
  contentOf: (device: Listed) => Content,
  before: World | undefined,
): World {
  const left = new Map(before?.left);
  const devices = new Map<string, Device>();
  for (const device of listing.devices) {
    const was = before?.devices.get(device.name);
    if (was && was.image !== device.image) {
      // With what lies in between, of two snapshots at once: it was left with the same content.
      const depth = device.chain.findIndex(({ image }) => image === was.image);
      for (const { image } of device.chain.slice(1, Math.max(1, depth))) left.set(image, was.content);
      left.set(was.image, was.content);
    }
    devices.set(device.name, {
      image: device.image,
      format: device.format,
      content: contentOf(device),
      frozen: device.frozen,
      mirror: device.mirror ?? undefined,
      chain: device.chain,
    });
  }
  const { kept, listed, sealed } = before ?? NO_WORLD;
  return { generation: listing.generation, devices, left, kept, listed, sealed };
}

/** Every device has what the model says, by a reader that shares nothing with imgtx; and QEMU finds its chain sound. */
export function assertContent(world: World, asksQemu: boolean): void {
  const open = openOnce();
  for (const [name, { image, format, content, chain }] of world.devices) {
    const found = readContent(image, format, open);
    if (!isSame(content, found)) {
      throw new Fault(`${name} on ${image}: ${describeDifference(content, found)}`);
    }
    for (const layer of chain) assertSnapshots(world, layer, open);
    // QEMU opens nothing that stands on a fence.
    const fenced = chain.findLastIndex((one) => one.format === "qcow2" && isFenced(one.image, open));
    for (const one of asksQemu ? chain.slice(fenced + 1) : []) {
      if (isDirty(one, open)) continue;
      const complaint = complaintOf(one.image, one.format);
      if (complaint !== undefined) throw new Fault(complaint);
    }
  }
}

function assertSnapshots({ kept }: World, layer: Layer, open: OpenImage): void {
  const wanted = kept.get(layer.image) ?? new Map<string, Content>();
  const found = readSnapshots(layer, open);
  const names = (snapshots: ReadonlyMap<string, Content>) => [...snapshots.keys()].sort().join(" ");
  if (names(wanted) !== names(found)) {
    throw new Fault(`${layer.image} has the snapshots '${names(found)}', and not '${names(wanted)}'`);
  }
  for (const [name, content] of wanted) {
    const held = found.get(name) ?? new Uint8Array(0);
    if (!isSame(content, held)) {
      throw new Fault(`${layer.image}, snapshot ${name}: ${describeDifference(content, held)}`);
    }
  }
}

/** Its counts are behind, as they may be after a guest has died. */
function isDirty({ image, format }: Layer, open: OpenImage): boolean {
  return format === "qcow2" && (readHeader(open(image), image).incompatible & 1n) !== 0n;
}

export function isFenced(image: string, open: OpenImage = openHostImage): boolean {
  return readHeader(open(image), image).isFenced;
}

/** `devices/NAME` leads to the active layer of each device. */
export function assertView(place: Place, world: World): void {
  for (const [name, { image }] of world.devices) {
    const leads = realpathSync(join(place.cwd, "devices", name));
    if (leads !== realpathSync(image)) throw new Fault(`devices/${name} leads to ${leads}, not to ${image}`);
  }
}

/** The device's own link. After a crash amid a rename it may have the other name already. */
export function viewOf({ cwd }: Place, slot: string): string | undefined {
  const folder = join(cwd, "devices");
  const name = existsSync(folder) && readdirSync(folder).find((one) => slotOf(one) === slot);
  return typeof name === "string" && existsSync(join(folder, name)) ? join(folder, name) : undefined;
}

/** Files that imgtx makes on its way, and that must not be there when nothing is under way. */
export function findLeftovers(folders: readonly string[]): string[] {
  return folders.flatMap((folder) =>
    readdirSync(folder)
      .filter((name) => name.startsWith(".imgtx-"))
      .map((name) => join(folder, name)),
  );
}

// The model of a walk: what each device's guest has to find, whatever happens; and how it is looked at.
//
// Content is held in cells of 64 KiB, each filled with one byte. The model does not predict which image a device is
// on: that is observed. It predicts what the device holds, given where it is.

import { readdirSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { openGuest, openHostImage, readHeader } from "../helpers/guest-content.ts";
import { type Ended, type Place, complaintOf, runImgtx } from "./tools.ts";

export const CELL_BYTES = 64 * 1024;
export const CELLS = 48;

export type Content = Uint8Array;

export interface Device {
  readonly image: string;
  readonly format: string;
  readonly content: Content;
  readonly frozen: boolean;
  readonly mirror: { readonly image: string; readonly format: string; readonly sync: string } | undefined;
}

export interface World {
  readonly generation: number;
  readonly devices: ReadonlyMap<string, Device>;
  /** What each image held, through its chain, when a device left it last. */
  readonly left: ReadonlyMap<string, Content>;
}

/** What a list of devices says of one. */
export interface Listed {
  readonly name: string;
  readonly image: string;
  readonly format: string;
  readonly frozen: boolean;
  readonly mirror: Device["mirror"] | null;
  readonly chain: readonly { readonly image: string; readonly format: string }[];
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

/** What a guest of the image finds, cell by cell. A cell of several bytes is a mixture, which no guest has written. */
export function readContent(image: string, format: string): Content {
  const guest = openGuest(openHostImage, image, format);
  const content = new Uint8Array(CELLS);
  for (let cell = 0; cell < CELLS; cell += 1) {
    const bytes = guest.read(cell * CELL_BYTES, CELL_BYTES);
    const [first = 0] = bytes;
    if (bytes.some((byte) => byte !== first)) throw new Fault(`${image}: cell ${cell} is a mixture`);
    content[cell] = first;
  }
  return content;
}

export function isSame(a: Content, b: Content): boolean {
  return Buffer.compare(a, b) === 0;
}

function describeDifference(wanted: Content, found: Content): string {
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
    });
  }
  return { generation: listing.generation, devices, left };
}

/** Every device has what the model says, by a reader that shares nothing with imgtx; and QEMU finds its chain sound. */
export function assertContent(world: World, asksQemu: boolean, listing?: Listing): void {
  for (const [name, { image, format, content }] of world.devices) {
    const found = readContent(image, format);
    if (!isSame(content, found)) {
      throw new Fault(`${name} on ${image}: ${describeDifference(content, found)}`);
    }
  }
  for (const { chain } of asksQemu ? (listing?.devices ?? []) : []) {
    // QEMU opens nothing that stands on a fence.
    const fenced = chain.findLastIndex(({ image, format }) => format === "qcow2" && isFenced(image));
    for (const one of chain.slice(fenced + 1)) {
      const complaint = complaintOf(one.image, one.format);
      if (complaint !== undefined) throw new Fault(complaint);
    }
  }
}

export function isFenced(image: string): boolean {
  return readHeader(openHostImage(image), image).isFenced;
}

/** `devices/NAME` leads to the active layer of each device. */
export function assertView(place: Place, world: World): void {
  for (const [name, { image }] of world.devices) {
    const leads = realpathSync(join(place.cwd, "devices", name));
    if (leads !== realpathSync(image)) throw new Fault(`devices/${name} leads to ${leads}, not to ${image}`);
  }
}

/** Files that imgtx makes on its way, and that must not be there when nothing is under way. */
export function findLeftovers(folders: readonly string[]): string[] {
  return folders.flatMap((folder) =>
    readdirSync(folder)
      .filter((name) => name.startsWith(".imgtx-"))
      .map((name) => join(folder, name)),
  );
}

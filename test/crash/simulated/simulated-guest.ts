// A guest that is started on a device while nobody of imgtx runs: it opens what the view leads to, as QEMU would, writes,
// flushes, and is stopped. What it finds is read by a reader that shares nothing with imgtx.

import { guestOffset } from "../../../src/units/index.ts";
import { posix } from "node:path";
import { openForWriting } from "../../../src/format/open/open-for-writing.ts";
import { type Guest, guestDigest, openGuest, readHeader, viewOf } from "../../helpers/guest-content.ts";
import { type Inode, LookupError, type Place } from "./disk-tree.ts";
import { describeGuest, imageIn } from "../judges/observation.ts";
import { readGuest, type SeenGuest } from "../judges/seen-images.ts";
import type { SimulatedMachine } from "./simulated-disk.ts";
import { startProcess } from "./simulated-process.ts";
import { BadState, type GuestPlace, type GuestWrite } from "../subject.ts";

const WRITE_BYTES = 4096;
const MAGIC = 0x514649fb;

/** Clusters of the samples' guests: most have data of their own in the first, and none has in the second. */
function offsetOf(place: GuestPlace, sizeBytes: number): number {
  if (typeof place === "number") return place;
  return { data: 3 * 4096, hole: 13 * 4096, end: sizeBytes - WRITE_BYTES }[place];
}

/** What it is shown is a link of a view, or its image. Undefined where it does not write: nothing is there, a fence keeps it out, or its disk has become too small. */
export async function startGuest(
  machine: SimulatedMachine,
  shown: string,
  name: string,
  place: GuestPlace,
): Promise<GuestWrite | undefined> {
  const guest = findGuest(machine, shown);
  if (!guest) return undefined;
  const { path, format, found } = guest;
  const offset = offsetOf(place, found.length);
  const bytes = new Uint8Array(WRITE_BYTES).map((_, index) => (index * 7 + 0xc3) & 0xff);
  if (found.length < offset + bytes.length) return undefined;
  const after = await writeAsGuest(machine, guest, { bytes, offset });
  return {
    device: name,
    image: path,
    files: filesOf(machine, path, format),
    offset,
    line: describeGuest(name, after),
    text: `a guest of ${name} writes to ${path} at ${offset}`,
  };
}

export interface FoundGuest {
  /** The image that it is on. */
  readonly path: string;
  readonly format: "qcow2" | "raw";
  /** Its whole disk. */
  readonly found: Uint8Array;
}

/** What a guest of this name finds. Undefined where nothing is there, or a fence keeps it out. */
export function findGuest(machine: SimulatedMachine, shown: string): FoundGuest | undefined {
  const { path, inode } = lookUpOrNothing(machine, shown) ?? {};
  if (path === undefined || (inode?.kind !== "file" && inode?.kind !== "device")) return undefined;
  const format = formatOf(inode);
  if (hasFence(machine, path, format)) return undefined;
  return { path, format, found: readAll(openGuest((file) => imageIn(machine.tree, file), path, format)) };
}

/** It writes and flushes. Returns what it finds then, which `found` is changed to as well. */
export async function writeAsGuest(
  machine: SimulatedMachine,
  { path, format, found }: FoundGuest,
  change: { readonly bytes: Uint8Array; readonly offset: number },
): Promise<SeenGuest> {
  found.set(change.bytes, change.offset);
  await write(machine, path, format, change);
  const after = readGuest({ open: (file) => imageIn(machine.tree, file) }, path, format);
  if (after.digest !== guestDigest(guestOf(found)))
    throw new BadState(`${path} does not hold what its guest wrote`);
  return after;
}

async function write(
  machine: SimulatedMachine,
  path: string,
  format: "qcow2" | "raw",
  { bytes, offset }: { bytes: Uint8Array; offset: number },
): Promise<void> {
  const process = startProcess(machine);
  // As QEMU, which asks nobody what may lead to which disk.
  const devices = [...machine.tree.entries()].flatMap(({ path: at, inode }) =>
    inode.kind === "device" ? [at] : [],
  );
  const image = await openForWriting(process, path, {
    format,
    // It is started where data files are looked for by the names that images have of them.
    gate: { allowPaths: ["/", ...devices], allowsDevices: true, currentFolder: posix.dirname(path) },
  });
  await image.write(bytes, guestOffset(offset));
  await image.flush("guest");
  await image.close();
}

function filesOf(machine: SimulatedMachine, path: string, format: string): string[] {
  const { dataFileName } = format === "qcow2" ? readHeader(imageIn(machine.tree, path), path) : {};
  return [path, ...(dataFileName === undefined ? [] : [posix.resolve(posix.dirname(path), dataFileName)])];
}

/** Whether QEMU would refuse it: it opens nothing that stands on a fence. */
function hasFence(machine: SimulatedMachine, path: string, format: string): boolean {
  if (format !== "qcow2") return false;
  const { isFenced, backingName, backingFormat } = readHeader(imageIn(machine.tree, path), path);
  if (isFenced || backingName === undefined) return isFenced;
  const below = posix.isAbsolute(backingName) ? backingName : posix.join(posix.dirname(path), backingName);
  return hasFence(machine, below, backingFormat ?? "qcow2");
}

function formatOf({ content }: Inode): "qcow2" | "raw" {
  return content.sizeBytes >= 4 && viewOf(content.slice(0, 4)).getUint32(0) === MAGIC ? "qcow2" : "raw";
}

function readAll(guest: Guest): Uint8Array {
  return Uint8Array.from(guest.read(0, guest.sizeBytes));
}

function guestOf(bytes: Uint8Array): Guest {
  return {
    sizeBytes: bytes.length,
    read: (offset, lengthBytes) => bytes.subarray(offset, offset + lengthBytes),
  };
}

function lookUpOrNothing(machine: SimulatedMachine, path: string): Place | undefined {
  try {
    return machine.tree.lookUp(path, true);
  } catch (error) {
    if (error instanceof LookupError) return undefined;
    throw error;
  }
}

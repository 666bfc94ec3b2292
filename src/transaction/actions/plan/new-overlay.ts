// A new overlay over a device's active layer, or a shell around it, as actions plan it; and its name where nobody gave it
// one: after the image and the snapshot, beside the image. What is written after the snapshot `mon` of disk.qcow2 goes to
// disk-after-mon.qcow2.
//
// Invariant: no file that is there, and none that the command makes besides, has such a name.

import { posix } from "node:path";
import {
  type ChainEntry,
  type DeviceEntry,
  isBelow,
  requireDevice,
  trustedBy,
  withTrusted,
} from "../../../device/index.ts";
import { ImgtxError, unlessItFails, withPlace } from "../../../errors/index.ts";
import {
  type Chain,
  type ChainLink,
  CHAIN_DEPTH_MAX,
  makeRelativeName,
  measureQcow2,
  type OverlayOptions,
  planImage,
  planOverlay,
  type Qcow2ImagePlan,
  shellQuote,
} from "../../../format/index.ts";
import { howToFlatten } from "../../notes/note-words.ts";
import type { Note } from "../../notes/notes.ts";
import { alignUp } from "../../../units/index.ts";
import type { FileStat } from "../../../storage/index.ts";
import type { FileToMake, PlanContext } from "./action.ts";
import { activeLayer, chainEntriesOf } from "./chain-entry.ts";
import { NOT_MADE_YET, type PlannedVolume } from "../../journal/index.ts";
import { assertQemuOpens } from "../../images/openable.ts";
import { assertNotCutOff } from "./lost-device.ts";
import { accessLike } from "../../images/access.ts";
import { isDeviceAt, judgeVolume } from "../../images/devices.ts";
import type { ImageChange } from "../../images/redo.ts";

export interface PlannedOverlay {
  readonly overlay: Qcow2ImagePlan;
  readonly toMake: FileToMake;
  /** The overlay's chain, as the table is to have it. */
  readonly chain: readonly ChainEntry[];
}

interface OverlayChoice {
  /** As it is stored; undefined: as `relative` says. */
  readonly backingName?: string;
  /** Whether the name is relative to the overlay's folder; undefined: where that is safe, so that a folder can be moved. */
  readonly relative: boolean | undefined;
  readonly options: OverlayOptions;
}

/** E_CORRUPT where nothing must be put on the active layer; E_REFUSED where the chain has no room for one more. */
export async function planNewOverlay(
  device: string,
  below: Chain,
  path: string,
  { relative, options, ...choice }: OverlayChoice,
  context: Pick<PlanContext, "storage" | "root" | "statFolder" | "table" | "room">,
): Promise<PlannedOverlay> {
  const top = activeLayer(below);
  if (top.header?.isCorrupt) {
    throw new ImgtxError("E_CORRUPT", "the active layer is marked corrupt", {
      device,
      image: top.path,
      hint: `\`imgtx repair ${device}\` repairs it, and takes the mark away`,
    });
  }
  assertRoomInChain(device, below);
  await assertQemuOpens(device, below);
  await assertNotCutOff(device, below, context.table);
  const backingName = choice.backingName ?? (await nameBacking(device, below, path, relative, context));
  const overlay = await planOverlay({
    backing: top,
    virtualSizeBytes: top.virtualSizeBytes,
    backingName,
    backingFormat: top.format,
    options,
  });
  return {
    overlay,
    toMake: { ...(await accessLike(top)), path, hasHeader: true },
    chain: chainOver(path, below, backingName),
  };
}

/** The stored name of an overlay's backing image. */
async function nameBacking(
  device: string,
  below: Chain,
  path: string,
  relative: boolean | undefined,
  { storage, root, statFolder, table, room }: Parameters<typeof planNewOverlay>[4],
): Promise<string> {
  const [top, folder] = [activeLayer(below), posix.dirname(path)];
  if (relative === false) return top.path;
  const shown = (name: string) => ({
    ...requireDevice(table, device),
    image: path,
    chain: chainOver(path, below, name),
  });
  if (relative === true) {
    const name = await makeRelativeName(storage, folder, top.path);
    room.takes(shown(name));
    return name;
  }
  const isNear = posix.dirname(top.path) === folder || [path, top.path].every((one) => isBelow(root, one));
  if (!isNear || (await statFolder(folder))?.fileSystem !== top.stat.fileSystem) return top.path;
  const name = await unlessItFails(() => makeRelativeName(storage, folder, top.path, top.stat));
  if (name === undefined) return top.path;
  // Where `devices` needs the same name for another device's image, an absolute one is in nobody's way.
  return room.takes(shown(name)) ? name : top.path;
}

/**
 * A qcow2 image whose data file is the raw disk that the device is on, which stays as it is: what the guest sees is the same
 * by either, and bitmaps have a place. E_REFUSED for another disk.
 */
export async function planShell(device: string, chain: Chain, path: string): Promise<PlannedOverlay> {
  const top = activeLayer(chain);
  const { format, path: image, stat, virtualSizeBytes } = top;
  if (format !== "raw") {
    throw new ImgtxError("E_REFUSED", "its image is qcow2, and has a place for bitmaps itself", {
      device,
      image,
    });
  }
  if (stat.sizeBytes !== virtualSizeBytes) {
    throw new ImgtxError("E_REFUSED", `it has ${stat.sizeBytes} bytes, which are no whole sectors`, {
      device,
      image,
      hint: `\`truncate -s ${String(virtualSizeBytes)} ${shellQuote(image)}\` makes them whole, and nothing else`,
    });
  }
  const options = { dataFileName: image, dataFileRaw: true, keepDataFile: true };
  const overlay = await planImage({ format: "qcow2", virtualSizeBytes, options });
  if (overlay.format !== "qcow2") throw new Error("a qcow2 image was planned");
  const [own] = chainEntriesOf(chain);
  if (!own) throw new Error("a chain has at least its active layer");
  const dataFile = { image, fingerprint: own.fingerprint };
  return {
    overlay,
    toMake: { ...(await accessLike(top)), path, hasHeader: true },
    chain: [{ image: path, format: "qcow2", name: null, fingerprint: NOT_MADE_YET, dataFile }],
  };
}

/** From here on every snapshot says how deep the chain is: a read may have to ask each image of it. */
export const DEEP_CHAIN = 30;

function assertRoomInChain(device: string, { links }: Chain): void {
  if (links.length < CHAIN_DEPTH_MAX) return;
  throw new ImgtxError(
    "E_REFUSED",
    `its chain has ${links.length} images already, and could not be opened with one more`,
    { device, image: links[0]?.path ?? "", hint: howToFlatten(device) },
  );
}

/** A warning where the chain gets deep by one more overlay. */
export function noteOnDepth(device: string, { links }: Chain): Note[] {
  const depth = links.length + 1;
  return depth <= DEEP_CHAIN ? [] : [{ code: "deep chain", device, depth }];
}

/** Where a planned overlay comes to be: in a file that is made, or on a block device, over what is there, by a redo log. */
export interface PlacedOverlay {
  readonly toMake: readonly FileToMake[];
  readonly redo: readonly ImageChange[];
  /** The block device as it is. */
  readonly volumes: readonly Chain[];
  readonly chain: readonly ChainEntry[];
  readonly notes: readonly Note[];
}

interface HowToPlace {
  readonly device: string;
  /** The chain that the device is on. */
  readonly below: Chain;
  readonly isOverwriting: boolean;
  /** Whether a block device is at its path; undefined: that is asked. */
  readonly isVolume?: boolean;
  readonly write: (file: Parameters<ImageChange["write"]>[0]) => Promise<void>;
}

/** E_REFUSED, or E_IN_USE, where what is on a block device must not be written over. */
export async function placeOverlay(
  { toMake, chain }: PlannedOverlay,
  { device, below, isOverwriting, isVolume, write }: HowToPlace,
  context: PlanContext,
): Promise<PlacedOverlay> {
  const { storage } = context;
  const { path } = toMake;
  if (!(isVolume ?? (await isDeviceAt(storage, path)))) {
    return { toMake: [toMake], redo: [], volumes: [], chain, notes: [] };
  }
  const { volume, link, notes } = await withPlace(
    { device },
    async () => await takeVolume(path, { below, device, isOverwriting }, context),
  );
  const [top, ...rest] = chain;
  if (!top) throw new Error("a chain has at least its active layer");
  return {
    toMake: [],
    redo: [{ link, makesImage: true, write }],
    volumes: [volume],
    chain: [{ ...top, fingerprint: link.fingerprint }, ...rest],
    notes,
  };
}

/** A block device that is to get a new image, as it is. E_REFUSED, or E_IN_USE, where what is on it must not be written over. */
export async function takeVolume(
  path: string,
  { device, ...how }: Pick<HowToPlace, "device" | "below" | "isOverwriting">,
  { storage, table, openChain }: Pick<PlanContext, "storage" | "table" | "openChain">,
): Promise<{ readonly volume: Chain; readonly link: ChainLink; readonly notes: readonly Note[] }> {
  const volume = await openChain(path, "raw", device, [], { mayBeHalfChanged: true });
  const link = activeLayer(volume);
  const found = await judgeVolume(storage, link, { ...how, table, device });
  // That it looks like another format is said by that.
  return { volume, link, notes: found === "empty" ? [] : [{ code: "volume overwritten", image: path }] };
}

/** The device on its new overlay. */
export function entryOn(entry: DeviceEntry, { overlay, toMake, chain }: PlannedOverlay): DeviceEntry {
  return {
    ...withTrusted(entry, trustedBy(entry)),
    image: toMake.path,
    made: toMake.path,
    format: "qcow2",
    virtualSizeBytes: overlay.virtualSizeBytes,
    chain,
  };
}

/** The chain of an overlay: its top was the device's own, and is a backing image with a stored name now. */
function chainOver(path: string, below: Chain, name: string): readonly ChainEntry[] {
  return [
    { image: path, format: "qcow2", name: null, fingerprint: NOT_MADE_YET, dataFile: null },
    ...chainEntriesOf(below).map((entry, index) => (index === 0 ? { ...entry, name } : entry)),
  ];
}

/** For what stands at a path where a file is to be made. `hint` says how such a file may be taken. */
export function targetExists(device: string, image: string, there: FileStat, hint: string): ImgtxError {
  if (there.kind === "folder") {
    return new ImgtxError("E_EXISTS", "the target is a folder", {
      device,
      image,
      hint: `name a file in it, such as '${image}/${device}.qcow2'`,
    });
  }
  return new ImgtxError("E_EXISTS", "the target exists already", {
    device,
    image,
    hint: `name a file that does not exist${hint}`,
  });
}

/** In bytes: names are ASCII but for what the image's own has. Room for a number and the extension stays. */
const LONGEST = 200;

/** Nothing there stays over a start of the host. In /dev/shm are files, as anywhere. */
const DEVICE_NODES = /^\/dev\/(?!shm\/)/;

const EXTENSION = /\.(?:qcow2?|raw|img|qed)$/i;

interface HowToName {
  /** What it is named after, a snapshot's name; null: the time. */
  readonly after: string | null;
  readonly taken: ReadonlySet<string>;
  /** How its file is named, where it can be named after nothing. */
  readonly hint: string;
}

/** A path in its image's folder where nothing is. A volume that is made has no ending. */
export async function nameOverlay(
  { name: device, image, provision }: Pick<DeviceEntry, "name" | "image" | "provision">,
  { after, taken, hint }: HowToName,
  { storage, madeHere }: Pick<PlanContext, "storage" | "madeHere">,
): Promise<string> {
  const folder = posix.dirname(image);
  if (DEVICE_NODES.test(image) && !provision) {
    throw new ImgtxError("E_REFUSED", "beside a device node there is no place for an overlay", {
      device,
      image,
      hint,
    });
  }
  const time = new Date(storage.host.now()).toISOString().replaceAll(/[-:]|\..*/g, "");
  const suffix = (after ?? time).replaceAll(/[^A-Za-z0-9_.+@-]+/g, "-");
  // An overlay of an overlay is named after the image that both began with.
  const stem = posix
    .basename(image)
    .replace(EXTENSION, "")
    .replace(/-after-.*$/, "");
  const start = `${cut(stem === "" ? device : stem, LONGEST - suffix.length)}-after-${suffix}`;
  for (let number = 1; ; number += 1) {
    const path = posix.join(
      folder,
      `${start}${number === 1 ? "" : `-${number}`}${provision ? "" : ".qcow2"}`,
    );
    if (taken.has(path) || madeHere.has(path) || (await storage.statLink(path))) continue;
    return path;
  }
}

/** `a.qcow2` as `a-2.qcow2`. */
export function withNumber(name: string, number: number): string {
  const stem = name.replace(EXTENSION, "");
  return `${cut(stem, LONGEST)}-${number}${name.slice(stem.length)}`;
}

function cut(text: string, mostBytes: number): string {
  let end = text;
  while (Buffer.byteLength(end) > mostBytes) end = end.replace(/.$/su, "");
  return end;
}

/** How large a volume is to be that is made for an overlay. */
export interface VolumeSize {
  /** Undefined: as an image of which all is written. */
  readonly volumeBytes: number | undefined;
  readonly hasBitmap: boolean;
}

/** The volume of that path, for an overlay over the chain, where a command makes such for the device and it is not there yet. */
export async function wantVolume(
  { name: device, provision: command }: Pick<DeviceEntry, "name" | "provision">,
  below: Chain,
  path: string,
  { volumeBytes, hasBitmap, ...choice }: OverlayChoice & VolumeSize,
  context: PlanContext,
): Promise<readonly PlannedVolume[]> {
  if (!command || (await context.storage.statLink(path))) return [];
  const { overlay } = await planNewOverlay(device, below, path, choice, context);
  return [{ device, path, sizeBytes: volumeBytes ?? (await measureVolume(overlay, hasBitmap)), command }];
}

/** On a volume that would be made for it: what a dry run can say of that. */
export async function onPromised(
  { overlay, toMake: { path: image }, chain }: PlannedOverlay,
  command: readonly string[],
  { volumeBytes, hasBitmap }: VolumeSize,
  { isRehearsal }: Pick<PlanContext, "isRehearsal">,
): Promise<PlacedOverlay> {
  if (!isRehearsal) throw new ImgtxError("E_NOT_FOUND", "the volume that was made for it is gone", { image });
  const sizeBytes = volumeBytes ?? (await measureVolume(overlay, hasBitmap));
  const words = command.map(shellQuote).join(" ");
  const notes: Note[] = [{ code: "volume to be made", image, sizeBytes, command: words }];
  return { toMake: [], redo: [], volumes: [], chain, notes };
}

/** What provisioners count in, mostly. */
const MIB = 2 ** 20;

/** One bit for each granule of 64 KiB, and clusters for its table and the directory. */
const BYTES_FOR_A_BIT = 8 * 64 * 1024;
const CLUSTERS_OF_A_BITMAP = 4;

/** How large a volume has to be for an overlay that may come to hold all of its disk. */
async function measureVolume(
  { virtualSizeBytes, choices }: Pick<Qcow2ImagePlan, "virtualSizeBytes" | "choices">,
  hasBitmap: boolean,
): Promise<number> {
  const { version, clusterBits, refcountOrder, extendedL2 } = choices;
  const clusterSizeBytes = 2 ** clusterBits;
  const { fullyAllocatedBytes } = await measureQcow2(
    { virtualSizeBytes },
    {
      clusterSizeBytes,
      refcountBits: 2 ** refcountOrder,
      extendedL2,
      compat: version === 3 ? "1.1" : "0.10",
    },
  );
  const bitmapBytes = hasBitmap
    ? alignUp(virtualSizeBytes / BYTES_FOR_A_BIT, clusterSizeBytes) + CLUSTERS_OF_A_BITMAP * clusterSizeBytes
    : 0;
  return alignUp(fullyAllocatedBytes + bitmapBytes, MIB);
}

/** E_UNSUPPORTED for any but qcow2: an overlay needs a backing file. */
export function assertOverlayFormat(device: string, format: string | undefined): void {
  if (format === undefined || format === "qcow2") return;
  throw new ImgtxError("E_UNSUPPORTED", `an overlay can't have the format '${format}'`, {
    device,
    hint: "an overlay needs a backing file, which imgtx writes as qcow2: leave the format out",
  });
}

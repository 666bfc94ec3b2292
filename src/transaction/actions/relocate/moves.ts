// Which images of devices go to another folder, and which stay: what others need stays, with all that it stands on.
//
// Invariants
// - What goes is a layer with all that stands on it: no image is left on one that is gone.
// - A name that is relative stays so, and leads to the same image: where that goes too, to its new place. So does the name in
//   an image that is in the folder already: it is changed in place, by the commit.

import { posix } from "node:path";
import { type DeviceEntry, filesOfEntry } from "../../../device/index.ts";
import { ImgtxError, withPlace } from "../../../errors/index.ts";
import {
  type ChainLink,
  encodeElsewhere,
  isProtocolName,
  judgeBacking,
  localFileOf,
  makeRelativeName,
  type NamesElsewhere,
  type StoredBacking,
} from "../../../format/index.ts";
import type { Note } from "../../notes/notes.ts";
import type { PlanContext } from "../plan/action.ts";
import { targetExists } from "../plan/new-overlay.ts";
import { type Layer, type Layers, readLayers, withOverlays } from "../way-back/layers.ts";
import { openThrough, type OpenLayers } from "../way-back/open-layers.ts";
import { findPlaces, type Places } from "./places.ts";

/** The layers of one of the devices, open as far as they go. */
export interface DeviceLayers {
  readonly entry: DeviceEntry;
  readonly layers: Layers;
  readonly open: OpenLayers;
}

/** A layer that goes. */
export interface Move {
  readonly layer: Layer;
  readonly link: ChainLink;
  readonly to: string;
  /** Where its data file goes. Undefined: it has none, or that is there already. */
  readonly dataFileTo: string | undefined;
  /** What the copy begins with instead, where names change. */
  readonly head: Uint8Array | undefined;
  /** By which the copy names what it stands on. */
  readonly nameOfBelow: string | undefined;
}

/** A layer that is in the folder already, and stands on one that goes there. */
export interface Relink {
  readonly layer: Layer;
  readonly link: ChainLink;
  /** By which it names that then. */
  readonly backing: StoredBacking;
}

export interface Moves {
  readonly devices: readonly DeviceLayers[];
  /** Those with most below them first. */
  readonly moves: readonly Move[];
  readonly relinks: readonly Relink[];
  readonly notes: readonly Note[];
}

export interface Wanted {
  readonly devices: readonly DeviceEntry[];
  /** The folder, by its canonical path. */
  readonly folder: string;
  readonly keep: boolean;
}

/** Errors where an image is not what it was, or can't go. */
export async function planMoves({ devices, folder, keep }: Wanted, context: PlanContext): Promise<Moves> {
  const names = devices.map(({ name }) => name);
  const trees: { readonly entry: DeviceEntry; readonly layers: Layers }[] = [];
  for (const entry of devices) {
    trees.push({ entry, layers: await readLayers(entry.name, new Set(), context, names) });
  }
  const known = unite(trees.map(({ layers }) => layers));
  const { layers: all, notes } = await withOverlays(known, keep, context);
  const { going, onThem, needed, staying } = divide(all, await findBlockDevices(all, context), folder);
  if (going.length === 0) assertAllThere(devices, needed, folder);
  if (keep) assertNoneChanges(onThem);
  const opened: DeviceLayers[] = [];
  for (const { entry, layers } of trees) {
    const wanted = [...going, ...onThem].flatMap(({ image }) => (layers.has(image) ? [image] : []));
    // The device's own chain in any case: its commit is about that.
    const open = await openThrough(entry, layers, [entry.image, ...wanted], context, "");
    opened.push({ entry, layers, open });
  }
  const found = going.map((layer) => ({ layer, ...findOpen(layer, opened) }));
  const links = found.map(({ layer, open }) => open.viewOf(layer.image).link);
  const places = await findPlaces(links, { layers: all, folder }, context);
  const moves: Move[] = [];
  for (const { layer, open, device } of found) {
    moves.push(await planMove(layer, { open, device, places }, context));
  }
  const relinks: Relink[] = [];
  for (const layer of onThem) {
    relinks.push(await planRelink(layer, { ...findOpen(layer, opened), places }, context));
  }
  return {
    devices: opened,
    moves,
    relinks,
    notes: [
      ...notes,
      ...staying,
      ...places.notes,
      ...relinks.map(
        ({ link, backing }) => ({ code: "named anew", image: link.path, to: backing.name }) as const,
      ),
      ...opened.flatMap(({ open }) => open.doubts),
    ],
  };
}

function findOpen(
  { image }: Layer,
  opened: readonly DeviceLayers[],
): { readonly open: OpenLayers; readonly device: string } {
  const found = opened.find(({ layers }) => layers.has(image));
  if (!found) throw new Error("a layer is of one of the devices");
  return { open: found.open, device: found.entry.name };
}

/** E_CHANGED where the devices' records have images stand on each other in different ways. */
function unite(trees: readonly Layers[]): Layers {
  const all = new Map<string, Layer>();
  for (const layer of trees.flatMap((layers) => [...layers.values()])) {
    const other = all.get(layer.image);
    if (other && other.below !== layer.below) {
      throw new ImgtxError(
        "E_CHANGED",
        `for one device it stands on ${other.below ?? "nothing"}, and for another on ${layer.below ?? "nothing"}`,
        { image: layer.image, hint: "move one device after the other" },
      );
    }
    all.set(layer.image, { ...layer, neededBy: layer.neededBy ?? other?.neededBy });
  }
  return all;
}

/** What is no file stays where it is. */
async function findBlockDevices(layers: Layers, { storage }: PlanContext): Promise<ReadonlySet<string>> {
  const found = new Set<string>();
  for (const { image, entry } of layers.values()) {
    const stats = await Promise.all(filesOfEntry(entry).map(async (file) => await storage.stat(file.image)));
    if (stats.some((stat) => stat?.kind === "device")) found.add(image);
  }
  return found;
}

/** onThem: those that are there already, and stand on what goes. */
function divide(layers: Layers, blockDevices: ReadonlySet<string>, folder: string) {
  const needed = new Map<string, string>();
  const keepBelow = ({ image, below }: Layer, by: string): void => {
    if (needed.has(image)) return;
    needed.set(image, by);
    const next = below === null ? undefined : layers.get(below);
    if (next) keepBelow(next, next.neededBy ?? `'${image}'`);
  };
  for (const layer of layers.values()) {
    const by = layer.neededBy ?? (blockDevices.has(layer.image) ? "its block device" : undefined);
    if (by !== undefined) keepBelow(layer, by);
  }
  const isThere = ({ image }: Layer): boolean => posix.dirname(image) === folder;
  const going = [...layers.values()].filter((layer) => !needed.has(layer.image) && !isThere(layer));
  const goes = new Set(going.map(({ image }) => image));
  const onThem = [...layers.values()].filter(
    ({ image, below }) => !goes.has(image) && below !== null && goes.has(below),
  );
  const staying = [...needed].map(
    ([image, by]): Note =>
      blockDevices.has(image)
        ? { code: "layer not merged", image, why: "a block device has its place" }
        : { code: "layer stays", image, by },
  );
  const depth = (layer: Layer): number => depthOf(layer, layers);
  return { going: going.sort((a, b) => depth(b) - depth(a)), onThem, needed, staying };
}

/** E_REFUSED where nothing can go though a device is elsewhere: that is no success. */
function assertAllThere(
  devices: readonly DeviceEntry[],
  needed: ReadonlyMap<string, string>,
  folder: string,
): void {
  const left = devices.find(({ image }) => posix.dirname(image) !== folder);
  if (!left) return;
  throw new ImgtxError(
    "E_REFUSED",
    `nothing of it can go: it is needed by ${needed.get(left.image) ?? "others"}`,
    {
      device: left.name,
      image: left.image,
      hint: "`imgtx tree` and `imgtx txn status` show who stands on it",
    },
  );
}

function depthOf({ below }: Layer, layers: Layers): number {
  const next = below === null ? undefined : layers.get(below);
  return next ? depthOf(next, layers) + 1 : 0;
}

interface Around {
  readonly open: OpenLayers;
  readonly device: string;
  readonly places: Places;
}

async function planMove(layer: Layer, around: Around, context: PlanContext): Promise<Move> {
  const { open, device, places } = around;
  const { link, below } = open.viewOf(layer.image);
  assertAsItIs(link, device, context);
  const [next] = below;
  const names: NamesElsewhere = {
    ...(next &&
      link.header?.backingFileName !== undefined && {
        backing: {
          name: await nameElsewhere(link.header.backingFileName, next.path, places, context),
          format: next.format,
        },
      }),
    ...dataFileElsewhere(link, places, context),
  };
  const to = places.of(link.path);
  if (to === undefined) throw new Error("each image that goes has a place");
  const move = {
    layer,
    link,
    to,
    dataFileTo: link.dataFile && places.of(link.dataFile.path),
    head: await encodeElsewhere(link, names),
    nameOfBelow: names.backing?.name,
  };
  for (const path of [move.to, move.dataFileTo]) {
    const there = path === undefined ? undefined : await context.storage.statLink(path);
    if (path !== undefined && there) throw targetExists(device, path, there, ", or another folder");
  }
  return move;
}

/** E_REFUSED: an undo would find its sources, and an image on them that names their copies. */
function assertNoneChanges([first]: readonly Layer[]): void {
  if (!first) return;
  throw new ImgtxError(
    "E_REFUSED",
    "it is in the folder already, and would name the copy of what it stands on",
    {
      image: first.image,
      hint: "leave out `--keep`, or name a folder that none of the images is in",
    },
  );
}

async function planRelink(
  { image, ...layer }: Layer,
  { open, device, places }: Around,
  context: PlanContext,
): Promise<Relink> {
  const {
    link,
    below: [next],
  } = open.viewOf(image);
  const stored = link.header?.backingFileName;
  if (!next || stored === undefined) throw new Error("what stands on an image names it");
  assertAsItIs(link, device, context);
  return await withPlace({ device, image }, async () => {
    const backing = { name: await nameElsewhere(stored, next.path, places, context), format: next.format };
    judgeBacking(link, backing);
    return { layer: { image, ...layer }, link, backing };
  });
}

/** E_REFUSED for what the transaction changes as well, and for what has a fence: the copy would have it, and nobody knew. */
function assertAsItIs({ path: image, file, header }: ChainLink, device: string, context: PlanContext): void {
  const { madeHere, copiedInto } = context;
  if (file.onDisk !== undefined || madeHere.has(image) || copiedInto.has(image)) {
    throw new ImgtxError("E_REFUSED", "the transaction makes it, or changes it", {
      device,
      image,
      hint: "commit the transaction first",
    });
  }
  if (header?.isFenced !== true) return;
  throw new ImgtxError("E_REFUSED", "it has a fence, and its copy would have it too", {
    device,
    image,
    hint: `\`imgtx unfreeze --force ${device}\` lifts it`,
  });
}

/** The name for a backing image, from the folder. */
async function nameElsewhere(
  stored: string,
  image: string,
  { folder, of: placeOf }: Places,
  { storage }: PlanContext,
): Promise<string> {
  const isRelative = !stored.startsWith("/") && localFileOf(stored) === undefined;
  const place = placeOf(image);
  if (place !== undefined) {
    const name = posix.basename(place);
    if (!isRelative) return place;
    return isProtocolName(name) ? `./${name}` : name;
  }
  if (isRelative) return await makeRelativeName(storage, folder, image);
  return stored.startsWith("/") ? stored : image;
}

/** As QEMU does, a relative name of a data file is taken to be one from the current folder. */
function dataFileElsewhere(
  { header, dataFile }: ChainLink,
  places: Places,
  { gate }: PlanContext,
): Pick<NamesElsewhere, "dataFile"> {
  const stored = header?.dataFileName;
  const path = dataFile && places.of(dataFile.path);
  if (path === undefined || stored === undefined) return {};
  return { dataFile: stored.startsWith("/") ? path : posix.relative(gate.currentFolder, path) };
}

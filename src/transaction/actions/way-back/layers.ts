// The layers of a device: what its snapshots keep of it, and what it is on, as one tree of images; and who else needs which.
//
// Invariant: what is not known of an image by the table, or by a record of a snapshot, is not known: nothing is guessed from
// names.

import { type ChainEntry, filesOfEntry, findDevice, type SealedDevice } from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import { identityOf } from "../../../format/index.ts";
import type { Note } from "../../notes/notes.ts";
import type { PlanContext } from "../plan/action.ts";
import { findOverlays } from "../plan/overlays-of.ts";

/** One image of the tree. */
export interface Layer {
  readonly image: string;
  /** As it is known last. */
  readonly entry: ChainEntry;
  /** What it stands on. Null: on nothing. */
  readonly below: string | null;
  /** By which its header names that. Undefined: nobody has looked. */
  readonly nameOfBelow: string | undefined;
  readonly isActive: boolean;
  /** The snapshots whose moment it is, but for those that are deleted. */
  readonly moments: readonly number[];
  /** Whether a snapshot that is deleted has kept it. */
  readonly isFreed: boolean;
  /** Whether imgtx made it, and may remove it. */
  readonly isMade: boolean;
  /** Folders and files that it may lead to. */
  readonly trusted: readonly string[];
  /** Who else needs it, as a clause; undefined: nobody does. */
  readonly neededBy: string | undefined;
}

export type Layers = ReadonlyMap<string, Layer>;

type Growing = { -readonly [Field in keyof Layer]: Layer[Field] };

/** Without what stands on them by no record: see withOverlays. along: further devices whose needs do not count. */
export async function readLayers(
  device: string,
  deleted: ReadonlySet<number>,
  {
    table,
    snapshots,
    readInherited,
    ...done
  }: Pick<PlanContext, "table" | "snapshots" | "takenHere" | "takenInDoubt" | "readInherited">,
  along: readonly string[] = [],
): Promise<Map<string, Layer>> {
  const inherited = await readInherited();
  const layers = new Map<string, Growing>();
  const sealed = new Map<number, SealedDevice>();
  const needed = new Map<string, string>();
  for (const ref of table.snapshots) {
    const { number, devices } = await snapshots.read(ref);
    for (const one of devices) {
      if (one.device === device) sealed.set(number, one);
      else if (!along.includes(one.device))
        for (const image of filesOf(one.chain)) needed.set(image, `snapshot ${number} of '${one.device}'`);
    }
  }
  for (const [number, { chain, below, isMade = false, trusted = [] }] of sealed) {
    const under = below === null ? null : (sealed.get(below)?.chain[0]?.image ?? null);
    if (below !== null && under === null) throw lost(device, number);
    const layer = addChain(layers, device, chain, under);
    layer.entry = chain[0] ?? layer.entry;
    layer.isMade = layer.isMade || isMade;
    layer.trusted = trusted;
    if (deleted.has(number)) layer.isFreed = true;
    else layer.moments = [...layer.moments, number];
  }
  const entry = findDevice(table, device);
  if (entry) {
    const top = addChain(layers, device, entry.chain, null);
    top.isActive = true;
    top.isMade = entry.made === entry.image;
    top.trusted = entry.trusted ?? [];
  }
  for (const [index, image] of takenOf(device, done).entries()) {
    const layer = layers.get(image);
    if (!layer) throw standsNowhere(device, image);
    layer.moments = [...layer.moments, table.nextSnapshot + index];
  }
  for (const { name, chain, mirror } of table.devices) {
    if (name !== device && !along.includes(name))
      for (const image of filesOf(chain)) needed.set(image, `'${name}'`);
    for (const image of filesOf(mirror?.chain ?? [])) needed.set(image, `the mirror of '${name}'`);
  }
  for (const layer of layers.values()) {
    const isAnothers = inherited.has(layer.image);
    layer.isMade = layer.isMade && !isAnothers;
    layer.neededBy = isAnothers
      ? "the workspace that this one was copied from"
      : filesOf([layer.entry]).flatMap((image) => needed.get(image) ?? [])[0];
  }
  return layers;
}

/**
 * What snapshots of the same transaction keep of the device, oldest first. They get their numbers with its commit.
 * E_REFUSED where nobody can tell which of them it still has then.
 */
export function takenOf(
  device: string,
  { takenHere, takenInDoubt }: Pick<PlanContext, "takenHere" | "takenInDoubt">,
): string[] {
  if (takenInDoubt.has(device)) {
    throw new ImgtxError("E_REFUSED", "the transaction has taken snapshots of it, and given some up", {
      device,
      hint: "commit the transaction first",
    });
  }
  return takenHere.flatMap(({ devices, sealed }) =>
    devices.includes(device) ? (sealed.get(device) ?? []) : [],
  );
}

function filesOf(chain: readonly ChainEntry[]): string[] {
  return chain.flatMap(filesOfEntry).map(({ image }) => image);
}

/** Returns the uppermost. E_CHANGED where the images stand on each other in another way than was known before. */
function addChain(
  layers: Map<string, Growing>,
  device: string,
  chain: readonly ChainEntry[],
  under: string | null,
): Growing {
  for (const [depth, entry] of chain.entries()) {
    const next = chain[depth + 1];
    const below = next?.image ?? under;
    const known = layers.get(entry.image);
    if (known && known.below !== below) throw standsElsewhere(device, entry.image, known.below, below);
    const nameOfBelow = next?.name ?? known?.nameOfBelow;
    const isMade = known?.isMade === true || entry.isMade === true;
    if (known) Object.assign(known, { nameOfBelow, isMade });
    else layers.set(entry.image, { ...UNKNOWN, image: entry.image, entry, below, nameOfBelow, isMade });
  }
  const top = layers.get(chain[0]?.image ?? "");
  if (!top) throw new Error("a chain has an image");
  return top;
}

const UNKNOWN = {
  isActive: false,
  moments: [],
  isFreed: false,
  trusted: [],
  neededBy: undefined,
} as const;

/**
 * The layers where those that something stands on by no record are needed by that, and all by a generation that nobody can
 * read, unless that is said not to count. Returns notes on what was not looked at as well.
 */
export async function withOverlays(
  layers: Layers,
  passesLost: boolean,
  context: PlanContext,
): Promise<{ readonly layers: Layers; readonly notes: readonly Note[] }> {
  const own = [...layers.keys(), ...context.removedHere];
  const stats = await Promise.all(own.map(async (path) => await context.storage.stat(path)));
  const except = new Set(stats.flatMap((stat) => (stat ? [identityOf(stat)] : [])));
  const { overlays, lost, notes } = await findOverlays([...layers.keys()], context, { except });
  // What a device was on then may be anywhere.
  const unknown =
    lost === undefined || passesLost
      ? undefined
      : `an image of generation ${lost}, which the history lacks, perhaps`;
  const standing = [...layers].map(([image, layer]): readonly [string, Layer] => {
    const [first] = overlays.get(image) ?? [];
    const neededBy = first === undefined ? (layer.neededBy ?? unknown) : `'${first}'`;
    return [image, { ...layer, neededBy }];
  });
  const doubt =
    lost !== undefined && passesLost ? [{ code: "generation lost", generation: lost } as const] : [];
  return { layers: new Map(standing), notes: [...notes, ...doubt] };
}

function lost(device: string, number: number): ImgtxError {
  return new ImgtxError("E_CORRUPT", `what snapshot ${number} keeps of '${device}' leads to no image`, {
    device,
    hint: "put `.imgtx/snapshots` back from a copy",
  });
}

/** A rollback of the same transaction has left it, and no record has it yet. */
function standsNowhere(device: string, image: string): ImgtxError {
  return new ImgtxError(
    "E_REFUSED",
    "the transaction has left it, and keeps it as a snapshot that has no record yet",
    {
      device,
      image,
      hint: "commit the transaction first",
    },
  );
}

function standsElsewhere(
  device: string,
  image: string,
  one: string | null,
  other: string | null,
): ImgtxError {
  return new ImgtxError(
    "E_CHANGED",
    `by one record it stands on ${one ?? "nothing"}, and by another on ${other ?? "nothing"}`,
    { device, image, hint: "`--keep-images` takes the moment away, and leaves its images as they are" },
  );
}

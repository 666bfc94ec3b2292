// What snapshots that stay keep of a device when layers have come to one, and who keeps what of the device's own chain.

import {
  type ChainEntry,
  type GivenUp,
  type SealedDevice,
  type Snapshot,
  type SnapshotReads,
  type SnapshotRef,
  type TakenThen,
} from "../../../device/index.ts";
import type { Layer, Layers } from "./layers.ts";

/** The tree of layers as it is then. */
export interface Rearranged {
  readonly layers: Layers;
  /** Where the content of a layer is then, by its image. Left out: where it was. */
  readonly fileOf: ReadonlyMap<string, string>;
  /** What a layer stands on then, as an image of the tree. Left out: what it stood on. */
  readonly belowOf: ReadonlyMap<string, string | null>;
  /** By which the header of a file names that, where it changes. */
  readonly nameOf: ReadonlyMap<string, string | undefined>;
  /** Files that change. */
  readonly touched: ReadonlySet<string>;
}

/** A layer, with the file that it is in. */
interface Placed {
  readonly layer: Layer;
  readonly file: Layer;
}

/** Records of the snapshots that stay and keep the device, where they are to change. */
export async function renewRecords(
  device: string,
  refs: readonly SnapshotRef[],
  snapshots: SnapshotReads,
  tree: Rearranged,
): Promise<Snapshot[]> {
  const renewed: Snapshot[] = [];
  for (const ref of refs) {
    const snapshot = await snapshots.read(ref);
    const before = snapshot.devices.find((one) => one.device === device);
    if (!before) continue;
    const { isMade: _isMade, ...rest } = before;
    const after = { ...rest, ...placeOf(before.chain[0]?.image ?? "", ref.number, tree) };
    if (isSame(before, after, tree)) continue;
    renewed.push({ ...snapshot, devices: [after] });
  }
  return renewed;
}

/** What the snapshots that the transaction has taken keep of the device then. */
export function renewTaken(images: readonly string[], first: number, tree: Rearranged): TakenThen {
  return { first, snapshots: images.map((image, index) => placeOf(image, first + index, tree)) };
}

function placeOf(image: string, number: number, tree: Rearranged): TakenThen["snapshots"][number] {
  const line = lineFrom(image, tree);
  const keeperOf = ({ layer }: Placed): number | undefined => layer.moments.findLast((one) => one < number);
  const end = line.findIndex((one, depth) => depth > 0 && keeperOf(one) !== undefined);
  const own = end === -1 ? line : line.slice(0, end);
  const next = line[end];
  return {
    chain: own.map((one, depth) => entryOf(one, own[depth - 1], tree)),
    below: (end !== -1 && next && keeperOf(next)) || null,
    ...(own[0]?.file.isMade === true && { isMade: true }),
  };
}

function lineFrom(image: string, { layers, fileOf, belowOf }: Rearranged): Placed[] {
  const line: Placed[] = [];
  for (let at: string | null = image; at !== null; ) {
    const layer: Layer | undefined = layers.get(at);
    const file = layers.get(fileOf.get(at) ?? at);
    if (!layer || !file) throw new Error("a layer stands on a layer");
    line.push({ layer, file });
    const below = belowOf.get(at);
    at = below === undefined ? layer.below : below;
  }
  return line;
}

function entryOf({ file }: Placed, overlay: Placed | undefined, { nameOf }: Rearranged): ChainEntry {
  const { sealedBy: _sealedBy, isMade: _isMade, ...entry } = file.entry;
  if (!overlay) return { ...entry, name: null };
  // The header is the file's, whichever layer's content it has.
  const name = nameOf.has(overlay.file.image) ? nameOf.get(overlay.file.image) : overlay.file.nameOfBelow;
  return { ...entry, name: name ?? null, ...(file.isMade && { isMade: true }) };
}

function isSame(before: SealedDevice, after: SealedDevice, { touched }: Rearranged): boolean {
  if (before.below !== after.below || before.chain.length !== after.chain.length) return false;
  return after.chain.every(
    ({ image, isMade }, depth) =>
      image === before.chain[depth]?.image && isMade === before.chain[depth]?.isMade && !touched.has(image),
  );
}

/** Who keeps, or has made, what of the device's own chain, below its active layer. */
export function marksOf(active: string, tree: Rearranged): NonNullable<GivenUp["marks"]> {
  return lineFrom(active, tree)
    .slice(1)
    .map(({ layer, file }) => {
      const sealedBy = layer.moments.at(-1);
      return {
        image: file.image,
        ...(sealedBy !== undefined && { sealedBy }),
        // Also of one that is sealed: a snapshot of the same transaction has no record yet that would say so.
        ...(file.isMade && { isMade: true }),
      };
    });
}

/** The files of the device's own chain then, its active layer first, each with the name that the one above has for it. */
export function placesFrom(active: string, tree: Rearranged): ChainEntry[] {
  const line = lineFrom(active, tree);
  return line.map((one, depth) => entryOf(one, line[depth - 1], tree));
}

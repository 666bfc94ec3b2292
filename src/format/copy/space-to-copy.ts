// How much new space copying layers into an image below them may take, so that it can be reserved before there is no way back.
//
// Invariant: an upper bound for images that are overwritten in place. Where there are internal snapshots, all may be shared. What a file system takes for copies of blocks
// that are shared is not in it.

import { earliest, endOf, guestOffset } from "../../units/index.ts";
import { posix } from "node:path";
import type { Storage } from "../../storage/index.ts";
import { ExtentCursor } from "../read/extent-cursor.ts";
import type { Extent } from "../image.ts";
import type { GateOptions } from "../chain/open-gate.ts";
import { openImage } from "../open/open-image.ts";
import { type LayersToCopy, openLayers } from "./copy-layers.ts";

/** What is measured in, where clusters are not larger; smaller ones need less in the same place. */
const UNIT_BYTES = 65_536;
/** What one cluster takes in L2 tables. */
const ENTRY_BYTES = 16;
/** For refcount blocks, and for tables that have to move. */
const SPARE_UNITS = 4;

export interface SpaceToCopy {
  /** Whose file system it is taken on. */
  readonly folder: string;
  /** The file that gets it. */
  readonly file: string;
  readonly lengthBytes: number;
  /** The end of what is written, where all has its own place in the file. Undefined: it may be put at the file's end. */
  readonly endBytes?: number;
}

/** Nothing where nothing is copied. Of a data file, what it takes is apart from its image. above: in which the layers are read. */
export async function measureSpaceToCopy(
  storage: Storage,
  layers: LayersToCopy,
  gate: GateOptions,
  above: Storage = storage,
): Promise<SpaceToCopy[]> {
  const { path, format } = layers.into;
  const { source, ownLayers } = await openLayers(above, layers, gate);
  try {
    const target = await openImage(storage, path, { format, gate, backing: false });
    try {
      const end = guestOffset(source.virtualSizeBytes);
      // What it is to grow by first has no place yet.
      const known = earliest(end, guestOffset(target.virtualSizeBytes));
      const isShared = (target.chain.links[0]?.header?.nbSnapshots ?? 0) > 0;
      const [changes, places] = [new ExtentCursor(source, end), new ExtentCursor(target, known)];
      const [own] = target.chain.links;
      const {
        clusterSizeBytes = UNIT_BYTES,
        refcountBits = 0,
        refcountTableClusters = 0,
      } = own?.header ?? {};
      // A volume may be made to measure.
      const isVolume = own?.stat.kind === "device";
      const unitBytes = isVolume ? clusterSizeBytes : Math.max(UNIT_BYTES, clusterSizeBytes);
      const reachBytes = (unitBytes / ENTRY_BYTES) * unitBytes;
      const reached = new Set<number>();
      let wholeUnits = 0;
      let endBytes = 0;
      for (let offset = guestOffset(0); offset < end; ) {
        const change = await changes.find(offset);
        const place = offset < known ? await places.find(offset) : undefined;
        const stop = earliest(end, endOf(change), place ? endOf(place) : end);
        const isOver = !isShared && place !== undefined && isInPlace(place);
        const isCopied = change.depth < ownLayers - 1 || (change.present && change.depth < ownLayers);
        if (isCopied) endBytes = stop;
        if (isCopied && !isOver) {
          const [first, last] = [Math.floor(offset / unitBytes), Math.ceil(stop / unitBytes)];
          wholeUnits += last - first;
          for (let at = Math.floor(offset / reachBytes); at * reachBytes < stop; at += 1) reached.add(at);
        }
        offset = stop;
      }
      if (endBytes === 0) return [];
      const perCluster = ENTRY_BYTES + refcountBits / 8;
      const tables =
        format === "qcow2" && wholeUnits > 0
          ? reached.size +
            SPARE_UNITS +
            (isVolume ? 2 * refcountTableClusters : 0) +
            Math.ceil((wholeUnits * perCluster) / clusterSizeBytes)
          : 0;
      const [dataBytes, tableBytes] = [wholeUnits * unitBytes, tables * unitBytes];
      const file = target.layers[0]?.dataFile.path ?? path;
      if (format === "qcow2" && file === path) return [spaceOf(path, dataBytes + tableBytes)];
      const data = { ...spaceOf(file, dataBytes), endBytes: Math.ceil(endBytes / unitBytes) * unitBytes };
      return format === "qcow2" ? [spaceOf(path, tableBytes), data] : [{ ...data, endBytes }];
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}

export function spaceOf(file: string, lengthBytes: number): SpaceToCopy {
  return { folder: posix.dirname(file), file, lengthBytes };
}

/** Whether a write there goes over what the file has already. */
function isInPlace({ kind, depth }: Extent): boolean {
  return kind === "data" && depth === 0;
}

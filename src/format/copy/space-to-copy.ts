// How much new space copying layers into an image below them may take, so that it can be reserved before there is no way back.
//
// Invariant: an upper bound for images that are overwritten in place. What a file system takes for copies of blocks
// that are shared is not in it.

import { posix } from "node:path";
import type { Storage } from "../../storage/index.ts";
import { ExtentCursor } from "../read/extent-cursor.ts";
import type { Extent } from "../image.ts";
import type { GateOptions } from "../chain/open-gate.ts";
import { openImage } from "../open/open-image.ts";
import { type LayersToCopy, openLayers } from "./copy-layers.ts";

/** The largest clusters of qcow2 but few have; smaller ones need less in the same place. */
const UNIT_BYTES = 65_536;
/** Guest bytes that one L2 table of such clusters maps. */
const TABLE_REACH_BYTES = (UNIT_BYTES / 8) * UNIT_BYTES;
/** For refcount blocks, and for tables that have to move. */
const SPARE_UNITS = 4;

export interface SpaceToCopy {
  /** Whose file system it is taken on. */
  readonly folder: string;
  readonly lengthBytes: number;
}

/** Nothing where all of it goes over what is there. */
export async function measureSpaceToCopy(
  storage: Storage,
  layers: LayersToCopy,
  gate: GateOptions,
): Promise<SpaceToCopy | undefined> {
  const { path, format } = layers.into;
  const { source, ownLayers } = await openLayers(storage, layers, gate);
  try {
    const target = await openImage(storage, path, { format, gate, backing: false });
    try {
      const end = Math.min(source.virtualSizeBytes, target.virtualSizeBytes);
      const [changes, places] = [new ExtentCursor(source, end), new ExtentCursor(target, end)];
      const units = new Set<number>();
      let wholeUnits = 0;
      for (let offset = 0; offset < end; ) {
        const change = await changes.find(offset);
        const place = await places.find(offset);
        const stop = Math.min(end, endOf(change), endOf(place));
        if (change.present && change.depth < ownLayers && !isInPlace(place)) {
          const [first, last] = [Math.floor(offset / UNIT_BYTES), Math.ceil(stop / UNIT_BYTES)];
          wholeUnits += last - first;
          units.add(Math.floor(offset / TABLE_REACH_BYTES));
        }
        offset = stop;
      }
      if (wholeUnits === 0) return undefined;
      const tables = format === "qcow2" ? units.size + Math.ceil(wholeUnits / UNIT_BYTES) + SPARE_UNITS : 0;
      const file = target.layers[0]?.dataFile.path ?? path;
      return { folder: posix.dirname(file), lengthBytes: (wholeUnits + tables) * UNIT_BYTES };
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}

function endOf({ start, lengthBytes }: Extent): number {
  return start + lengthBytes;
}

/** Whether a write there goes over what the file has already. */
function isInPlace({ kind, depth }: Extent): boolean {
  return kind === "data" && depth === 0;
}

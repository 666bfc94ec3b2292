// How much new space a merge of a changes overlay may take, so that it can be reserved before there is no way back.
//
// Invariant: an upper bound for images that are overwritten in place. What a file system takes for copies of blocks
// that are shared is not in it.

import { posix } from "node:path";
import type { Storage } from "../../storage/index.ts";
import { ExtentCursor } from "../read/extent-cursor.ts";
import type { Extent } from "../image.ts";
import type { ImageFormat } from "../image-format.ts";
import type { GateOptions } from "../chain/open-gate.ts";
import { openImage } from "../open/open-image.ts";

/** The largest clusters of qcow2 but few have; smaller ones need less in the same place. */
const UNIT_BYTES = 65_536;
/** Guest bytes that one L2 table of such clusters maps. */
const TABLE_REACH_BYTES = (UNIT_BYTES / 8) * UNIT_BYTES;
/** For refcount blocks, and for tables that have to move. */
const SPARE_UNITS = 4;

interface MergeSpace {
  /** Whose file system it is taken on. */
  readonly folder: string;
  readonly lengthBytes: number;
}

/** Nothing where all of it goes over what is there. */
export async function measureMergeSpace(
  storage: Storage,
  {
    path,
    image,
  }: { readonly path: string; readonly image: { readonly path: string; readonly format: ImageFormat } },
  gate: GateOptions,
): Promise<MergeSpace | undefined> {
  const overlay = await openImage(storage, path, { format: "qcow2", gate, backing: false });
  try {
    const target = await openImage(storage, image.path, { format: image.format, gate, backing: false });
    try {
      const end = Math.min(overlay.virtualSizeBytes, target.virtualSizeBytes);
      const [changes, places] = [new ExtentCursor(overlay, end), new ExtentCursor(target, end)];
      const units = new Set<number>();
      let wholeUnits = 0;
      for (let offset = 0; offset < end; ) {
        const change = await changes.find(offset);
        const place = await places.find(offset);
        const stop = Math.min(end, endOf(change), endOf(place));
        if (change.present && change.depth === 0 && !isInPlace(place)) {
          const [first, last] = [Math.floor(offset / UNIT_BYTES), Math.ceil(stop / UNIT_BYTES)];
          wholeUnits += last - first;
          units.add(Math.floor(offset / TABLE_REACH_BYTES));
        }
        offset = stop;
      }
      if (wholeUnits === 0) return undefined;
      const tables =
        image.format === "qcow2" ? units.size + Math.ceil(wholeUnits / UNIT_BYTES) + SPARE_UNITS : 0;
      const file = target.layers[0]?.dataFile.path ?? image.path;
      return { folder: posix.dirname(file), lengthBytes: (wholeUnits + tables) * UNIT_BYTES };
    } finally {
      await target.close();
    }
  } finally {
    await overlay.close();
  }
}

function endOf({ start, lengthBytes }: Extent): number {
  return start + lengthBytes;
}

/** Whether a write there goes over what the file has already. */
function isInPlace({ kind, depth }: Extent): boolean {
  return kind === "data" && depth === 0;
}

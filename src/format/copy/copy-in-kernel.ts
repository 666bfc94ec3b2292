// Copying guest data from file to file without taking it through this process.

import { SliceImage } from "../read/slice-image.ts";
import { type GuestOffset, type GuestRange, offsetBy } from "../../units/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import type { Extent, Image, WritableImage } from "../image.ts";

/** Whether guest offsets of the target are offsets of its file, so that ranges can be put there. */
export function copiesInKernel(target: WritableImage): boolean {
  return target.format === "raw";
}

/**
 * Copies a range of an extent of data. False, and nothing written, where the data has no place in a file that
 * all of the range lies in.
 */
export async function copyInKernel(
  source: Image,
  extent: Extent,
  sourceOffset: GuestOffset,
  target: WritableImage,
  targetOffset: GuestOffset,
  lengthBytes: number,
): Promise<boolean> {
  const from = source.layers[extent.depth]?.dataFile;
  const to = target.layers[0]?.dataFile;
  if (extent.kind !== "data" || extent.hostOffset === undefined) return false;
  if (from === undefined || to === undefined) return false;
  const hostOffset = offsetBy(extent.hostOffset, sourceOffset - extent.start);
  if ((await from.stat()).sizeBytes < hostOffset + lengthBytes) return false;
  await to.copyRangeFrom(from, hostOffset, targetOffset, lengthBytes);
  return true;
}

/** A range of the target, in an extent of the source, which begins in the target at the shift. */
interface Taken extends GuestRange {
  readonly source: Image;
  readonly shift: GuestOffset;
  readonly extent: Extent;
}

/** Has the target take it over from its file. False, and nothing written, where it is to be read and written instead. */
export async function takeOver(
  { source, shift, extent, start, lengthBytes }: Taken,
  target: WritableImage,
): Promise<boolean> {
  const file = source.layers[extent.depth]?.dataFile;
  if (!target.takeOver || !file || extent.hostOffset === undefined) return false;
  const offset = offsetBy(extent.hostOffset, start - shift - extent.start);
  return await target.takeOver({ file, start: offset, lengthBytes }, start);
}

/**
 * Makes an empty raw target a clone of a raw source, which takes no time and no space where the file system
 * shares blocks. False, and nothing written, where it can't.
 */
export async function cloneRaw(source: Image, target: StorageFile, sizeBytes: number): Promise<boolean> {
  const [layer] = source.layers;
  // Of a part of a file the whole is another disk.
  if (source instanceof SliceImage) return false;
  if (layer === undefined || source.layers.length !== 1 || layer.format !== "raw") return false;
  if (!(await target.cloneFrom(layer.dataFile))) return false;
  const { sizeBytes: cloned } = await target.stat();
  if (cloned > sizeBytes) {
    throw new ImgtxError("E_CHANGED", `'${source.path}' grew while it was copied`, { image: source.path });
  }
  // A raw disk ends with a whole sector.
  if (cloned < sizeBytes) await target.truncate(sizeBytes);
  return true;
}

// A change of an image's guest data as an overlay over it: made beside it while the image stays as it is, and
// copied into it later (copy-layers.ts).
//
// Invariants
// - The overlay is qcow2 with whole clusters of new content: what it has counts, whatever the image below holds
//   by then. So the copying may be cut off and begun again.
// - Nothing is flushed while the overlay is written: the caller does, before anything refers to it.

import { whileOpen } from "../../errors/index.ts";
import { endOf, type GuestRange } from "../../units/index.ts";
import { posix } from "node:path";
import type { Storage, StorageFile } from "../../storage/index.ts";
import { RangeCollector } from "../read/byte-ranges.ts";
import { copyImages, type CopyOptions, countBytesToCopy } from "./copy.ts";
import { flushAlong } from "./flush-along.ts";
import { planImage, writeImage } from "../new/create.ts";
import { extentsOf } from "../read/extent-cursor.ts";
import type { Image, WritableImage } from "../image.ts";
import type { ImageFormat } from "../image-format.ts";
import { MaskedImage } from "../read/masked-image.ts";
import { openForWriting } from "../open/open-for-writing.ts";
import type { GateOptions } from "../chain/open-gate.ts";

/** In what units changes are made: a cluster of the overlay. */
export const CHANGE_UNIT_BYTES = 65_536;

export interface Watching extends Pick<CopyOptions, "signal" | "throttle"> {
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
}

interface ChangesOverlay {
  readonly file: StorageFile;
  /** Beside the image that it is to be copied into, or elsewhere where that is a block device. */
  readonly path: string;
  /** What it stands on. */
  readonly image: { readonly path: string; readonly format: ImageFormat };
}

/** Writes the ranges of the source into a new, empty file, as an overlay. Ranges are whole units. */
export async function writeChangesOverlay(
  storage: Storage,
  { file, path, image }: ChangesOverlay,
  source: Image,
  ranges: readonly GuestRange[],
  { gate, signal, throttle, onProgress }: Watching & { readonly gate: GateOptions },
): Promise<void> {
  const { virtualSizeBytes } = source;
  const plan = await planImage({
    format: "qcow2",
    virtualSizeBytes,
    options: { backingFileName: nameFrom(path, image.path), backingFormat: image.format },
  });
  await writeImage({ file }, plan);
  const overlay = await openForWriting(storage, path, { format: "qcow2", gate, file, isOrdered: false });
  await whileOpen(overlay, async () => {
    await copyTelling(new MaskedImage(source, ranges), overlay, onProgress, {
      ...COPY_OF_CHANGES,
      signal,
      throttle,
      clusterBytes: CHANGE_UNIT_BYTES,
      backingBytes: virtualSizeBytes,
    });
  });
}

/** Beside it by its name alone, so that both can be found in another place. */
function nameFrom(overlay: string, image: string): string {
  return posix.dirname(overlay) === posix.dirname(image) ? `./${posix.basename(image)}` : image;
}

/** Progress is told of what is still to be copied. The caller flushes at the end. */
export async function copyTelling(
  source: Image,
  target: WritableImage,
  onProgress: Watching["onProgress"],
  options: CopyOptions,
): Promise<void> {
  const totalBytes = onProgress ? await countBytesToCopy([source], options) : 0;
  onProgress?.(0, totalBytes);
  await copyImages([source], target, {
    ...options,
    throttle: flushAlong(target.layers[0]?.dataFile, options.throttle),
    onProgress: onProgress && ((doneBytes) => onProgress(doneBytes, totalBytes)),
  });
}

export const COPY_OF_CHANGES = {
  compressed: false,
  sparseBytes: CHANGE_UNIT_BYTES,
  targetIsZero: false,
  atOnce: 4,
  inOrder: true,
  inKernel: false,
} as const;

/** What the upper layers of an image have: those above the depth. */
export async function findRangesAbove(image: Image, depth: number): Promise<GuestRange[]> {
  const found = new RangeCollector();
  if (depth === 0) return [];
  for await (const extent of extentsOf(image)) {
    if (extent.present && extent.depth < depth) found.add(extent.start, endOf(extent));
  }
  return found.ranges;
}

// Copies into the top image of a chain what it would show otherwise on another backing image, or on none: then its
// header may name that one, and the guest sees the same bytes.
//
// Invariants
// - Who reads through the image sees no change, however far it has come: what it gets is what shows through it. So it
//   may be cut off anywhere and begun again, from its start or from any offset up to which all was durable.
// - What the image has itself stays, down to subclusters. What both chains find at one place of one file, or know to be
//   zeros, is neither read nor written; zeros of the one over anything of the other become zero clusters.
// - The caller holds the locks, and keeps others from the image, by a fence where there is a place for one.

import { elseClosed, ImgtxError } from "../../errors/index.ts";
import { mayShareBlocks, type Storage } from "../../storage/index.ts";
import type { GateOptions } from "../chain/open-gate.ts";
import type { Image, WritableImage } from "../image.ts";
import type { ImageFormat } from "../image-format.ts";
import { openForWriting } from "../open/open-for-writing.ts";
import { openImage } from "../open/open-image.ts";
import { Qcow2Writer } from "../qcow2/write/qcow2-writer.ts";
import { ComposedImage } from "../read/composed-image.ts";
import { COPY_OF_CHANGES, copyTelling } from "./changes-overlay.ts";
import type { CopyOptions } from "./copy.ts";
import type { HowToCopyLayers } from "./copy-layers.ts";
import { ImagePair } from "./image-pair.ts";
import { FillingImage, MissingImage } from "./missing-image.ts";

export interface CopyUp {
  /** The top image: qcow2, without internal snapshots, whose disks would change. */
  readonly into: { readonly path: string; readonly isFenced?: boolean | undefined };
  /** What it is to stand on. Undefined: on nothing. */
  readonly onto: { readonly path: string; readonly format: ImageFormat } | undefined;
  /** Whether what differs by its place alone is read on both sides, and left out where it is equal. */
  readonly leavesOutEqual: boolean;
  readonly isCompressed: boolean;
}

/** Durable when it returns. */
export async function copyUp(
  storage: Storage,
  copy: CopyUp,
  { gate, signal, throttle, onProgress, startBytes = 0, progress, above = storage }: HowToCopyLayers,
): Promise<void> {
  const views = await openViews(storage, copy, gate, above);
  const { image, source, target } = views;
  try {
    await copyTelling(source, target, onProgress, {
      ...optionsOf(views, copy),
      shares: !copy.isCompressed && (await mayShare(image)),
      signal,
      throttle,
      startBytes,
      checkpoint: progress && {
        isDue: () => progress.isDue(),
        async reach(offset) {
          await image.flush("copied up so far");
          await progress.keep(offset);
        },
      },
    });
    await image.flush("copied up");
  } finally {
    await views.close();
  }
}

export function optionsOf(
  {
    image,
    source,
  }: { readonly image: Pick<Qcow2Writer, "layout" | "layers">; readonly source: MissingImage },
  { isCompressed }: CopyUp,
): CopyOptions {
  const { clusterBytes } = image.layout;
  return {
    ...COPY_OF_CHANGES,
    compressed: isCompressed,
    clusterBytes: isCompressed ? clusterBytes : source.unitBytes,
    sparseBytes: source.unitBytes,
    backingBytes: source.virtualSizeBytes,
    ownLayers: image.layers.length,
  };
}

/** Whether data of the images below can be that of the image, and take no space. Zeros in it are kept as data then. */
async function mayShare({ layers }: Image): Promise<boolean> {
  const [own, ...below] = await Promise.all(layers.map(async ({ dataFile }) => await dataFile.stat()));
  if (!own || !mayShareBlocks(own)) return false;
  return below.every(({ fileSystem }) => fileSystem === own.fileSystem);
}

interface Views {
  readonly image: Qcow2Writer;
  /** What is to come into the image. */
  readonly source: MissingImage;
  readonly target: WritableImage;
  close(): Promise<void>;
}

async function openViews(storage: Storage, copy: CopyUp, gate: GateOptions, above: Storage): Promise<Views> {
  const { path, isFenced } = copy.into;
  const options = { format: "qcow2", gate, isExact: true, isFenced, keepsBitmaps: true } as const;
  return await elseClosed(await openForWriting(storage, path, options), async (image) => {
    if (!(image instanceof Qcow2Writer))
      throw new ImgtxError("E_INTERNAL", "it is no qcow2 image", { image: path });
    const { source, pair, close } = await lookAtMissing(above, image, copy, gate);
    const { unitBytes } = source;
    const target = new FillingImage(image, pair, { unitBytes, leavesOutEqual: copy.leavesOutEqual });
    return { image, source, target, close };
  });
}

/** What the image, which is open with its chain, would miss on what the storage has. Closing it closes the image, too. */
export async function lookAtMissing(
  storage: Storage,
  image: Image & Pick<Qcow2Writer, "layers" | "layout">,
  { onto, isCompressed }: CopyUp,
  gate: GateOptions,
): Promise<{ source: MissingImage; pair: ImagePair; close: () => Promise<void> }> {
  const below = onto && (await openImage(storage, onto.path, { format: onto.format, gate }));
  const close = async (): Promise<void> => {
    await below?.close();
    await image.close();
  };
  try {
    const [own] = image.layers;
    if (own === undefined) throw new RangeError("an image without a layer");
    const after = new ComposedImage([own, ...(below?.layers ?? [])], () => Promise.resolve());
    const pair = await ImagePair.of(image, after);
    const { clusterBytes, unitBytes } = image.layout;
    return { source: new MissingImage(pair, isCompressed ? clusterBytes : unitBytes), pair, close };
  } catch (error) {
    await below?.close();
    throw error;
  }
}

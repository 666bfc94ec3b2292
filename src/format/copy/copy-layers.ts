// Copies what the upper layers of a chain have into an image below them, in place.
//
// Invariants
// - Who reads through the upper layers sees no change, however far it has come: what they have hides what is below.
// - What is copied does not depend on what the image holds by then. So it may be cut off anywhere and begun again, from
//   its start or from any offset up to which all was durable.
// - The caller holds the locks of both, and keeps others from the image, by a fence where there is a place for one.

import { elseClosed, ImgtxError, whileOpen } from "../../errors/index.ts";
import { mayShareBlocks, type Storage } from "../../storage/index.ts";
import { type Chain, openChain } from "../chain/backing-chain.ts";
import type { GateOptions } from "../chain/open-gate.ts";
import { type Fingerprint, identityOf, settleFingerprint } from "../fingerprint.ts";
import type { Image, WritableImage } from "../image.ts";
import type { ImageFormat } from "../image-format.ts";
import { openForWriting } from "../open/open-for-writing.ts";
import { type OpenedImage, openImage } from "../open/open-image.ts";
import { Qcow2Writer } from "../qcow2/write/qcow2-writer.ts";
import { COPY_OF_CHANGES, copyTelling, type Watching } from "./changes-overlay.ts";

/** An image that is written to in place. */
export interface PlaceToCopyTo {
  readonly path: string;
  readonly format: ImageFormat;
  /** Whether a fence is up that the caller knows of, and lowers afterwards. Default: false. */
  readonly isFenced?: boolean;
  /** Whether its persistent bitmaps know of what is copied. Default: false, and they count no more. */
  readonly keepsBitmaps?: boolean;
}

export interface LayersToCopy {
  /** The image on top of what is copied: a qcow2 image, whose chain leads down to the other one. */
  readonly from: string;
  readonly into: PlaceToCopyTo;
}

export interface HowToCopyLayers extends Watching {
  readonly gate: GateOptions;
  /** All before is in the image already, durably. Default: 0. */
  readonly startBytes?: number;
  /** Asked between pieces of work. Where it is due, it is told how far the image has all, durably. */
  readonly progress?: { isDue(): boolean; keep(offset: number): Promise<void> };
  /** In which that is read which is copied, or compared with. Default: the one that the image is written in. */
  readonly above?: Storage;
  /** Whether the layers go when they are copied. Default: false. */
  readonly goes?: boolean;
}

/**
 * Durable when it returns. E_REFUSED where the chain does not lead to the image, or where that is too small for what is
 * to come into it.
 */
export async function copyLayers(
  storage: Storage,
  { from, into }: LayersToCopy,
  { gate, signal, throttle, onProgress, startBytes = 0, progress, above = storage, goes }: HowToCopyLayers,
): Promise<void> {
  const { source, ownLayers } = await openLayers(above, { from, into }, gate);
  try {
    await whileOpen(await openTarget(storage, into, gate), async (target) => {
      assertRoom(target, source);
      const shares = await mayShare(source, target, ownLayers);
      await copyTelling(source, target, onProgress, {
        ...COPY_OF_CHANGES,
        shares,
        inKernel: shares,
        signal,
        throttle,
        clusterBytes: undefined,
        backingBytes: source.virtualSizeBytes,
        ownLayers,
        goes: goes === true,
        startBytes,
        checkpoint: progress && {
          isDue: () => progress.isDue(),
          async reach(offset) {
            await target.flush("copied layers so far");
            await progress.keep(offset);
          },
        },
      });
      await target.flush("copied layers");
    });
  } finally {
    await source.close();
  }
}

/**
 * Whether both may have the same blocks: where the file system lets them, and clusters are not smaller than those of the
 * target, of which most would be put together from several all the same.
 */
async function mayShare(source: OpenedImage, target: WritableImage, ownLayers: number): Promise<boolean> {
  const own = await target.layers[0]?.dataFile.stat();
  if (!own || !mayShareBlocks(own)) return false;
  const unitBytes = target instanceof Qcow2Writer ? target.layout.clusterBytes : 0;
  for (const [depth, { dataFile }] of source.layers.slice(0, ownLayers).entries()) {
    const { clusterSizeBytes = 0 } = source.chain.links[depth]?.header ?? {};
    if (clusterSizeBytes < unitBytes || (await dataFile.stat()).fileSystem !== own.fileSystem) return false;
  }
  return true;
}

/** The chain from the upper image on, and how many of its layers stand above the lower one. */
export async function openLayers(
  storage: Storage,
  { from, into }: LayersToCopy,
  gate: GateOptions,
): Promise<{ readonly source: OpenedImage; readonly ownLayers: number }> {
  return await elseClosed(await openImage(storage, from, { format: "qcow2", gate }), async (source) => {
    const ownLayers = await findDepth(storage, source.chain, into.path);
    if (ownLayers === undefined) {
      throw new ImgtxError("E_REFUSED", `'${from}' does not stand on it, and can't be copied into it`, {
        image: into.path,
        hint: "put back the image, or a copy of it",
      });
    }
    return { source, ownLayers };
  });
}

async function findDepth(storage: Storage, { links }: Chain, path: string): Promise<number | undefined> {
  const wanted = identityOf((await storage.stat(path)) ?? { fileSystem: "", inode: "" });
  for (const [depth, { file }] of links.entries()) {
    if (depth > 0 && identityOf(await file.stat()) === wanted) return depth;
  }
  return undefined;
}

/** Throws what copying into the image would be refused for: after a commit mark it may not be. */
export async function assertCopyable(
  storage: Storage,
  image: PlaceToCopyTo,
  gate: GateOptions,
): Promise<void> {
  const target = await openTarget(storage, image, gate);
  await target.close();
}

/** E_REFUSED where somebody has made the image smaller since it was asked. */
function assertRoom({ path, virtualSizeBytes }: Image, source: Image): void {
  if (virtualSizeBytes >= source.virtualSizeBytes) return;
  throw new ImgtxError(
    "E_REFUSED",
    `the image has ${virtualSizeBytes} bytes, and what is to be copied into it ${source.virtualSizeBytes}`,
    { image: path, hint: "put back the image, or a copy of it" },
  );
}

export async function openTarget(
  storage: Storage,
  { path, ...how }: PlaceToCopyTo,
  gate: GateOptions,
): Promise<WritableImage> {
  return await openForWriting(storage, path, { ...how, gate, isExact: true });
}

/** What the image's file, and its data file where it has one, look like, once a later write would show. */
export async function lookAtFiles(
  storage: Storage,
  { path, format }: PlaceToCopyTo,
  gate: GateOptions,
): Promise<ReadonlyMap<string, Fingerprint>> {
  const chain = await openChain(storage, path, { format, gate, backing: false });
  try {
    const looks = new Map<string, Fingerprint>();
    for (const { file, fingerprint, dataFile } of chain.links) {
      looks.set(path, await settleFingerprint(storage.host, file, fingerprint));
      if (!dataFile) continue;
      looks.set(dataFile.path, await settleFingerprint(storage.host, dataFile.file, dataFile.fingerprint));
    }
    return looks;
  } finally {
    await chain.close();
  }
}

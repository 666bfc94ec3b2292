// Converting images: the guest data of one or several into a new image, or into one that is there.
//
// Invariants
// - A new target is whole, or not there: an error or an interrupt takes away what was made.
// - Sources are only read. The caller holds their locks; the target's are taken here.
// - Nothing is flushed unless the caller asks for it: qemu-img's default cache mode of convert, `unsafe`. But for what is
//   filled in place, which is made for good.

import { posix } from "node:path";
import { elseClosed, ImgtxError, whileOpen } from "../../errors/index.ts";
import { acquireImageLocks, type LockWaiting, type Storage, type StorageFile } from "../../storage/index.ts";
import type { ChainLink } from "../chain/chain-link.ts";
import { identityOf } from "../fingerprint.ts";
import { openUnfinished, writeHeadLast } from "../open/unfinished.ts";
import type { OpenedImage } from "../open/open-image.ts";
import { liftFileFence } from "../qcow2/change/fence-image.ts";
import { COPY_OF_CHANGES, copyTelling } from "./changes-overlay.ts";
import { copyBitmaps } from "./copy-bitmaps.ts";
import type { BitmapEntry } from "../qcow2/codec/bitmap.ts";
import { copyImages, type CopyOptions } from "./copy.ts";
import { cloneRaw } from "./copy-in-kernel.ts";
import type { ImagePlan } from "../new/create.ts";
import { beginImage, discardAll } from "../new/create-image.ts";
import type { Image, WritableImage } from "../image.ts";
import type { ImageFormat } from "../image-format.ts";
import { type GateOptions, openingNamed } from "../chain/open-gate.ts";
import { openForWriting } from "../open/open-for-writing.ts";
import { hasQcowMagic } from "../probe.ts";
import { AUTOCLEAR_BIT } from "../qcow2/codec/features.ts";
import type { Qcow2Header } from "../qcow2/codec/header-cluster.ts";
import { shellQuote } from "../quote-name.ts";
import { readHead, readOwnHeader } from "../read-header.ts";
import type { TargetFile } from "../new/target-file.ts";

export interface NewTarget {
  readonly path: string;
  readonly plan: ImagePlan;
  readonly dataFilePath: string | undefined;
  /** Bitmaps of the one source, to be copied too. */
  readonly bitmaps?: { readonly source: ChainLink; readonly entries: readonly BitmapEntry[] } | undefined;
  /** May share its blocks with a raw source, instead of being written. */
  readonly mayClone: boolean;
}

export interface ConvertSurroundings {
  readonly storage: Storage;
  readonly gate: GateOptions;
  readonly waiting: LockWaiting;
  /** Whether what was written is durable at the end. */
  readonly durable: boolean;
}

export type CopyRequest = Omit<CopyOptions, "clusterBytes" | "targetIsZero">;

/** An external data file that was made for a new image. */
type DataTarget = Pick<TargetFile, "path" | "file">;

/** Returns what was not heeded, one sentence each. */
export async function convertToNew(
  sources: readonly Image[],
  target: NewTarget,
  copy: CopyRequest,
  around: ConvertSurroundings,
): Promise<readonly string[]> {
  const { storage, waiting, gate } = around;
  const begun = await beginImage(storage, target.plan, { ...target, waiting, gate });
  try {
    const [own] = begun.targets;
    const isCloned = target.mayClone && (await cloneInto(sources, target.plan, own.file));
    if (!isCloned) {
      await fillImage(sources, target, { file: own.file, dataFile: begun.targets[1] }, copy, around);
    }
    const { bitmaps, path } = target;
    if (bitmaps !== undefined) {
      await copyBitmaps(bitmaps.source, bitmaps.entries, own.file, path);
    }
    if (around.durable) {
      for (const { file } of begun.targets) await file.flush("converted-image");
      for (const { path, isNew } of begun.targets) {
        if (isNew) await storage.flushFolder(posix.dirname(path), "converted-image-name");
      }
    }
    copy.signal?.throwIfAborted();
  } catch (error) {
    await discardAll(begun.targets);
    throw error;
  }
  await Promise.all(begun.targets.map(({ file }) => file.close()));
  return begun.warnings;
}

/** Makes an empty raw target a clone of its one source, where the file system shares blocks. */
export async function cloneInto(
  sources: readonly Image[],
  plan: ImagePlan,
  file: StorageFile,
): Promise<boolean> {
  const [source] = sources;
  if (source === undefined || sources.length !== 1 || plan.format !== "raw") return false;
  return cloneRaw(source, file, plan.virtualSizeBytes);
}

/** Copies into an empty image at path, whose files are open. Flushes nothing. */
export async function fillImage(
  sources: readonly Image[],
  { plan, path }: Pick<NewTarget, "plan" | "path">,
  { file, dataFile }: { readonly file: StorageFile; readonly dataFile: DataTarget | undefined },
  copy: CopyRequest,
  { storage, gate }: Pick<ConvertSurroundings, "storage" | "gate">,
): Promise<void> {
  const image = await openForWriting(storage, path, {
    format: plan.format,
    gate,
    file,
    dataFile: dataFile?.file,
    // Nobody can know of the image before it is whole, but who goes on with a copy that was cut off.
    isOrdered: copy.checkpoint !== undefined,
  });
  await whileOpen(image, async () => {
    const clusterBytes = plan.format === "raw" ? undefined : 2 ** plan.choices.clusterBits;
    // A raw image on a block device is what its last user left there.
    const isNewFile = plan.format !== "raw" || (await file.stat()).kind !== "device";
    const targetIsZero = copy.backingBytes === undefined && isNewFile;
    await copyImages(sources, image, { ...copy, clusterBytes, targetIsZero });
  });
}

export interface ExistingTarget {
  readonly path: string;
  /** Undefined: recognised. */
  readonly format: ImageFormat | undefined;
}

/** An image that is there, open for writing and locked. */
export interface OpenedTarget {
  readonly image: WritableImage;
  /** Undefined for raw. */
  readonly clusterBytes: number | undefined;
  close(): Promise<void>;
}

/**
 * Copies into an image that is there, as `-n` does, and closes it. E_FAILED where it is smaller than what is
 * to be copied.
 */
export async function convertToExisting(
  sources: readonly Image[],
  target: OpenedTarget,
  copy: Omit<CopyOptions, "clusterBytes">,
  { durable }: Pick<ConvertSurroundings, "durable">,
): Promise<void> {
  const { image, clusterBytes } = target;
  try {
    const totalBytes = sources.reduce((sum, { virtualSizeBytes }) => sum + virtualSizeBytes, 0);
    if (image.virtualSizeBytes < totalBytes) {
      throw new ImgtxError("E_FAILED", "output file is smaller than input file", { image: image.path });
    }
    await copyImages(sources, image, { ...copy, clusterBytes });
    if (durable) await image.flush("converted-image");
  } finally {
    await target.close();
  }
}

export async function openExistingTarget(
  target: ExistingTarget,
  { storage, waiting, gate }: ConvertSurroundings,
): Promise<OpenedTarget> {
  return await elseClosed(await storage.openFile(target.path, "write", openingNamed(gate)), async (file) => {
    const { format = await recognise(file) } = target;
    const locks = [{ file, role: "writer" as const }];
    await acquireImageLocks(storage, locks, waiting);
    const header = format === "raw" ? undefined : await readOwnHeader(file, target.path);
    if (header !== undefined) refuseBitmaps(header, target.path);
    const image = await openForWriting(storage, target.path, { format, gate, file });
    const clusterBytes = header?.clusterSizeBytes;
    const close = async (): Promise<void> => {
      try {
        await image.close();
      } finally {
        await file.close();
      }
    };
    return { image, clusterBytes, close };
  });
}

async function recognise(file: StorageFile): Promise<ImageFormat> {
  return hasQcowMagic(await readHead(file)) ? "qcow2" : "raw";
}

/** Bitmaps are not kept up by the writer: its first change makes them worthless, and leaks their clusters. */
function refuseBitmaps(header: Qcow2Header, path: string): void {
  if (!header.autoclearFeatures.includes(AUTOCLEAR_BIT.bitmaps)) return;
  throw new ImgtxError("E_REFUSED", "it has persistent bitmaps, which would be lost", {
    image: path,
    hint: `remove them first, with \`imgtx img bitmap --remove ${shellQuote(path)} NAME\`, or convert into a new image`,
  });
}

/** An image that was begun in place (open/unfinished.ts), and what it is to hold. */
interface Unfinished {
  readonly source: OpenedImage;
  readonly file: StorageFile;
  readonly format: ImageFormat;
}

interface HowToFill extends Pick<CopyRequest, "throttle" | "startBytes"> {
  readonly gate: GateOptions;
  /** Whether nothing was written to it since it was begun. */
  readonly isFresh: boolean;
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
  /** Asked between pieces of work. Where it is due, it is told how far the image has all, durably. */
  readonly progress: { isDue(): boolean; keep(offset: number): Promise<void> };
}

/** Copies all but what its backing image has, durably. The caller holds the locks of both, and ends it then. */
export async function fillUnfinished(
  storage: Storage,
  { source, file, format }: Unfinished,
  { gate, isFresh, throttle, startBytes = 0, onProgress, progress }: HowToFill,
): Promise<void> {
  const { virtualSizeBytes } = source;
  await whileOpen(await openUnfinished(storage, file, { format, virtualSizeBytes, gate }), async (target) => {
    await copyTelling(source, target, onProgress, {
      ...COPY_OF_CHANGES,
      ...(await partFor(source, target)),
      targetIsZero: isFresh && format === "qcow2" && target.layers.length === 1,
      clusterBytes: undefined,
      throttle,
      startBytes,
      checkpoint: {
        isDue: () => progress.isDue(),
        async reach(offset) {
          await target.flush("filled so far");
          await progress.keep(offset);
        },
      },
    });
    await target.flush("filled");
  });
}

/** Ends it, durably: from then on it is what its format says. */
export async function finishUnfinished({ source, file, format }: Unfinished): Promise<void> {
  if (format === "raw") await writeHeadLast(file, source);
  else await liftFileFence(file, "fence of a filled volume lifted");
}

/** What the image has itself: all of the source, or what stands above the image that both stand on. */
async function partFor(
  source: OpenedImage,
  target: WritableImage,
): Promise<Pick<CopyRequest, "backingBytes" | "ownLayers">> {
  const [, below] = target.layers;
  if (below === undefined) return { backingBytes: undefined };
  const wanted = identityOf(await below.dataFile.stat());
  for (const [ownLayers, { dataFile, virtualSizeBytes }] of source.layers.entries()) {
    if (identityOf(await dataFile.stat()) === wanted) return { backingBytes: virtualSizeBytes, ownLayers };
  }
  throw new ImgtxError(
    "E_REFUSED",
    `'${below.path}', which it stands on, is not in the chain of its source`,
    {
      image: target.path,
      hint: "put back the image, or a copy of it",
    },
  );
}

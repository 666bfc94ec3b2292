// Converting images: the guest data of one or several into a new image, or into one that is there.
//
// Invariants
// - A new target is whole, or not there: an error or an interrupt takes away what was made.
// - Sources are only read. The caller holds their locks; the target's are taken here.
// - Nothing is flushed unless the caller asks for it: qemu-img's default cache mode of convert, `unsafe`.

import { ImgtxError } from "../errors/index.ts";
import { acquireImageLocks, type LockWaiting, type Storage, type StorageFile } from "../storage/index.ts";
import { copyImages, type CopyOptions } from "./copy.ts";
import { cloneRaw } from "./copy-in-kernel.ts";
import type { ImagePlan } from "./create.ts";
import { beginImage, discardAll } from "./create-image.ts";
import type { Image, WritableImage } from "./image.ts";
import type { ImageFormat } from "./image-format.ts";
import type { GateOptions } from "./open-gate.ts";
import { RawTarget } from "./raw/raw-target.ts";
import type { TargetFile } from "./target-file.ts";

export interface NewTarget {
  readonly path: string;
  readonly plan: ImagePlan;
  readonly dataFilePath: string | undefined;
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

type CopyRequest = Omit<CopyOptions, "clusterBytes" | "targetIsZero">;

/** Returns what was not heeded, one sentence each. */
export async function convertToNew(
  sources: readonly Image[],
  target: NewTarget,
  copy: CopyRequest,
  around: ConvertSurroundings,
): Promise<readonly string[]> {
  const { storage, waiting } = around;
  const begun = await beginImage(storage, target.plan, { ...target, waiting });
  try {
    const [own] = begun.targets;
    const isCloned = target.mayClone && (await cloneInto(sources, target.plan, own));
    if (!isCloned) await fill(sources, target, copy, around, begun.targets);
    if (around.durable) {
      for (const { file } of begun.targets) await file.flush("converted-image");
      for (const { path, isNew } of begun.targets) {
        if (isNew) await storage.flushFolder(folderOf(path), "converted-image-name");
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

async function cloneInto(sources: readonly Image[], plan: ImagePlan, target: TargetFile): Promise<boolean> {
  const [source] = sources;
  if (source === undefined || sources.length !== 1 || plan.format !== "raw") return false;
  return cloneRaw(source, target.file, plan.virtualSizeBytes);
}

async function fill(
  sources: readonly Image[],
  { plan, path }: NewTarget,
  copy: CopyRequest,
  around: ConvertSurroundings,
  targets: readonly [TargetFile, ...TargetFile[]],
): Promise<void> {
  const [own] = targets;
  const image =
    plan.format === "raw"
      ? new RawTarget(path, own.file, plan.virtualSizeBytes)
      : await openNewQcow2(path, own, around);
  try {
    const clusterBytes = plan.format === "raw" ? undefined : 2 ** plan.choices.clusterBits;
    await copyImages(sources, image, {
      ...copy,
      clusterBytes,
      targetIsZero: copy.backingBytes === undefined,
    });
  } finally {
    await image.close();
  }
}

async function openNewQcow2(
  path: string,
  own: TargetFile,
  around: ConvertSurroundings,
): Promise<WritableImage> {
  throw new ImgtxError("E_UNSUPPORTED", "no writer yet", {
    image: path + own.path + around.gate.allowPaths.join(),
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
  { storage, waiting }: ConvertSurroundings,
): Promise<OpenedTarget> {
  const file: StorageFile = await storage.openFile(target.path, "write");
  try {
    await acquireImageLocks(storage, [{ file, role: "writer" }], waiting);
    const { sizeBytes } = await file.stat();
    const image = new RawTarget(target.path, file, Math.ceil(sizeBytes / 512) * 512);
    return { image, clusterBytes: undefined, close: () => file.close() };
  } catch (error) {
    await file.close();
    throw error;
  }
}

function folderOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/")) || "/";
}

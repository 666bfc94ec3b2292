// Making an image at a path, with its data file where it has one: durable, or not there.

import type { LockWaiting, Storage } from "../storage/index.ts";
import { type ImagePlan, writeImage } from "./create.ts";
import { openTargetFile, type TargetFile } from "./target-file.ts";

export interface NewImagePlace {
  readonly path: string;
  /** For a plan with a data file: where that is. */
  readonly dataFilePath: string | undefined;
  readonly waiting: LockWaiting;
}

/** Returns what was not heeded, one sentence each. What is at the paths is emptied. */
export async function createImage(
  storage: Storage,
  plan: ImagePlan,
  place: NewImagePlace,
): Promise<readonly string[]> {
  const made = await beginImage(storage, plan, place);
  try {
    for (const target of made.targets) await target.file.flush("new-image");
    for (const target of made.targets.filter(({ isNew }) => isNew)) {
      await storage.flushFolder(target.path.slice(0, target.path.lastIndexOf("/")) || "/", "new-image-name");
    }
  } catch (error) {
    await discardAll(made.targets);
    throw error;
  }
  await Promise.all(made.targets.map(({ file }) => file.close()));
  return made.warnings;
}

export interface BegunImage {
  /** The image's own file first. */
  readonly targets: readonly [TargetFile, ...TargetFile[]];
  readonly warnings: readonly string[];
}

/** Writes the empty image and leaves its files open, locked, and not flushed: there is more to come. */
export async function beginImage(
  storage: Storage,
  plan: ImagePlan,
  { path, dataFilePath, waiting }: NewImagePlace,
): Promise<BegunImage> {
  const own = await openTargetFile(storage, path, waiting);
  const targets: [TargetFile, ...TargetFile[]] = [own];
  try {
    if (dataFilePath !== undefined) targets.push(await openTargetFile(storage, dataFilePath, waiting));
    const warnings = await writeImage({ file: own.file, dataFile: targets[1]?.file }, plan);
    return { targets, warnings };
  } catch (error) {
    await discardAll(targets);
    throw error;
  }
}

export async function discardAll(targets: readonly TargetFile[]): Promise<void> {
  await Promise.all(targets.map((target) => target.discard()));
}

// Making an image at a path, with its data file where it has one: durable, or not there.

import { settleAll } from "../../errors/index.ts";
import { withCalls } from "../watched-file.ts";
import type { LockWaiting, Storage, StorageFile } from "../../storage/index.ts";
import type { GateOptions } from "../chain/open-gate.ts";
import { type ImagePlan, writeImage } from "./create.ts";
import { openKeptFile, openTargetFile, type TargetFile } from "./target-file.ts";

export interface NewImagePlace {
  readonly path: string;
  /** For a plan with a data file: where that is. */
  readonly dataFilePath: string | undefined;
  readonly waiting: LockWaiting;
  /** Whether the places may be block devices. Default: no. */
  readonly gate?: Pick<GateOptions, "allowsDevices">;
}

/** Returns what was not heeded, one sentence each. What is at the paths is emptied, but for a data file that is kept. */
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
  { path, dataFilePath, waiting, gate = {} }: NewImagePlace,
): Promise<BegunImage> {
  const own = await openTargetFile(storage, path, { waiting, gate });
  const targets: [TargetFile, ...TargetFile[]] = [own];
  try {
    if (dataFilePath !== undefined) {
      const isKept = plan.format === "qcow2" && plan.choices.keepDataFile;
      targets.push(await (isKept ? openKeptFile : openTargetFile)(storage, dataFilePath, { waiting, gate }));
    }
    const stopping = (target: TargetFile | undefined): StorageFile | undefined =>
      target === undefined ? undefined : interruptible(target.file, waiting.signal);
    const file = interruptible(own.file, waiting.signal);
    const warnings = await writeImage({ file, dataFile: stopping(targets[1]) }, plan);
    return { targets, warnings };
  } catch (error) {
    await discardAll(targets);
    throw error;
  }
}

/** The same file, whose writes stop at an interrupt: full preallocation writes for as long as a copy does. */
function interruptible(file: StorageFile, signal: AbortSignal | undefined): StorageFile {
  if (signal === undefined) return file;
  return withCalls(file, {
    write: async (source, offset) => {
      signal.throwIfAborted();
      await file.write(source, offset);
    },
  });
}

export async function discardAll(targets: readonly TargetFile[]): Promise<void> {
  await settleAll(targets.map((target) => target.discard()));
}

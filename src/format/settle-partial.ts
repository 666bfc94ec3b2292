// A qcow2 image whose making was cut off, and is to be gone on with.
//
// A writer that was cut off leaves sound tables and perhaps refcounts that are too high. Nobody else has the
// image yet, so these are put right before the writing goes on: a new image has no leaks.

import { ImgtxError } from "../errors/index.ts";
import type { Storage, StorageFile } from "../storage/index.ts";
import { checkQcow2 } from "./check.ts";
import type { GateOptions } from "./open-gate.ts";
import { openForWriting } from "./open-for-writing.ts";
import { Qcow2Writer } from "./writer/qcow2-writer.ts";

/** False where the image is damaged, or no image yet, and has to be begun anew. */
export async function settlePartial(
  storage: Storage,
  path: string,
  files: { readonly file: StorageFile; readonly dataFile: StorageFile | undefined },
  { gate, signal }: { readonly gate: GateOptions; readonly signal: AbortSignal | undefined },
): Promise<boolean> {
  const leaks: [number, number][] = [];
  try {
    const onLeak = (cluster: number, surplus: number): void => void leaks.push([cluster, surplus]);
    const found = await checkQcow2(files.file, () => undefined, signal, onLeak);
    if (found.corruptions > 0 || found.checkErrors > 0) return false;
    if (leaks.length > 0) await reclaim(storage, path, { ...files, gate }, leaks);
    return true;
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_CORRUPT") return false;
    throw error;
  }
}

async function reclaim(
  storage: Storage,
  path: string,
  options: { file: StorageFile; dataFile: StorageFile | undefined; gate: GateOptions },
  leaks: readonly [number, number][],
): Promise<void> {
  const image = await openForWriting(storage, path, { ...options, format: "qcow2" });
  try {
    if (image instanceof Qcow2Writer) await image.reclaim(leaks);
    await image.flush("reclaimed-clusters");
  } finally {
    await image.close();
  }
}

// A qcow2 image whose writer was cut off, and that is to be written to once more.
//
// A writer that was cut off leaves sound tables and perhaps refcounts that are too high. What they count too much
// is given back first: a new image has no leaks, and one that is written to in several attempts must not grow by
// each of them. What it failed to flush is not written by a later flush either, whatever the page cache shows.
// What it counted may lie past the end of its file, where a power cut took the data: a check looks no further than that,
// and would find it when the file has grown over it. So the file is made to reach there first.

import { ImgtxError, unlessItFails, whileOpen } from "../../../errors/index.ts";
import type { Storage, StorageFile } from "../../../storage/index.ts";
import type { ClusterIndex } from "../../../units/index.ts";
import { checkQcow2 } from "../check/check.ts";
import type { GateOptions } from "../../chain/open-gate.ts";
import { openForWriting, type WritingOptions } from "../../open/open-for-writing.ts";
import { Qcow2Writer } from "../write/qcow2-writer.ts";

interface Around {
  readonly gate: GateOptions;
  readonly signal: AbortSignal | undefined;
}

/**
 * An image that is being made, and that nobody else has yet. False where it is damaged, or no image yet, and has to
 * be begun anew.
 */
export async function tidyPartial(
  storage: Storage,
  path: string,
  files: { readonly file: StorageFile; readonly dataFile: StorageFile | undefined },
  { gate, signal }: Around,
): Promise<boolean> {
  return await tidy(storage, path, files.file, { ...files, gate }, signal);
}

/**
 * An image that others have, whose file is open for reading. All that its writer may have left in the page cache
 * alone is written once more. One that is damaged in any other way, or can't be checked, is left as it is then: what
 * leaks costs space and nothing else. keepsBitmaps: whoever goes on sees to its bitmaps. Else they count no more.
 */
export async function tidyCutOff(
  storage: Storage,
  file: StorageFile,
  { gate, signal, isFenced, keepsBitmaps }: Around & Pick<WritingOptions, "isFenced" | "keepsBitmaps">,
): Promise<void> {
  const writing = { gate, isExact: true, isFenced, keepsBitmaps };
  await change(storage, file.path, writing, async (image) => {
    await image.renewMetadata();
    await image.flush(TABLES_DURABLE);
  });
  await unlessItFails(() => tidy(storage, file.path, file, writing, signal), ["E_UNSUPPORTED"]);
}

/** Before refcounts fall: what shows that nothing refers to a cluster may be in the page cache alone. */
const TABLES_DURABLE = "tables-before-leaks-fall";

async function tidy(
  storage: Storage,
  path: string,
  file: StorageFile,
  writing: Omit<WritingOptions, "format">,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const leaks: [ClusterIndex, number][] = [];
  try {
    await change(storage, path, writing, (image) => image.reachCounted());
    const onLeak = (cluster: ClusterIndex, surplus: number): void => void leaks.push([cluster, surplus]);
    const found = await checkQcow2(file, () => undefined, signal, { onLeak });
    if (found.corruptions > 0 || found.checkErrors > 0) return false;
    if (leaks.length === 0) return true;
    await change(storage, path, writing, async (image) => {
      await image.flush(TABLES_DURABLE);
      await image.reclaim(leaks);
      await image.flush("reclaimed-clusters");
    });
    return true;
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_CORRUPT") return false;
    throw error;
  }
}

async function change(
  storage: Storage,
  path: string,
  writing: Omit<WritingOptions, "format">,
  make: (image: Qcow2Writer) => Promise<void>,
): Promise<void> {
  // No guest data is read or written: what is below may have gone.
  const image = await openForWriting(storage, path, { ...writing, format: "qcow2", backing: false });
  await whileOpen(image, async () => {
    if (image instanceof Qcow2Writer) await make(image);
  });
}

// Copies the persistent bitmaps of an image into a new one of the same size.
//
// Invariants
// - Only for an image that nobody can find yet: the header that names the bitmaps is written last, but nothing
//   is flushed in between.
// - Memory is that of one cluster of bits and of one bitmap's table at a time.

import { ImgtxError } from "../../errors/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import { type ChainLink, readLink } from "../chain/chain-link.ts";
import { type BitmapStep, changeBitmaps } from "../qcow2/change/bitmaps.ts";
import type { BitmapEntry } from "../qcow2/codec/bitmap.ts";
import { readBitmapDirectory } from "../qcow2/read/qcow2-bitmaps.ts";

/**
 * The bitmaps to copy. E_FAILED, in qemu-img's words, for one that is inconsistent, unless onBroken takes note
 * of it: then it is left out.
 */
export async function listBitmapsToCopy(
  source: ChainLink,
  onBroken: ((name: string) => void) | undefined,
): Promise<readonly BitmapEntry[]> {
  const bitmaps = await readBitmapDirectory(source);
  // QEMU looks at the last one first.
  for (const { isInUse, name } of bitmaps.toReversed()) {
    if (!isInUse) continue;
    if (onBroken === undefined) {
      throw new ImgtxError("E_REFUSED", `Cannot copy inconsistent bitmap '${name}'`, {
        field: "bitmap_directory",
      });
    }
    onBroken(name);
  }
  return bitmaps.filter(({ isInUse }) => !isInUse);
}

/** Into an image that is written and closed, whose file is still open. */
export async function copyBitmaps(
  source: ChainLink,
  bitmaps: readonly BitmapEntry[],
  file: StorageFile,
  path: string,
): Promise<void> {
  if (bitmaps.length === 0) return;
  const { link } = await readLink(file, await file.stat(), { path, format: "qcow2", overlayPath: undefined });
  if (link.header?.version === 2) {
    const name = bitmaps[0]?.name ?? "";
    const message = `Failed to create bitmap ${name}: Cannot store dirty bitmaps in qcow2 v2 files`;
    throw new ImgtxError("E_FAILED", message);
  }
  const steps = bitmaps.flatMap(({ name, granularityBits, isAuto }): BitmapStep[] => [
    { kind: "add", name, granularityBytes: 2 ** granularityBits, isDisabled: !isAuto },
    { kind: "merge", name, from: name, source },
  ]);
  await changeBitmaps(link, steps, { isNew: true });
}

// Whether QEMU opens a chain whose guest data can be read: it judges internal snapshots and bitmaps as it opens
// an image, also of one that others only stand on. And what of a chain its files do not have, which QEMU opens
// without a word.

import { ImgtxError } from "../../errors/index.ts";
import type { Chain, ChainLink } from "../chain/backing-chain.ts";
import type { ImageWarning } from "../chain/chain-link.ts";
import { requireFit } from "../qcow2/check/check-bitmaps.ts";
import { readBitmapDirectory } from "../qcow2/read/qcow2-bitmaps.ts";
import { readSnapshotTable } from "../qcow2/read/qcow2-snapshots.ts";
import { shellQuote } from "../quote-name.ts";
import { findMissing } from "../qcow2/check/require-counted.ts";

/** E_CORRUPT, with the image and what repairs it, for a chain that a guest could not be started on. */
export async function requireOpenable({ links }: Pick<Chain, "links">): Promise<void> {
  for (const link of links) {
    try {
      await requireSoundDirectories(link);
    } catch (error) {
      if (!(error instanceof ImgtxError && error.code === "E_CORRUPT")) throw error;
      throw error.reworded(`QEMU does not open it: ${error.message}`, {
        image: link.path,
        hint:
          `\`qemu-img check -r all ${shellQuote(link.path)}\` may repair it; ` +
          `\`imgtx img convert -O qcow2 ${shellQuote(link.path)} COPY\` copies what a guest sees of it`,
      });
    }
  }
}

async function requireSoundDirectories(link: ChainLink): Promise<void> {
  const { header } = link;
  if (header === undefined) return;
  if (header.nbSnapshots > 0) await readSnapshotTable(link);
  for (const bitmap of await readBitmapDirectory(link)) requireFit(bitmap, header);
}

/** What the files of a chain do not have. Reads all metadata. */
export async function findCutOffImages({ links }: Pick<Chain, "links">): Promise<readonly ImageWarning[]> {
  const found: ImageWarning[] = [];
  for (const { path, file, header } of links) {
    if (header === undefined || header.missingTables.length > 0) continue;
    const missing = await findMissing(file);
    if (missing) found.push({ code: "not whole", image: path, ...missing });
  }
  return found;
}

// How much of a disk each image of a workspace has data for, as strips. Reads tables, and takes no lock: a guest that
// writes meanwhile may be shown by halves.

import { gateOf, readTable, trustedBy } from "../../device/index.ts";
import { ImgtxError, whileOpen } from "../../errors/index.ts";
import { measureStrips, openImage } from "../../format/index.ts";
import type { OnProgress, Session } from "../requests/request.ts";
import type { TreeImage } from "../describe/tree.ts";

export interface Allocation {
  readonly image: string;
  /** Of each of so many equal parts of the disk the share that the image has data for, 0 to 1; none: it can't be read. */
  readonly strip: readonly number[];
  /** Why not, as a sentence; null: it can. */
  readonly problem: string | null;
}

/** Of each image by itself, whatever it stands on. One that can't be read hides no other. */
export async function measureAllocation(
  session: Session,
  images: readonly Pick<TreeImage, "image" | "format">[],
  { parts, onProgress, signal }: { parts: number; onProgress?: OnProgress; signal?: AbortSignal },
): Promise<readonly Allocation[]> {
  const { workspace, currentFolder } = session;
  const table = await readTable(workspace);
  const allowPaths = [...table.allowPaths, ...table.devices.flatMap(trustedBy)];
  const gate = gateOf(workspace, { allowPaths, currentFolder });
  const found: Allocation[] = [];
  for (const [index, { image: path, format }] of images.entries()) {
    signal?.throwIfAborted();
    onProgress?.("measuring allocation", index, images.length);
    try {
      const image = await openImage(workspace.storage, path, { format, gate, backing: false });
      await whileOpen(image, async () => {
        const [strip = []] = await measureStrips(image, parts, signal);
        found.push({ image: path, strip, problem: null });
      });
    } catch (error) {
      if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL" || signal?.aborted) throw error;
      found.push({ image: path, strip: [], problem: error.message });
    }
  }
  return found;
}

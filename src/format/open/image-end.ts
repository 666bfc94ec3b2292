// How far a qcow2 image on a block device has come: a file tells that by its length, a device does not.
//
// Invariant: nothing is written, and no more is read than the refcount table and its blocks; of the image's end the last
// block alone that counts anything.

import { whileOpen } from "../../errors/index.ts";
import type { Storage } from "../../storage/index.ts";
import { clusterIndex, offsetBy, startOf } from "../../units/index.ts";
import { MetadataMap } from "../qcow2/write/metadata-map.ts";
import { Refcounts } from "../qcow2/write/refcounts.ts";
import { readOwnHeader } from "../read-header.ts";

/** How much room there is in a volume for further clusters, between those of the image and after them. E_CORRUPT as below. */
export async function measureImageRoom(storage: Storage, path: string): Promise<number> {
  return await withRefcounts(storage, path, async (refcounts, { clusterSizeBytes, sizeBytes }) => {
    const end = clusterIndex(Math.floor(sizeBytes / clusterSizeBytes));
    let free = 0;
    for (let at = clusterIndex(0); at < end; ) {
      at = await refcounts.findFree(at, end);
      const run = at < end ? await refcounts.countFree(at, end - at) : 0;
      free += run;
      at = offsetBy(at, run);
    }
    return free * clusterSizeBytes;
  });
}

/** Where the last cluster ends that is counted, as `check` has it; leaks count too. E_CORRUPT for what is no such image. */
export async function measureImageEnd(storage: Storage, path: string): Promise<number> {
  return await withRefcounts(storage, path, async (refcounts, { clusterSizeBytes }) =>
    startOf(await refcounts.findUsedEnd(), clusterSizeBytes),
  );
}

async function withRefcounts<T>(
  storage: Storage,
  path: string,
  use: (refcounts: Refcounts, size: { clusterSizeBytes: number; sizeBytes: number }) => Promise<T>,
): Promise<T> {
  return await whileOpen(await storage.openFile(path, "read", { mayBeDevice: true }), async (file) => {
    const header = await readOwnHeader(file, path);
    const metadata = new MetadataMap(path, header.clusterSizeBytes);
    const { sizeBytes } = await file.stat();
    const refcounts = await Refcounts.open({ path, file, header, metadata, isOrdered: false }, sizeBytes);
    return await use(refcounts, { clusterSizeBytes: header.clusterSizeBytes, sizeBytes });
  });
}

// How far a qcow2 image on a block device has come: a file tells that by its length, a device does not.
//
// Invariant: nothing is written, and no more is read than the refcount table and the last block that counts anything.

import type { Storage } from "../../storage/index.ts";
import { startOf } from "../../units/index.ts";
import { MetadataMap } from "../qcow2/write/metadata-map.ts";
import { Refcounts } from "../qcow2/write/refcounts.ts";
import { readOwnHeader } from "../read-header.ts";

/** Where the last cluster ends that is counted, as `check` has it; leaks count too. E_CORRUPT for what is no such image. */
export async function measureImageEnd(storage: Storage, path: string): Promise<number> {
  const file = await storage.openFile(path, "read", { mayBeDevice: true });
  try {
    const header = await readOwnHeader(file, path);
    const metadata = new MetadataMap(path, header.clusterSizeBytes);
    const { sizeBytes } = await file.stat();
    const refcounts = await Refcounts.open({ path, file, header, metadata, isOrdered: false }, sizeBytes);
    return startOf(await refcounts.findUsedEnd(), header.clusterSizeBytes);
  } finally {
    await file.close();
  }
}

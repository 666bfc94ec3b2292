// A digest of all that is in a file with little data, by which it can be told later whether it is still what it was.
//
// Invariant: zeros count the same whether they are stored or a hole. A copy of the file, or another file system, has
// the same digest for the same bytes.

import { alignDown, alignUp } from "../../units/index.ts";
import { createHash } from "node:crypto";
import type { StorageFile } from "../../storage/index.ts";
import { isZero } from "./zero-blocks.ts";

/** Of data. A new overlay has some 12 KiB, whatever its size; a copy of a disk has more than anybody wants to read twice. */
const LIMIT_BYTES = 1024 * 1024;
const BLOCK_BYTES = 4096;

/** SHA-256 in hex; null where the file has too much data for that. */
export async function digestContent(file: StorageFile): Promise<string | null> {
  const { sizeBytes } = await file.stat();
  let dataBytes = 0;
  const hash = createHash("sha256").update(`${sizeBytes}\n`);
  for (let at = await file.seekData(0); at !== undefined && at < sizeBytes; ) {
    const start = alignDown(at, BLOCK_BYTES);
    const hole = Math.min(await file.seekHole(at), sizeBytes);
    const end = Math.min(alignUp(hole, BLOCK_BYTES), sizeBytes);
    dataBytes += end - start;
    if (dataBytes > LIMIT_BYTES) return null;
    const bytes = new Uint8Array(end - start);
    await file.read(bytes, start);
    for (let block = 0; block < bytes.length; block += BLOCK_BYTES) {
      const content = bytes.subarray(block, block + BLOCK_BYTES);
      if (!isZero(content)) hash.update(`${start + block}\n`).update(content);
    }
    at = end >= sizeBytes ? undefined : await file.seekData(end);
  }
  return hash.digest("hex");
}

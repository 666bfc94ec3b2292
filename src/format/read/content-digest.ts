// A digest of all that is in a file with little data, by which it can be told later whether it is still what it was.
//
// Invariant: zeros count the same whether they are stored or a hole. A copy of the file, or another file system, has
// the same digest for the same bytes.

import { alignDown, alignUp } from "../../units/index.ts";
import { createHash } from "node:crypto";
import { ReusedBytes, type StorageFile } from "../../storage/index.ts";
import { type Fingerprint, fingerprintOpened } from "../fingerprint.ts";
import { readHead } from "../read-header.ts";
import { isZero } from "./zero-blocks.ts";

/** Of data. A new overlay has some 12 KiB, whatever its size; a copy of a disk has more than anybody wants to read twice. */
const LIMIT_BYTES = 1024 * 1024;
const BLOCK_BYTES = 4096;

/** SHA-256 in hex; null where the file has too much data for that. */
export async function digestContent(file: StorageFile): Promise<string | null> {
  const { sizeBytes } = await file.stat();
  return await digestAll(file, sizeBytes, undefined);
}

/** The same of a file that was just made, with its fingerprint: nothing of it is asked for twice. */
export async function takeContent(
  file: StorageFile,
  hasHeader: boolean,
): Promise<{ readonly fingerprint: Fingerprint; readonly contentSha256: string | null }> {
  const stat = await file.stat();
  const head = hasHeader ? await readHead(file) : undefined;
  const contentSha256 = await digestAll(file, stat.sizeBytes, head);
  return { fingerprint: await fingerprintOpened(file, stat, head), contentSha256 };
}

/** head: the first bytes, where they were read already. */
async function digestAll(
  file: StorageFile,
  sizeBytes: number,
  head: Uint8Array | undefined,
): Promise<string | null> {
  let dataBytes = 0;
  const room = new ReusedBytes();
  const read = async (start: number, end: number): Promise<Uint8Array> => {
    if (head && end <= head.length) return head.subarray(start, end);
    const bytes = room.take(end - start);
    return bytes.fill(0, await file.read(bytes, start));
  };
  const hash = createHash("sha256").update(`${sizeBytes}\n`);
  for (let at = await file.seekData(0); at !== undefined && at < sizeBytes; ) {
    const start = alignDown(at, BLOCK_BYTES);
    const hole = Math.min(await file.seekHole(at), sizeBytes);
    const end = Math.min(alignUp(hole, BLOCK_BYTES), sizeBytes);
    dataBytes += end - start;
    if (dataBytes > LIMIT_BYTES) return null;
    const bytes = await read(start, end);
    for (let block = 0; block < bytes.length; block += BLOCK_BYTES) {
      const content = bytes.subarray(block, block + BLOCK_BYTES);
      if (!isZero(content)) hash.update(`${start + block}\n`).update(content);
    }
    at = end >= sizeBytes ? undefined : await file.seekData(end);
  }
  return hash.digest("hex");
}

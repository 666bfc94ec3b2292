// Reads the header cluster of an image file, in one read for almost every image.

import { ImgtxError } from "../errors/index.ts";
import type { StorageFile } from "../storage/index.ts";
import type { Tolerance } from "./qcow2/codec/header-tables.ts";
import { hasQcowMagic, PROBE_TAIL_BYTES, probeFormat, type ProbedFormat } from "./probe.ts";
import { decodeHeaderCluster, measureHeaderCluster, type Qcow2Header } from "./qcow2/codec/header-cluster.ts";

/** QEMU's header, its extensions and a long backing file name fit into this. */
export const HEAD_BYTES = 4096;

const HINT_CORRUPT = "restore the image from a copy";
const HINT_UNSUPPORTED = "use the tool that made the image, or a version of imgtx that knows what it uses";

/** The first bytes of a file: HEAD_BYTES, or all of it where it is shorter. */
export async function readHead(file: Pick<StorageFile, "read">): Promise<Uint8Array> {
  return readBytes(file, 0, HEAD_BYTES);
}

export async function readBytes(
  file: Pick<StorageFile, "read">,
  offset: number,
  lengthBytes: number,
): Promise<Uint8Array> {
  const buffer = new Uint8Array(lengthBytes);
  return buffer.subarray(0, await file.read(buffer, offset));
}

/** What the file's content looks like. Its end is read only where its head, from readHead, tells nothing. */
export async function probeFile(
  file: StorageFile,
  head: Uint8Array,
  fileSizeBytes: number,
): Promise<ProbedFormat | undefined> {
  if (hasQcowMagic(head)) return probeFormat(head);
  const start = Math.max(0, fileSizeBytes - PROBE_TAIL_BYTES);
  const tail =
    fileSizeBytes > HEAD_BYTES ? await readBytes(file, start, PROBE_TAIL_BYTES) : head.subarray(start);
  return probeFormat(head, tail);
}

/** The header of a file that is known to be a qcow2 image. */
export async function readOwnHeader(
  file: StorageFile,
  path: string,
  tolerance: Tolerance = {},
): Promise<Qcow2Header> {
  const { sizeBytes } = await file.stat();
  return readQcow2Header(file, await readHead(file), sizeBytes, path, tolerance);
}

/**
 * Decodes the header of a qcow2 image. head is what readHead gave; more is read (at most one cluster) only
 * where extensions or the backing file name reach further. Errors name the image by path. Where tables may lack,
 * the caller judges missingTables.
 */
export async function readQcow2Header(
  file: StorageFile,
  head: Uint8Array,
  fileSizeBytes: number,
  path: string,
  tolerance: Tolerance = {},
): Promise<Qcow2Header> {
  const lengthBytes = measureHeaderCluster(head);
  const bytes = lengthBytes > head.length ? await readBytes(file, 0, lengthBytes) : head;
  try {
    return decodeHeaderCluster(bytes, fileSizeBytes, tolerance);
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    throw error.with({ image: path, hint: error.code === "E_CORRUPT" ? HINT_CORRUPT : HINT_UNSUPPORTED });
  }
}

// The first cluster of an image with another header, other extensions, or another backing file name.

import type { StorageFile } from "../../../storage/index.ts";
import { hostOffset } from "../../../units/index.ts";
import { readHead } from "../../read-header.ts";
import {
  encodeHeaderCluster,
  type HeaderCluster,
  measureHeaderCluster,
  type Qcow2Header,
} from "../codec/header-cluster.ts";

/** The bytes that the header takes with these parts in the place of its own. Undefined where they do not fit a cluster. */
export function encodeChangedHeader(
  header: Qcow2Header,
  change: Partial<HeaderCluster>,
): Uint8Array | undefined {
  const { extensions } = header;
  const whole: HeaderCluster = {
    fields: header,
    extensions,
    backingFileName: header.backingFileName,
    ...change,
  };
  // The place of an empty name, or of one that goes, would end the extensions there.
  const nowhere = { backingFileOffset: hostOffset(0), backingFileSize: 0 };
  const fields = whole.backingFileName === undefined ? { ...whole.fields, ...nowhere } : whole.fields;
  return encodeHeaderCluster({ ...whole, fields });
}

/** Writes them in the place of the old ones: what stood past their new end, such as a longer name's tail, goes. */
export async function writeHeader(
  file: Pick<StorageFile, "read" | "write">,
  header: Qcow2Header,
  bytes: Uint8Array,
): Promise<void> {
  await file.write(await inPlaceOf(file, header, bytes), 0);
}

/** The first bytes of the file where these take the place of its header. */
export async function inPlaceOf(
  file: Pick<StorageFile, "read">,
  { clusterSizeBytes }: Qcow2Header,
  bytes: Uint8Array,
): Promise<Uint8Array> {
  const usedBytes = measureHeaderCluster(await readHead(file));
  const whole = new Uint8Array(Math.max(bytes.length, Math.min(usedBytes, clusterSizeBytes)));
  whole.set(bytes);
  return whole;
}

// The header as a check needs it: also of an image whose tables can't be where the header says, since that is
// what the check is to tell.
//
// Invariant: the limits on sizes hold here too, as they do in QEMU; only whether tables lie inside the file, and
// clear of each other, is left to the check. What the file lacks reads as zeros.

import { ImgtxError } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import { findUnknownIncompatibleBits, INCOMPATIBLE_BIT } from "../codec/features.ts";
import { decodeHeader, type HeaderFields } from "../codec/header.ts";
import { decodeHeaderCluster, decodeOwnExtensions, measureHeaderCluster } from "../codec/header-cluster.ts";
import { findExtension, type HeaderExtension } from "../codec/header-extension.ts";
import {
  BACKING_NAME_BYTES_MAX,
  countL1Entries,
  L1_TABLE_BYTES_MAX,
  REFCOUNT_TABLE_BYTES_MAX,
  TABLE_ENTRY_BYTES,
} from "../codec/limits.ts";
import { readBytes, readHead } from "../../read-header.ts";

export interface CheckHeader extends HeaderFields {
  readonly extensions: readonly HeaderExtension[];
}

/** E_CORRUPT and E_UNSUPPORTED with offset and field, for what QEMU would not check either. */
export async function readCheckHeader(file: StorageFile, fileSizeBytes: number): Promise<CheckHeader> {
  const head = await readHead(file);
  const lengthBytes = measureHeaderCluster(head);
  const bytes = lengthBytes > head.length ? await readBytes(file, 0, lengthBytes) : head;
  try {
    return decodeHeaderCluster(bytes, fileSizeBytes);
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code !== "E_CORRUPT") throw error;
    return decodeLeniently(bytes, error);
  }
}

// refusal: why the header can't be true. It stands where QEMU refuses the image too.
function decodeLeniently(bytes: Uint8Array, refusal: ImgtxError): CheckHeader {
  const fields = decodeHeader(bytes);
  const clusterSizeBytes = 2 ** fields.clusterBits;
  if (fields.cryptMethod !== 0 || findUnknownIncompatibleBits(fields.incompatibleFeatures).length > 0) {
    throw refusal;
  }
  const { l1Size, refcountTableClusters, l1TableOffset, refcountTableOffset } = fields;
  const extendedL2 = fields.incompatibleFeatures.includes(INCOMPATIBLE_BIT.extendedL2);
  const isPossible =
    l1Size * TABLE_ENTRY_BYTES <= L1_TABLE_BYTES_MAX &&
    l1Size >= countL1Entries(fields.size, fields.clusterBits, extendedL2) &&
    refcountTableClusters * clusterSizeBytes <= REFCOUNT_TABLE_BYTES_MAX &&
    l1TableOffset % clusterSizeBytes === 0 &&
    refcountTableOffset % clusterSizeBytes === 0 &&
    fields.snapshotsOffset % clusterSizeBytes === 0 &&
    fields.backingFileOffset <= clusterSizeBytes &&
    fields.backingFileSize <= maxBackingNameBytes(fields);
  if (!isPossible) throw refusal;
  const extensions = decodeOwnExtensions(bytes, fields);
  if (FIELDS_BEFORE_CHECK.has(refusal.field ?? "")) throw refusal;
  const needsDataFile = fields.incompatibleFeatures.includes(INCOMPATIBLE_BIT.externalDataFile);
  if (needsDataFile && findExtension(extensions, "dataFile") === undefined) throw refusal;
  return { ...fields, extensions };
}

function maxBackingNameBytes({ backingFileOffset, clusterBits }: HeaderFields): number {
  if (backingFileOffset === 0) return Number.POSITIVE_INFINITY;
  return Math.min(BACKING_NAME_BYTES_MAX, 2 ** clusterBits - backingFileOffset);
}

/** What is wrong with these, QEMU finds before it checks anything. */
const FIELDS_BEFORE_CHECK: ReadonlySet<string> = new Set([
  "autoclear_features",
  "backing_file_size",
  "bitmap_directory_offset",
  "bitmap_directory_size",
  "nb_bitmaps",
]);

// Everything in the first cluster of a qcow2 image: the header, its extensions, and the backing file name.
//
// Invariants
// - Pure. A Qcow2Header that decode returned has passed every check that needs no more than cluster 0 and
//   the length of the file: whoever holds one may take memory for its tables, but for those in missingTables.
// - decode accepts images that imgtx must not change (dirty, corrupt, encrypted, features it does not know):
//   they can still be described. require-supported.ts is for those who read guest data or build on it.

import { ImgtxError } from "../../../errors/index.ts";
import type { FeatureName } from "./features.ts";
import { AUTOCLEAR_BIT, COMPATIBLE_BIT, INCOMPATIBLE_BIT } from "./features.ts";
import {
  decodeHeader,
  encodeHeader,
  HEADER_AT,
  HEADER_LENGTH_V2,
  type HeaderFields,
  QCOW2_MAGIC,
} from "./header.ts";
import {
  decodeExtensions,
  decodeName,
  encodeExtensions,
  encodeName,
  EXTENSION_TYPE,
  findExtension,
  type HeaderExtension,
  roundUpTo8,
} from "./header-extension.ts";
import { type Changer, findChanger } from "./fence.ts";
import { checkTables, type MissingTable, type Tolerance } from "./header-tables.ts";
import { BACKING_NAME_BYTES_MAX, CLUSTER_BITS_MAX, CLUSTER_BITS_MIN } from "./limits.ts";

/** The fields under their specification names, and what follows from them under plain ones. */
export interface Qcow2Header extends HeaderFields {
  readonly extensions: readonly HeaderExtension[];
  /** As stored; undefined where the image has no backing file. */
  readonly backingFileName: string | undefined;
  /** As stored in the backing format extension; undefined where it is missing or empty. */
  readonly backingFormat: string | undefined;
  /** Undefined where the image has no external data file, or does not name it. */
  readonly dataFileName: string | undefined;
  readonly featureNames: readonly FeatureName[];
  /** Tables that end past the end of the file: QEMU reads zeros there. None of almost every image. */
  readonly missingTables: readonly MissingTable[];
  /** The refcount table is not there, or lies on something else. Only where that was asked for to be let pass. */
  readonly lacksRefcounts: boolean;
  readonly clusterSizeBytes: number;
  readonly refcountBits: number;
  readonly hasExtendedL2: boolean;
  readonly hasExternalDataFile: boolean;
  readonly hasRawExternalData: boolean;
  readonly hasLazyRefcounts: boolean;
  /** The dirty bit: refcounts may be behind; reading is safe, writing needs a repair first. */
  readonly isDirty: boolean;
  /** The corrupt bit: must not be written to. */
  readonly isCorrupt: boolean;
  /** The bit of imgtx's own: frozen, and must not be written to. */
  readonly isFenced: boolean;
  /** Of an image that is fenced for a change: whose. It may be half changed, unless that one's journal ends it. */
  readonly changer: string | undefined;
  /** Whether the image was begun by that one, and never whole. */
  readonly isUnfinished: boolean;
  /**
   * Of an image that is merged into: by whom, and how many layers. By itself it shows a part of that, and through some of
   * them; all of them show what they did.
   */
  readonly merger: Pick<Changer, "id" | "layers"> | undefined;
}

/**
 * How many bytes from the start of the file decodeHeaderCluster needs to see, judged from the first ones:
 * at most a cluster. Trusts nothing, and throws nothing: what is wrong, decode says.
 */
export function measureHeaderCluster(prefix: Uint8Array): number {
  const view = new DataView(prefix.buffer, prefix.byteOffset, prefix.byteLength);
  if (prefix.length < HEADER_AT.compressionType || view.getUint32(HEADER_AT.magic) !== QCOW2_MAGIC)
    return prefix.length;
  const clusterBits = view.getUint32(HEADER_AT.clusterBits);
  if (clusterBits < CLUSTER_BITS_MIN || clusterBits > CLUSTER_BITS_MAX) return prefix.length;
  const clusterSizeBytes = 2 ** clusterBits;
  const backingFileOffset = Number(view.getBigUint64(HEADER_AT.backingFileOffset));
  const nameEnd = backingFileOffset === 0 ? 0 : backingFileOffset + view.getUint32(HEADER_AT.backingFileSize);
  const areaEnd = Math.min(backingFileOffset || clusterSizeBytes, clusterSizeBytes);
  let offset =
    view.getUint32(HEADER_AT.version) === 2 ? HEADER_LENGTH_V2 : view.getUint32(HEADER_AT.headerLength);
  while (offset < areaEnd) {
    if (offset + 8 > prefix.length) return clusterSizeBytes;
    const type = view.getUint32(offset);
    const length = view.getUint32(offset + 4);
    offset += 8 + roundUpTo8(length);
    if (type === EXTENSION_TYPE.end) break;
  }
  return Math.min(Math.max(offset, nameEnd), clusterSizeBytes);
}

/**
 * Decodes the header cluster from its first bytes (as many as measureHeaderCluster asked for).
 * E_CORRUPT and E_UNSUPPORTED carry offset and field; the caller adds the image. A table past the end of the file
 * is E_CORRUPT, unless tables may lack: then missingTables has it.
 */
export function decodeHeaderCluster(
  bytes: Uint8Array,
  fileSizeBytes: number,
  tolerance: Tolerance = {},
): Qcow2Header {
  const fields = decodeHeader(bytes);
  const clusterSizeBytes = 2 ** fields.clusterBits;
  checkBackingName(fields, clusterSizeBytes);
  const extensions = decodeOwnExtensions(bytes, fields);
  const judged = checkTables(fields, extensions, fileSizeBytes, tolerance);
  return describeHeader(fields, { extensions, ...judged }, decodeBackingName(bytes, fields));
}

/** The extensions between the header of these fields and what ends them. E_CORRUPT with offset and field. */
export function decodeOwnExtensions(bytes: Uint8Array, fields: HeaderFields): readonly HeaderExtension[] {
  const { headerLength, backingFileOffset, clusterBits } = fields;
  const limit =
    backingFileOffset === 0
      ? ({ end: 2 ** clusterBits, endedBy: "cluster" } as const)
      : ({ end: backingFileOffset, endedBy: "backing file name" } as const);
  return decodeExtensions(bytes, headerLength, limit).extensions;
}

export interface HeaderCluster {
  readonly fields: HeaderFields;
  readonly extensions: readonly HeaderExtension[];
  readonly backingFileName: string | undefined;
}

/**
 * The used bytes of cluster 0, for a header whose backing name fields may still be unset: the name goes
 * right past the extensions, where QEMU puts it. Undefined where it all does not fit a cluster.
 */
export function encodeHeaderCluster(cluster: HeaderCluster): Uint8Array | undefined {
  const { fields, extensions, backingFileName } = cluster;
  const area = encodeExtensions(extensions);
  const name = encodeName(backingFileName ?? "");
  const nameOffset = fields.headerLength + area.length;
  const lengthBytes = nameOffset + name.length;
  if (lengthBytes > 2 ** fields.clusterBits) return undefined;
  const placed: HeaderFields =
    backingFileName === undefined
      ? fields
      : {
          ...fields,
          backingFileOffset: nameOffset as HeaderFields["backingFileOffset"],
          backingFileSize: name.length,
        };
  const bytes = new Uint8Array(lengthBytes);
  bytes.set(encodeHeader(placed), 0);
  bytes.set(area, fields.headerLength);
  bytes.set(name, nameOffset);
  return bytes;
}

function describeHeader(
  fields: HeaderFields,
  {
    extensions,
    missingTables,
    lacksRefcounts,
  }: Pick<Qcow2Header, "extensions" | "missingTables" | "lacksRefcounts">,
  backingFileName: string | undefined,
): Qcow2Header {
  const hasExternalDataFile = fields.incompatibleFeatures.includes(INCOMPATIBLE_BIT.externalDataFile);
  const featureNames = findExtension(extensions, "featureNames")?.names ?? [];
  const isFenced = fields.incompatibleFeatures.includes(INCOMPATIBLE_BIT.fence);
  const changer = isFenced ? findChanger(featureNames) : undefined;
  // The fields last: after them each further one would cost more than all of the decoding.
  return {
    extensions,
    missingTables,
    lacksRefcounts,
    backingFileName,
    backingFormat: findExtension(extensions, "backingFormat")?.format || undefined,
    dataFileName: hasExternalDataFile ? findExtension(extensions, "dataFile")?.name : undefined,
    featureNames,
    clusterSizeBytes: 2 ** fields.clusterBits,
    refcountBits: 2 ** fields.refcountOrder,
    hasExtendedL2: fields.incompatibleFeatures.includes(INCOMPATIBLE_BIT.extendedL2),
    hasExternalDataFile,
    hasRawExternalData: fields.autoclearFeatures.includes(AUTOCLEAR_BIT.rawExternalData),
    hasLazyRefcounts: fields.compatibleFeatures.includes(COMPATIBLE_BIT.lazyRefcounts),
    isDirty: fields.incompatibleFeatures.includes(INCOMPATIBLE_BIT.dirty),
    isCorrupt: fields.incompatibleFeatures.includes(INCOMPATIBLE_BIT.corrupt),
    isFenced,
    changer: changer?.purpose === "merging" ? undefined : changer?.id,
    isUnfinished: changer?.purpose === "filling",
    merger: changer?.purpose === "merging" ? changer : undefined,
    ...fields,
  };
}

function checkBackingName(fields: HeaderFields, clusterSizeBytes: number): void {
  const { backingFileOffset, backingFileSize, headerLength } = fields;
  if (backingFileOffset === 0) return;
  if (backingFileOffset < headerLength || backingFileOffset > clusterSizeBytes) {
    throw new ImgtxError(
      "E_CORRUPT",
      "Invalid backing file offset: the name must lie in the header cluster",
      {
        field: "backing_file_offset",
        offset: HEADER_AT.backingFileOffset,
      },
    );
  }
  const room = Math.min(BACKING_NAME_BYTES_MAX, clusterSizeBytes - backingFileOffset);
  if (backingFileSize > room) {
    throw new ImgtxError(
      "E_CORRUPT",
      `Backing file name too long: it has ${backingFileSize} bytes, and there is room for ${room}`,
      { field: "backing_file_size", offset: HEADER_AT.backingFileSize },
    );
  }
}

function decodeBackingName(bytes: Uint8Array, fields: HeaderFields): string | undefined {
  const { backingFileOffset, backingFileSize } = fields;
  if (backingFileOffset === 0 || backingFileSize === 0) return undefined;
  const end = backingFileOffset + backingFileSize;
  if (end > bytes.length) {
    throw new ImgtxError("E_CORRUPT", "the image ends inside its backing file name", {
      field: "backing_file_size",
      offset: bytes.length,
    });
  }
  return decodeName(bytes.subarray(backingFileOffset, end), "backing file name", backingFileOffset);
}

// The fixed header of a qcow2 image (qcow2 specification, "Header" and "Additional fields").
//
// Invariants
// - Pure: bytes in, fields out, and back. What decode accepts, encode gives back byte for byte.
// - Each field has its specification's name in camelCase. Additional fields that this version does not know
//   are kept as they are.
// - decode checks what one field says by itself. Whether the tables lie inside the file, and clear of each
//   other, is header-tables.ts; extensions and the backing file name are header-cluster.ts.

import { ImgtxError } from "../../../errors/index.ts";
import type { HostOffset } from "../../../units/index.ts";
import { hostOffset, safeNumber } from "../../../units/index.ts";
import { decodeFeatureBits, encodeFeatureBits, INCOMPATIBLE_BIT } from "./features.ts";
import {
  CLUSTER_BITS_MAX,
  CLUSTER_BITS_MIN,
  CLUSTER_BITS_MIN_EXTENDED_L2,
  REFCOUNT_ORDER_MAX,
} from "./limits.ts";

export const QCOW2_MAGIC = 0x514649fb;
export const HEADER_LENGTH_V2 = 72;
const HEADER_LENGTH_V3_MIN = 104;
/** What QEMU writes today: the fields up to compression_type, padded to a multiple of 8. */
export const HEADER_LENGTH_V3 = 112;

/** Where each field lies, in bytes from the start of the file. The last one may be missing. */
export const HEADER_AT = {
  magic: 0,
  version: 4,
  backingFileOffset: 8,
  backingFileSize: 16,
  clusterBits: 20,
  size: 24,
  cryptMethod: 32,
  l1Size: 36,
  l1TableOffset: 40,
  refcountTableOffset: 48,
  refcountTableClusters: 56,
  nbSnapshots: 60,
  snapshotsOffset: 64,
  incompatibleFeatures: 72,
  compatibleFeatures: 80,
  autoclearFeatures: 88,
  refcountOrder: 96,
  headerLength: 100,
  compressionType: 104,
} as const;

const COMPRESSION_TYPES: Readonly<Record<number, string>> = { 0: "zlib", 1: "zstd" };

/** Sizes in bytes and offsets into the image file. Feature masks are ascending lists of bits. */
export interface HeaderFields {
  readonly version: 2 | 3;
  /** 0 where the image has no backing file. */
  readonly backingFileOffset: HostOffset;
  readonly backingFileSize: number;
  readonly clusterBits: number;
  /** Virtual size in bytes. */
  readonly size: number;
  readonly cryptMethod: number;
  /** Entries in the active L1 table. */
  readonly l1Size: number;
  readonly l1TableOffset: HostOffset;
  readonly refcountTableOffset: HostOffset;
  readonly refcountTableClusters: number;
  readonly nbSnapshots: number;
  readonly snapshotsOffset: HostOffset;
  readonly incompatibleFeatures: readonly number[];
  readonly compatibleFeatures: readonly number[];
  readonly autoclearFeatures: readonly number[];
  readonly refcountOrder: number;
  readonly headerLength: number;
  /** 0 is zlib, 1 is zstd. */
  readonly compressionType: number;
  /** Whatever follows compression_type up to headerLength: padding, or fields of a later specification. */
  readonly furtherFields: Uint8Array;
}

/**
 * Decodes the header at the start of bytes, which must hold all of it (headerLength).
 * E_CORRUPT with offset and field; E_UNSUPPORTED for a version or a size that imgtx can't handle.
 */
export function decodeHeader(bytes: Uint8Array): HeaderFields {
  requireLength(bytes, HEADER_LENGTH_V2);
  const view = viewOf(bytes);
  if (view.getUint32(HEADER_AT.magic) !== QCOW2_MAGIC) {
    throw corrupt("the image is not in qcow2 format: its magic is missing", "magic", HEADER_AT.magic);
  }
  const version = decodeVersion(view.getUint32(HEADER_AT.version));
  const clusterBits = view.getUint32(HEADER_AT.clusterBits);
  if (clusterBits < CLUSTER_BITS_MIN || clusterBits > CLUSTER_BITS_MAX) {
    const allowed = `${CLUSTER_BITS_MIN} to ${CLUSTER_BITS_MAX}`;
    throw corrupt(
      `cluster size is 2^${clusterBits}; the exponent must be ${allowed}`,
      "cluster_bits",
      HEADER_AT.clusterBits,
    );
  }
  const further = version === 2 ? FIELDS_OF_VERSION_2 : decodeVersion3(bytes, clusterBits);
  // Field by field: a group decodes hundreds of headers, and spreading one object into another is slow.
  return {
    version,
    backingFileOffset: readOffset(view, HEADER_AT.backingFileOffset, "backing_file_offset"),
    backingFileSize: view.getUint32(HEADER_AT.backingFileSize),
    clusterBits,
    size: decodeSize(view.getBigUint64(HEADER_AT.size)),
    cryptMethod: view.getUint32(HEADER_AT.cryptMethod),
    l1Size: view.getUint32(HEADER_AT.l1Size),
    l1TableOffset: readOffset(view, HEADER_AT.l1TableOffset, "l1_table_offset"),
    refcountTableOffset: readOffset(view, HEADER_AT.refcountTableOffset, "refcount_table_offset"),
    refcountTableClusters: view.getUint32(HEADER_AT.refcountTableClusters),
    nbSnapshots: view.getUint32(HEADER_AT.nbSnapshots),
    snapshotsOffset: readOffset(view, HEADER_AT.snapshotsOffset, "snapshots_offset"),
    incompatibleFeatures: further.incompatibleFeatures,
    compatibleFeatures: further.compatibleFeatures,
    autoclearFeatures: further.autoclearFeatures,
    refcountOrder: further.refcountOrder,
    headerLength: further.headerLength,
    compressionType: further.compressionType,
    furtherFields: further.furtherFields,
  };
}

type Version3Fields = Pick<
  HeaderFields,
  | "incompatibleFeatures"
  | "compatibleFeatures"
  | "autoclearFeatures"
  | "refcountOrder"
  | "headerLength"
  | "compressionType"
  | "furtherFields"
>;

/** What the specification has a version 2 header mean where it has no field. */
export const FIELDS_OF_VERSION_2: Version3Fields = {
  incompatibleFeatures: [],
  compatibleFeatures: [],
  autoclearFeatures: [],
  refcountOrder: 4,
  headerLength: HEADER_LENGTH_V2,
  compressionType: 0,
  furtherFields: new Uint8Array(0),
};

function decodeVersion3(bytes: Uint8Array, clusterBits: number): Version3Fields {
  requireLength(bytes, HEADER_LENGTH_V3_MIN);
  const view = viewOf(bytes);
  const incompatibleFeatures = decodeFeatureBits(view, HEADER_AT.incompatibleFeatures);
  const refcountOrder = view.getUint32(HEADER_AT.refcountOrder);
  const headerLength = view.getUint32(HEADER_AT.headerLength);
  if (headerLength < HEADER_LENGTH_V3_MIN || headerLength % 8 !== 0 || headerLength > 2 ** clusterBits) {
    throw corrupt(
      `header length is ${headerLength}; it must be a multiple of 8 from ${HEADER_LENGTH_V3_MIN} to the cluster size`,
      "header_length",
      HEADER_AT.headerLength,
    );
  }
  requireLength(bytes, headerLength);
  if (refcountOrder > REFCOUNT_ORDER_MAX) {
    throw corrupt(
      `refcount width is 2^${refcountOrder} bits; at most 64 are allowed`,
      "refcount_order",
      HEADER_AT.refcountOrder,
    );
  }
  const hasCompressionType = headerLength > HEADER_AT.compressionType;
  const compressionType = hasCompressionType ? view.getUint8(HEADER_AT.compressionType) : 0;
  checkCompressionType(compressionType, incompatibleFeatures);
  const extendedL2 = incompatibleFeatures.includes(INCOMPATIBLE_BIT.extendedL2);
  if (extendedL2 && clusterBits < CLUSTER_BITS_MIN_EXTENDED_L2) {
    throw corrupt(
      "extended L2 entries need clusters of at least 16384 bytes",
      "cluster_bits",
      HEADER_AT.clusterBits,
    );
  }
  return {
    incompatibleFeatures,
    compatibleFeatures: decodeFeatureBits(view, HEADER_AT.compatibleFeatures),
    autoclearFeatures: decodeFeatureBits(view, HEADER_AT.autoclearFeatures),
    refcountOrder,
    headerLength,
    compressionType,
    furtherFields: bytes.slice(
      hasCompressionType ? HEADER_AT.compressionType + 1 : headerLength,
      headerLength,
    ),
  };
}

/** The headerLength bytes of the header. RangeError where the fields contradict each other: a bug. */
export function encodeHeader(fields: HeaderFields): Uint8Array {
  const bytes = new Uint8Array(fields.headerLength);
  const view = viewOf(bytes);
  view.setUint32(HEADER_AT.magic, QCOW2_MAGIC);
  view.setUint32(HEADER_AT.version, fields.version);
  view.setBigUint64(HEADER_AT.backingFileOffset, BigInt(fields.backingFileOffset));
  view.setUint32(HEADER_AT.backingFileSize, fields.backingFileSize);
  view.setUint32(HEADER_AT.clusterBits, fields.clusterBits);
  view.setBigUint64(HEADER_AT.size, BigInt(fields.size));
  view.setUint32(HEADER_AT.cryptMethod, fields.cryptMethod);
  view.setUint32(HEADER_AT.l1Size, fields.l1Size);
  view.setBigUint64(HEADER_AT.l1TableOffset, BigInt(fields.l1TableOffset));
  view.setBigUint64(HEADER_AT.refcountTableOffset, BigInt(fields.refcountTableOffset));
  view.setUint32(HEADER_AT.refcountTableClusters, fields.refcountTableClusters);
  view.setUint32(HEADER_AT.nbSnapshots, fields.nbSnapshots);
  view.setBigUint64(HEADER_AT.snapshotsOffset, BigInt(fields.snapshotsOffset));
  if (fields.version === 2) {
    if (fields.headerLength !== HEADER_LENGTH_V2) throw new RangeError("a version 2 header has 72 bytes");
    return bytes;
  }
  view.setBigUint64(HEADER_AT.incompatibleFeatures, encodeFeatureBits(fields.incompatibleFeatures));
  view.setBigUint64(HEADER_AT.compatibleFeatures, encodeFeatureBits(fields.compatibleFeatures));
  view.setBigUint64(HEADER_AT.autoclearFeatures, encodeFeatureBits(fields.autoclearFeatures));
  view.setUint32(HEADER_AT.refcountOrder, fields.refcountOrder);
  view.setUint32(HEADER_AT.headerLength, fields.headerLength);
  if (fields.headerLength > HEADER_AT.compressionType) {
    view.setUint8(HEADER_AT.compressionType, fields.compressionType);
    bytes.set(fields.furtherFields, HEADER_AT.compressionType + 1);
  }
  return bytes;
}

function decodeVersion(version: number): 2 | 3 {
  if (version === 2 || version === 3) return version;
  throw new ImgtxError("E_UNSUPPORTED", `Unsupported qcow2 version ${version}`, {
    field: "version",
    offset: HEADER_AT.version,
  });
}

function decodeSize(word: bigint): number {
  const size = safeNumber(word);
  if (size !== undefined) return size;
  if (word >= 2n ** 63n) throw corrupt("the virtual size exceeds 2^63 bytes", "size", HEADER_AT.size);
  throw new ImgtxError("E_UNSUPPORTED", "the virtual size exceeds 8 PiB, the most that imgtx handles", {
    field: "size",
    offset: HEADER_AT.size,
  });
}

function checkCompressionType(type: number, incompatibleFeatures: readonly number[]): void {
  if (COMPRESSION_TYPES[type] === undefined) {
    throw new ImgtxError("E_UNSUPPORTED", `unknown compression type ${type}`, {
      field: "compression_type",
      offset: HEADER_AT.compressionType,
    });
  }
  const hasBit = incompatibleFeatures.includes(INCOMPATIBLE_BIT.compressionType);
  if (hasBit === (type !== 0)) return;
  const must = hasBit ? "must not" : "must";
  throw corrupt(
    `the compression type is ${COMPRESSION_TYPES[type]}, so its incompatible feature bit ${must} be set`,
    "compression_type",
    HEADER_AT.compressionType,
  );
}

function readOffset(view: DataView, at: number, field: string): HostOffset {
  const offset = safeNumber(view.getBigUint64(at));
  if (offset === undefined) throw corrupt(`${field} points past the end of any file`, field, at);
  return hostOffset(offset);
}

function requireLength(bytes: Uint8Array, lengthBytes: number): void {
  if (bytes.length >= lengthBytes) return;
  throw corrupt("the image ends inside its header", "header_length", bytes.length);
}

function corrupt(message: string, field: string, offset: number): ImgtxError {
  return new ImgtxError("E_CORRUPT", message, { field, offset });
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The field of the virtual size, in bytes. */
export function encodeSize(sizeBytes: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(sizeBytes));
  return bytes;
}

/** How many entries, and where: l1_size and l1_table_offset, or nb_snapshots and snapshots_offset, in one sector. */
export function encodeTablePlace(entries: number, place: number): Uint8Array {
  const bytes = new Uint8Array(12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, entries);
  view.setBigUint64(4, BigInt(place));
  return bytes;
}

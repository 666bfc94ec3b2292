// What `create` lets a user choose, under the names of qemu-img's options, and what follows from a choice.
//
// Invariant: refusals are E_USAGE in qemu-img's words, found in qemu-img's order, before a file is made.

import { alignUp, SECTOR_BYTES } from "../../units/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import type { ImageFormat, Preallocation } from "../image-format.ts";
import {
  BACKING_NAME_BYTES_MAX,
  CLUSTER_BITS_MAX,
  CLUSTER_BITS_MIN,
  CLUSTER_BITS_MIN_EXTENDED_L2,
  REFCOUNT_ORDER_MAX,
} from "../qcow2/codec/limits.ts";

/** Words are taken as the user gave them; what they can't be is refused here. What is left out has its default. */
export interface CreateOptions {
  /** cluster_size. Default 65536. */
  readonly clusterSizeBytes?: number | undefined;
  /** `0.10` (or v2), `1.1` (or v3). */
  readonly compat?: string | undefined;
  readonly lazyRefcounts?: boolean | undefined;
  /** Default 16. */
  readonly refcountBits?: number | undefined;
  /** `off`, `metadata`, `falloc`, `full`. */
  readonly preallocation?: string | undefined;
  readonly extendedL2?: boolean | undefined;
  /** `zlib`, `zstd`. */
  readonly compressionType?: string | undefined;
  /** Stored as it is. The caller makes the file. */
  readonly dataFileName?: string | undefined;
  readonly dataFileRaw?: boolean | undefined;
  /** The data file is there, and stays as it is. */
  readonly keepDataFile?: boolean | undefined;
  /** Stored as it is. Whether it is there is the caller's to check. */
  readonly backingFileName?: string | undefined;
  readonly backingFormat?: string | undefined;
  readonly noCow?: boolean | undefined;
  /** extent_size_hint. 0 disables. Default: 1 MiB, where the file system takes it. */
  readonly extentSizeHintBytes?: number | undefined;
}

/** Options of a qcow2 image with every default filled in. */
export interface Qcow2Choices {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly refcountOrder: number;
  readonly lazyRefcounts: boolean;
  readonly preallocation: Preallocation;
  readonly extendedL2: boolean;
  readonly compressionType: "zlib" | "zstd";
  readonly dataFileName: string | undefined;
  readonly dataFileRaw: boolean;
  readonly keepDataFile: boolean;
  readonly backingFileName: string | undefined;
  readonly backingFormat: string | undefined;
}

const DEFAULT_CLUSTER_SIZE_BYTES = 65_536;
const NEEDS_VERSION_3 = "compatibility level 1.1 and above (use version=v3 or greater)";

/** Options that only qcow2 has, by qemu-img's names. */
const QCOW2_ONLY = {
  clusterSizeBytes: "cluster_size",
  compat: "compat",
  lazyRefcounts: "lazy_refcounts",
  refcountBits: "refcount_bits",
  extendedL2: "extended_l2",
  compressionType: "compression_type",
  dataFileName: "data_file",
  dataFileRaw: "data_file_raw",
  keepDataFile: "keep_data_file",
} as const;

/** E_USAGE for what a raw image can't have. */
export function chooseRawPreallocation(options: CreateOptions): Preallocation {
  if (options.backingFileName !== undefined || options.backingFormat !== undefined) {
    throw usage("Backing file not supported for file format 'raw'", "backing_file");
  }
  for (const [key, name] of Object.entries(QCOW2_ONLY)) {
    if (options[key as keyof typeof QCOW2_ONLY] !== undefined) {
      throw usage(`Invalid parameter '${name}'`, name);
    }
  }
  const preallocation = parsePreallocation(options.preallocation);
  if (preallocation === "metadata") {
    throw usage("Unsupported preallocation mode: metadata", "preallocation");
  }
  return preallocation;
}

/** E_USAGE for choices that qcow2 doesn't have, or that exclude each other. */
export function chooseQcow2Choices(options: CreateOptions): Qcow2Choices {
  const { dataFileName, backingFileName, backingFormat } = options;
  const version = parseVersion(options.compat);
  const preallocation = parsePreallocation(options.preallocation);
  const compressionType = parseCompressionType(options.compressionType);
  const extendedL2 = options.extendedL2 ?? false;
  const dataFileRaw = options.dataFileRaw ?? false;
  const lazyRefcounts = options.lazyRefcounts ?? false;
  if (extendedL2 && version === 2) {
    throw usage(`Extended L2 entries are only supported with ${NEEDS_VERSION_3}`, "extended_l2");
  }
  const clusterBits = chooseClusterBits(options.clusterSizeBytes, extendedL2);
  checkBacking(options, preallocation, extendedL2);
  if (lazyRefcounts && version === 2) {
    throw usage(`Lazy refcounts only supported with ${NEEDS_VERSION_3}`, "lazy_refcounts");
  }
  const refcountOrder = chooseRefcountOrder(options.refcountBits, version, " (use version=v3 or greater)");
  if (dataFileRaw && dataFileName === undefined) {
    throw usage("data-file-raw requires data-file", "data_file_raw");
  }
  if (dataFileRaw && backingFileName !== undefined) {
    throw usage("Backing file and data-file-raw cannot be used at the same time", "data_file_raw");
  }
  if (dataFileName !== undefined && version === 2) {
    throw usage(`External data files are only supported with ${NEEDS_VERSION_3}`, "data_file");
  }
  if (options.keepDataFile) checkKept(options, preallocation);
  if (compressionType !== "zlib" && version === 2) {
    throw usage(`Non-zlib compression type is only supported with ${NEEDS_VERSION_3}`, "compression_type");
  }
  return {
    version,
    clusterBits,
    refcountOrder,
    lazyRefcounts,
    // The data file can be read without looking at the tables, which then have to say the same.
    preallocation: dataFileRaw && preallocation === "off" ? "metadata" : preallocation,
    extendedL2,
    compressionType,
    dataFileName,
    dataFileRaw,
    keepDataFile: options.keepDataFile ?? false,
    backingFileName,
    backingFormat,
  };
}

/** What is in the file is shown by tables that say so, and by nothing else. */
function checkKept({ dataFileName, dataFileRaw }: CreateOptions, preallocation: Preallocation): void {
  const refuse = (message: string): ImgtxError => usage(message, "keep_data_file");
  if (dataFileName === undefined) throw refuse("Must not use 'keep_data_file=on' without 'data_file'");
  if (preallocation === "falloc" || preallocation === "full") {
    throw refuse(
      "Preallocating more than only metadata would overwrite the external data file's content and is therefore " +
        "incompatible with 'keep_data_file=on'",
    );
  }
  if (preallocation === "off" && dataFileRaw !== true) {
    throw refuse(
      "'keep_data_file=on' requires 'preallocation=metadata' or 'data_file_raw=on', or the file contents will not be " +
        "visible",
    );
  }
}

function checkBacking(options: CreateOptions, preallocation: Preallocation, extendedL2: boolean): void {
  const { backingFileName, backingFormat } = options;
  if (backingFileName !== undefined && preallocation !== "off" && !extendedL2) {
    throw usage(
      "Backing file and preallocation can only be used at the same time if extended_l2 is on",
      "preallocation",
    );
  }
  if (backingFormat !== undefined && backingFileName === undefined) {
    throw usage("Backing format cannot be used without backing file", "backing_fmt");
  }
  const nameBytes = new TextEncoder().encode(backingFileName ?? "").length;
  if (nameBytes > BACKING_NAME_BYTES_MAX) {
    throw usage(`Backing file name too long: ${nameBytes} bytes of at most 1023`, "backing_file");
  }
}

function parseVersion(compat: string | undefined): 2 | 3 {
  if (compat === undefined || compat === "1.1" || compat === "v3") return 3;
  if (compat === "0.10" || compat === "v2") return 2;
  throw usage(`Parameter 'version' does not accept value '${compat}'`, "compat");
}

function parsePreallocation(mode: string | undefined): Preallocation {
  if (mode === undefined) return "off";
  if (mode === "off" || mode === "metadata" || mode === "falloc" || mode === "full") return mode;
  throw usage(`Parameter 'preallocation' does not accept value '${mode}'`, "preallocation");
}

function parseCompressionType(type: string | undefined): "zlib" | "zstd" {
  if (type === undefined || type === "zlib") return "zlib";
  if (type === "zstd") return "zstd";
  throw usage(`Parameter 'compression-type' does not accept value '${type}'`, "compression_type");
}

/** Default: 64 KiB. E_USAGE for a size that no cluster has, or none with extended L2 entries. */
export function chooseClusterBits(clusterSizeBytes = DEFAULT_CLUSTER_SIZE_BYTES, extendedL2 = false): number {
  const clusterBits = Math.log2(clusterSizeBytes);
  if (!Number.isInteger(clusterBits) || clusterBits < CLUSTER_BITS_MIN || clusterBits > CLUSTER_BITS_MAX) {
    throw usage("Cluster size must be a power of two between 512 and 2048k", "cluster_size");
  }
  if (extendedL2 && clusterBits < CLUSTER_BITS_MIN_EXTENDED_L2) {
    throw usage(
      "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
      "extended_l2",
    );
  }
  return clusterBits;
}

/** Default: 16 bits. E_USAGE for a width that no refcount has, or none in the version; advice says how to ask for a newer one. */
export function chooseRefcountOrder(refcountBits = 16, version: 2 | 3 = 3, advice = ""): number {
  const order = Math.log2(refcountBits);
  if (!Number.isInteger(order) || order < 0 || order > REFCOUNT_ORDER_MAX) {
    throw usage("Refcount width must be a power of two and may not exceed 64 bits", "refcount_bits");
  }
  if (version === 2 && refcountBits !== 16) {
    throw usage(
      `Different refcount widths than 16 bits require compatibility level 1.1 or above${advice}`,
      "refcount_bits",
    );
  }
  return order;
}

/** How large the image gets: as asked, else as large as what it stands on; rounded up to a multiple of 512. */
export function chooseVirtualSize(
  virtualSizeBytes: number | undefined,
  backingSizeBytes: number | undefined,
): number {
  const sizeBytes = virtualSizeBytes ?? backingSizeBytes;
  if (sizeBytes === undefined) throw usage("Image creation needs a size parameter", "size");
  return alignUp(sizeBytes, SECTOR_BYTES);
}

export function imageTooLarge(format: ImageFormat): ImgtxError {
  const hint = format === "qcow2" ? " (try using a larger cluster size)" : "";
  return new ImgtxError("E_UNSUPPORTED", `The image size is too large for file format '${format}'${hint}`, {
    field: "size",
  });
}

function usage(message: string, field: string): ImgtxError {
  return new ImgtxError("E_USAGE", message, { field });
}

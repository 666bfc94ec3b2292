// How a new overlay is laid out: what the user chose, else what the image below has, else QEMU's defaults.
//
// Invariant: only what somebody chose is refused. An inherited property that a chosen one rules out gives way.

import { ImgtxError } from "../../errors/index.ts";
import type { Qcow2Header } from "../qcow2/codec/header-cluster.ts";
import { CLUSTER_BITS_MAX, CLUSTER_BITS_MIN, CLUSTER_BITS_MIN_EXTENDED_L2 } from "../qcow2/codec/limits.ts";

/** What a user may choose; what is left out is inherited. `compat` names the version as qemu-img does. */
export interface OverlayOptions {
  readonly clusterSizeBytes?: number | undefined;
  readonly refcountBits?: number | undefined;
  readonly extendedL2?: boolean | undefined;
  readonly compat?: "0.10" | "1.1" | undefined;
}

export interface OverlayLayout {
  readonly version: 2 | 3;
  readonly clusterSizeBytes: number;
  readonly refcountBits: number;
  readonly extendedL2: boolean;
}

/** What an overlay inherits of the qcow2 image below. */
export type InheritableLayout = Pick<
  Qcow2Header,
  "version" | "clusterSizeBytes" | "refcountBits" | "hasExtendedL2"
>;

const DEFAULT_CLUSTER_SIZE_BYTES = 65_536;
const DEFAULT_REFCOUNT_BITS = 16;

/** header: that of the image below; undefined for raw. E_USAGE, in qemu-img's words, for a choice that can't be. */
export function settleLayout(header: InheritableLayout | undefined, options: OverlayOptions): OverlayLayout {
  checkChoices(options);
  const clusterSizeBytes =
    options.clusterSizeBytes ??
    (options.extendedL2 === true
      ? Math.max(header?.clusterSizeBytes ?? DEFAULT_CLUSTER_SIZE_BYTES, 2 ** CLUSTER_BITS_MIN_EXTENDED_L2)
      : (header?.clusterSizeBytes ?? DEFAULT_CLUSTER_SIZE_BYTES));
  const needsVersion3 = options.extendedL2 === true || (options.refcountBits ?? 16) !== 16;
  const version = settleVersion(header, options, needsVersion3);
  if (version === 2) return { version, clusterSizeBytes, refcountBits: 16, extendedL2: false };
  const mayExtend = clusterSizeBytes >= 2 ** CLUSTER_BITS_MIN_EXTENDED_L2;
  return {
    version,
    clusterSizeBytes,
    refcountBits: options.refcountBits ?? header?.refcountBits ?? DEFAULT_REFCOUNT_BITS,
    extendedL2: options.extendedL2 ?? (mayExtend && (header?.hasExtendedL2 ?? false)),
  };
}

function settleVersion(
  header: InheritableLayout | undefined,
  options: OverlayOptions,
  needsVersion3: boolean,
): 2 | 3 {
  if (options.compat !== undefined) return options.compat === "0.10" ? 2 : 3;
  return needsVersion3 ? 3 : (header?.version ?? 3);
}

function checkChoices(options: OverlayOptions): void {
  const { clusterSizeBytes, refcountBits, extendedL2, compat } = options;
  const clusterBits = clusterSizeBytes === undefined ? CLUSTER_BITS_MIN : Math.log2(clusterSizeBytes);
  if (!Number.isInteger(clusterBits) || clusterBits < CLUSTER_BITS_MIN || clusterBits > CLUSTER_BITS_MAX) {
    throw usage("Cluster size must be a power of two between 512 and 2048k");
  }
  if (refcountBits !== undefined && ![1, 2, 4, 8, 16, 32, 64].includes(refcountBits)) {
    throw usage("Refcount width must be a power of two and may not exceed 64 bits");
  }
  if (compat === "0.10" && extendedL2 === true) {
    throw usage("Extended L2 entries are only supported with compatibility level 1.1 and above");
  }
  if (compat === "0.10" && (refcountBits ?? 16) !== 16) {
    throw usage("Different refcount widths than 16 bits require compatibility level 1.1 or above");
  }
  const tooSmall = clusterSizeBytes !== undefined && clusterBits < CLUSTER_BITS_MIN_EXTENDED_L2;
  if (extendedL2 === true && tooSmall) {
    throw usage("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes");
  }
}

function usage(message: string): ImgtxError {
  return new ImgtxError("E_USAGE", message);
}

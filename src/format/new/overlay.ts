// A new, empty qcow2 overlay: a new image (create.ts) laid out as the user chose, else as the image below is, else
// by QEMU's defaults.
//
// Invariants
// - Only what somebody chose is refused. An inherited property that a chosen one rules out gives way.
// - Not inherited are lazy refcounts, since a crash would leave the overlay dirty, and the compression type, since
//   nothing is compressed.

import { ImgtxError } from "../../errors/index.ts";
import { requirePlainPath, requireStorableName } from "../chain/backing-name.ts";
import type { ImageFormat } from "../image-format.ts";
import type { Qcow2Header } from "../qcow2/codec/header-cluster.ts";
import { CLUSTER_BITS_MIN_EXTENDED_L2 } from "../qcow2/codec/limits.ts";
import { planQcow2Image, type Qcow2ImagePlan } from "./create.ts";
import {
  type Qcow2Choices,
  chooseClusterBits,
  chooseRefcountOrder,
  chooseVirtualSize,
} from "./create-options.ts";

/** What a user may choose; what is left out is inherited. `compat` names the version as qemu-img does. */
export interface OverlayOptions {
  readonly clusterSizeBytes?: number | undefined;
  readonly refcountBits?: number | undefined;
  readonly extendedL2?: boolean | undefined;
  readonly compat?: "0.10" | "1.1" | undefined;
}

/** What an overlay inherits of the qcow2 image below. */
export type InheritableLayout = Pick<
  Qcow2Header,
  "version" | "clusterSizeBytes" | "refcountBits" | "hasExtendedL2"
>;

export interface OverlayRequest {
  /** The image that the overlay stands on. A chain link will do. */
  readonly backing: {
    readonly path: string;
    /** Undefined for raw: nothing to inherit. */
    readonly header: InheritableLayout | undefined;
  };
  /** Rounded up to a multiple of 512. */
  readonly virtualSizeBytes: number;
  /** The backing file name as it will be stored. */
  readonly backingName: string;
  readonly backingFormat: ImageFormat;
  readonly options: OverlayOptions;
}

/**
 * Plans an overlay. E_USAGE for options that contradict each other or the format, E_UNSUPPORTED for a
 * virtual size or a name that the layout can't hold.
 */
export async function planOverlay(request: OverlayRequest): Promise<Qcow2ImagePlan> {
  const { backing, backingName, backingFormat, options } = request;
  requirePlainPath(backingName, backing.path);
  requireStorableName(backingName, backing.path);
  const choices: Qcow2Choices = {
    ...chooseLayout(backing.header, options),
    lazyRefcounts: false,
    preallocation: "off",
    compressionType: "zlib",
    dataFileName: undefined,
    dataFileRaw: false,
    keepDataFile: false,
    backingFileName: backingName,
    backingFormat,
  };
  const virtualSizeBytes = chooseVirtualSize(request.virtualSizeBytes, undefined);
  try {
    const hints = { noCow: false, extentSizeHintBytes: 0, extentSizeIsChosen: false };
    return await planQcow2Image(virtualSizeBytes, choices, hints);
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    if (error.field !== "backing_file_name") throw error.with({ image: backing.path });
    const [nameBytes, clusterBytes] = [
      new TextEncoder().encode(backingName).length,
      2 ** choices.clusterBits,
    ];
    throw error.reworded(
      `Backing file name too long: its ${nameBytes} bytes do not fit a header cluster of ${clusterBytes}`,
      { image: backing.path, field: "backing_file_size", hint: "choose larger clusters, or use --relative" },
    );
  }
}

/** header: that of the image below; undefined for raw. */
function chooseLayout(
  header: InheritableLayout | undefined,
  { clusterSizeBytes, refcountBits, extendedL2, compat }: OverlayOptions,
): Pick<Qcow2Choices, "version" | "clusterBits" | "refcountOrder" | "extendedL2"> {
  const inherited = Math.log2(header?.clusterSizeBytes ?? 2 ** chooseClusterBits());
  const leastBits = extendedL2 === true ? CLUSTER_BITS_MIN_EXTENDED_L2 : 0;
  const clusterBits =
    clusterSizeBytes === undefined
      ? Math.max(inherited, leastBits)
      : chooseClusterBits(clusterSizeBytes, extendedL2);
  const needsVersion3 = extendedL2 === true || (refcountBits ?? 16) !== 16;
  const version =
    compat === undefined ? (needsVersion3 ? 3 : (header?.version ?? 3)) : compat === "0.10" ? 2 : 3;
  const chosenOrder = chooseRefcountOrder(refcountBits, version);
  if (version === 2) {
    if (extendedL2 !== true) return { version, clusterBits, refcountOrder: chosenOrder, extendedL2: false };
    throw new ImgtxError(
      "E_USAGE",
      "Extended L2 entries are only supported with compatibility level 1.1 and above",
    );
  }
  const refcountOrder = refcountBits === undefined ? Math.log2(header?.refcountBits ?? 16) : chosenOrder;
  const mayExtend = clusterBits >= CLUSTER_BITS_MIN_EXTENDED_L2;
  return {
    version,
    clusterBits,
    refcountOrder,
    extendedL2: extendedL2 ?? (mayExtend && (header?.hasExtendedL2 ?? false)),
  };
}

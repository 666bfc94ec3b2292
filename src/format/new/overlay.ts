// A new, empty qcow2 overlay: planned as plain data, then written.
//
// Invariants
// - The image is complete before anybody can find it: writeOverlay flushes nothing and names nothing; the
//   caller flushes the file, then its folder, before anything refers to it.
// - Layout as qemu-img's: header in cluster 0, refcount table from cluster 1, refcount blocks behind it, the
//   L1 table last. Each of these clusters has refcount 1, the refcount structures themselves included.
// - What reads as zeros is a hole. An empty L1 table is all zeros, so an overlay takes a few blocks on disk
//   whatever its virtual size.

import { ImgtxError } from "../../errors/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import { hostOffset } from "../../units/index.ts";
import { requirePlainPath, requireStorableName } from "../chain/backing-name.ts";
import type { ImageFormat } from "../image-format.ts";
import {
  type InheritableLayout,
  type OverlayLayout,
  type OverlayOptions,
  settleLayout,
} from "./overlay-options.ts";
import { INCOMPATIBLE_BIT, KNOWN_FEATURES } from "../qcow2/codec/features.ts";
import { FIELDS_OF_VERSION_2, HEADER_LENGTH_V3, type HeaderFields } from "../qcow2/codec/header.ts";
import { encodeHeaderCluster } from "../qcow2/codec/header-cluster.ts";
import type { HeaderExtension } from "../qcow2/codec/header-extension.ts";
import {
  countL1Entries,
  L1_TABLE_BYTES_MAX,
  SECTOR_BYTES,
  TABLE_ENTRY_BYTES,
} from "../qcow2/codec/limits.ts";
import { countBlockEntries, encodeRefcountTable, encodeUsedClusters } from "../qcow2/codec/refcount-table.ts";

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

/** Plain data, which writes the same bytes on every run. */
export interface OverlayPlan extends OverlayLayout {
  readonly virtualSizeBytes: number;
  readonly backingName: string;
  readonly backingFormat: ImageFormat;
  readonly l1Size: number;
  /** Clusters of the refcount table, of refcount blocks, and of the L1 table. */
  readonly refcountTableClusters: number;
  readonly refcountBlocks: number;
  readonly l1Clusters: number;
  readonly fileSizeBytes: number;
  /** The header with its extensions and the backing file name. */
  readonly headerBytes: Uint8Array;
}

type OverlayPlaces = Omit<OverlayPlan, "headerBytes">;

/**
 * Plans an overlay. E_USAGE for options that contradict each other or the format, E_UNSUPPORTED for a
 * virtual size or a name that the layout can't hold.
 */
export function planOverlay(request: OverlayRequest): OverlayPlan {
  const { backing, backingName, backingFormat, options } = request;
  const layout = settleLayout(backing.header, options);
  const virtualSizeBytes = Math.ceil(request.virtualSizeBytes / SECTOR_BYTES) * SECTOR_BYTES;
  const l1Size = countL1Entries(virtualSizeBytes, Math.log2(layout.clusterSizeBytes), layout.extendedL2);
  const l1Bytes = l1Size * TABLE_ENTRY_BYTES;
  if (l1Bytes > L1_TABLE_BYTES_MAX) {
    throw new ImgtxError(
      "E_UNSUPPORTED",
      "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
      { image: backing.path, field: "l1_size" },
    );
  }
  requirePlainPath(backingName, backing.path, "backing_file_name");
  requireStorableName(backingName, backing.path);
  const clusters = placeTables(layout, Math.ceil(l1Bytes / layout.clusterSizeBytes));
  const l1Start = (1 + clusters.refcountTableClusters + clusters.refcountBlocks) * layout.clusterSizeBytes;
  const places: OverlayPlaces = {
    ...layout,
    ...clusters,
    virtualSizeBytes,
    backingName,
    backingFormat,
    l1Size,
    fileSizeBytes: l1Start + l1Bytes,
  };
  const headerBytes = encodePlannedHeader(places);
  if (headerBytes === undefined) {
    const nameBytes = new TextEncoder().encode(backingName).length;
    throw new ImgtxError(
      "E_UNSUPPORTED",
      `Backing file name too long: its ${nameBytes} bytes do not fit a header cluster of ${layout.clusterSizeBytes}`,
      { image: backing.path, field: "backing_file_size", hint: "choose larger clusters, or use --relative" },
    );
  }
  return { ...places, headerBytes };
}

/** Writes the planned image into a file that is new and empty. Flushes nothing. */
export async function writeOverlay(file: StorageFile, plan: OverlayPlan): Promise<void> {
  for (const { offset, bytes } of joinNearSegments(encodeSegments(plan))) await file.write(bytes, offset);
  await file.truncate(plan.fileSizeBytes);
}

interface TablePlaces {
  readonly refcountTableClusters: number;
  readonly refcountBlocks: number;
  readonly l1Clusters: number;
}

// The blocks must count the clusters of the table and of themselves too: grow both until they do.
function placeTables(layout: OverlayLayout, l1Clusters: number): TablePlaces {
  const blockEntries = countBlockEntries(layout.clusterSizeBytes, layout.refcountBits);
  let refcountTableClusters = 1;
  let refcountBlocks = 1;
  for (;;) {
    const used = 1 + refcountTableClusters + refcountBlocks + l1Clusters;
    const blocks = Math.ceil(used / blockEntries);
    const tableClusters = Math.ceil((blocks * TABLE_ENTRY_BYTES) / layout.clusterSizeBytes);
    if (blocks === refcountBlocks && tableClusters === refcountTableClusters) break;
    refcountBlocks = blocks;
    refcountTableClusters = tableClusters;
  }
  return { refcountTableClusters, refcountBlocks, l1Clusters };
}

interface Segment {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

function encodeSegments(plan: OverlayPlan): Segment[] {
  const { clusterSizeBytes, refcountBits, refcountTableClusters, refcountBlocks, l1Clusters } = plan;
  const blocksStart = (1 + refcountTableClusters) * clusterSizeBytes;
  const blockOffsets = Array.from({ length: refcountBlocks }, (_, index) =>
    hostOffset(blocksStart + index * clusterSizeBytes),
  );
  const blockEntries = countBlockEntries(clusterSizeBytes, refcountBits);
  const usedClusters = 1 + refcountTableClusters + refcountBlocks + l1Clusters;
  return [
    { offset: 0, bytes: plan.headerBytes },
    { offset: clusterSizeBytes, bytes: encodeRefcountTable(blockOffsets) },
    ...blockOffsets.map((offset, index) => ({
      offset,
      bytes: encodeUsedClusters(Math.min(blockEntries, usedClusters - index * blockEntries), refcountBits),
    })),
  ];
}

/** A gap shorter than a block of the file system saves nothing as a hole, and costs a write. */
const SMALLEST_HOLE_BYTES = 4096;

function joinNearSegments(segments: readonly Segment[]): Segment[] {
  const groups: Segment[][] = [];
  for (const segment of segments) {
    const group = groups.at(-1);
    const last = group?.at(-1);
    if (group && last && segment.offset - (last.offset + last.bytes.length) < SMALLEST_HOLE_BYTES) {
      group.push(segment);
    } else groups.push([segment]);
  }
  return groups.map((group) => joinSegments(group));
}

function joinSegments(group: readonly Segment[]): Segment {
  const start = group[0]?.offset ?? 0;
  const end = group.reduce((furthest, { offset, bytes }) => Math.max(furthest, offset + bytes.length), start);
  const joined = new Uint8Array(end - start);
  for (const { offset, bytes } of group) joined.set(bytes, offset - start);
  return { offset: start, bytes: joined };
}

/** Clusters below this have no room for the feature name table beside a backing file name. */
const FEATURE_NAMES_CLUSTER_BYTES_MIN = 4096;

function encodePlannedHeader(plan: OverlayPlaces): Uint8Array | undefined {
  const { clusterSizeBytes, refcountTableClusters, refcountBlocks, l1Size, version } = plan;
  const l1Start = (1 + refcountTableClusters + refcountBlocks) * clusterSizeBytes;
  const fields: HeaderFields = {
    version,
    backingFileOffset: hostOffset(0),
    backingFileSize: 0,
    clusterBits: Math.log2(clusterSizeBytes),
    size: plan.virtualSizeBytes,
    cryptMethod: 0,
    l1Size,
    l1TableOffset: hostOffset(l1Size === 0 ? 0 : l1Start),
    refcountTableOffset: hostOffset(clusterSizeBytes),
    refcountTableClusters,
    nbSnapshots: 0,
    snapshotsOffset: hostOffset(0),
    ...FIELDS_OF_VERSION_2,
    ...(version === 3 ? version3Fields(plan) : {}),
  };
  const extensions: HeaderExtension[] = [{ kind: "backingFormat", format: plan.backingFormat }];
  if (version === 3 && clusterSizeBytes >= FEATURE_NAMES_CLUSTER_BYTES_MIN) {
    extensions.push({ kind: "featureNames", names: KNOWN_FEATURES });
  }
  return encodeHeaderCluster({ fields, extensions, backingFileName: plan.backingName });
}

function version3Fields(plan: OverlayPlaces): Partial<HeaderFields> {
  return {
    incompatibleFeatures: plan.extendedL2 ? [INCOMPATIBLE_BIT.extendedL2] : [],
    refcountOrder: Math.log2(plan.refcountBits),
    headerLength: HEADER_LENGTH_V3,
    furtherFields: new Uint8Array(HEADER_LENGTH_V3 - 105),
  };
}

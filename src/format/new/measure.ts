// How large an image would become: `measure`, for raw and qcow2 targets.
//
// Invariants
// - The answers are qemu-img's: clusters that are needed, and all that full allocation would need. Metadata is
//   counted in full in both, so the smaller one is an upper bound.
// - No guest data is read.

import { alignDown, alignUp, endOf, guestOffset, SECTOR_BYTES } from "../../units/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { type CreateOptions, chooseClusterBits, chooseRefcountOrder } from "./create-options.ts";
import { ExtentCursor } from "../read/extent-cursor.ts";
import type { OpenedImage } from "../open/open-image.ts";
import { measureBitmap } from "../qcow2/codec/bitmap.ts";
import { roundUpTo8 } from "../qcow2/codec/header-extension.ts";
import { L1_TABLE_BYTES_MAX, TABLE_ENTRY_BYTES } from "../qcow2/codec/limits.ts";
import { countRefcountClusters } from "../qcow2/codec/refcount-table.ts";
import { readBitmapDirectory } from "../qcow2/read/qcow2-bitmaps.ts";

export interface Measured {
  readonly requiredBytes: number;
  readonly fullyAllocatedBytes: number;
  /** What persistent bitmaps would take; undefined where the image, or the target, can't have any. */
  readonly bitmapsBytes: number | undefined;
}

/** What is measured: an image, or the size of one without content. */
export type MeasureSource = { readonly image: OpenedImage } | { readonly virtualSizeBytes: number };

const BITMAP_ENTRY_BYTES = 24;

export function measureRaw(source: MeasureSource): Measured {
  const bytes = alignUp(sizeOf(source), SECTOR_BYTES);
  return { requiredBytes: bytes, fullyAllocatedBytes: bytes, bitmapsBytes: undefined };
}

/** E_USAGE, in qemu-img's words, for options that can't be; E_UNSUPPORTED for a size that the clusters can't map. */
export async function measureQcow2(source: MeasureSource, options: CreateOptions): Promise<Measured> {
  const layout = chooseLayout(options);
  const { clusterBytes, entryBytes } = layout;
  const dataBytes = alignUp(sizeOf(source), clusterBytes);
  const l2Tables = Math.ceil(dataBytes / clusterBytes / (clusterBytes / entryBytes));
  // Of an image too large for the clusters qemu-img gives the sizes all the same, and so does this.
  if (!("image" in source) && l2Tables * TABLE_ENTRY_BYTES > L1_TABLE_BYTES_MAX) throw tooLarge();
  const isFull = options.preallocation === "falloc" || options.preallocation === "full";
  // How much of a backing image the two would share can't be known: the worst case is none.
  const isAll = isFull || ("image" in source && options.backingFileName !== undefined);
  const needed = isAll ? dataBytes : "image" in source ? await countNeeded(source.image, clusterBytes) : 0;
  const fullyAllocatedBytes = dataBytes + measureTables(dataBytes, layout);
  return {
    requiredBytes: fullyAllocatedBytes - dataBytes + needed,
    fullyAllocatedBytes,
    bitmapsBytes:
      "image" in source && layout.version === 3
        ? await measureBitmaps(source.image, clusterBytes)
        : undefined,
  };
}

function sizeOf(source: MeasureSource): number {
  return "image" in source ? source.image.virtualSizeBytes : source.virtualSizeBytes;
}

interface Layout {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterBytes: number;
  /** Of an entry of an L2 table. */
  readonly entryBytes: number;
  readonly refcountOrder: number;
}

/** Only what decides on sizes, judged in qemu-img's order. */
function chooseLayout(options: CreateOptions): Layout {
  const { clusterSizeBytes, extendedL2 = false, preallocation = "off", compat = "1.1" } = options;
  const clusterBits = chooseClusterBits(clusterSizeBytes, extendedL2);
  if (!["off", "metadata", "falloc", "full"].includes(preallocation)) {
    throw usage(`invalid parameter value: ${preallocation}`, "preallocation");
  }
  if (compat !== "0.10" && compat !== "1.1")
    throw usage(`Invalid compatibility level: '${compat}'`, "compat");
  const version = compat === "1.1" ? 3 : 2;
  const refcountOrder = chooseRefcountOrder(options.refcountBits, version, " (use compat=1.1 or greater)");
  const entryBytes = extendedL2 ? 2 * TABLE_ENTRY_BYTES : TABLE_ENTRY_BYTES;
  return { version, clusterBits, clusterBytes: 2 ** clusterBits, entryBytes, refcountOrder };
}

/** Bytes of whole clusters that hold data. */
async function countNeeded(image: OpenedImage, clusterBytes: number): Promise<number> {
  const end = guestOffset(image.virtualSizeBytes);
  const cursor = new ExtentCursor(image, end);
  let needed = 0;
  for (let at = guestOffset(0); at < end; ) {
    const extent = await cursor.find(at);
    const isData = extent.kind === "data" || extent.kind === "compressed";
    const stop = isData ? alignUp(endOf(extent), clusterBytes) : endOf(extent);
    if (isData) needed += stop - alignDown(at, clusterBytes);
    at = stop;
  }
  return needed;
}

/** Header, L1 and L2 tables, refcount table and blocks of an image in which all is allocated. */
function measureTables(dataBytes: number, layout: Layout): number {
  const { clusterBytes, entryBytes } = layout;
  const l2Bytes = alignUp((dataBytes / clusterBytes) * entryBytes, clusterBytes);
  const l1Bytes = alignUp((l2Bytes / clusterBytes) * TABLE_ENTRY_BYTES, clusterBytes);
  const tablesBytes = clusterBytes + l2Bytes + l1Bytes;
  const clusters = (tablesBytes + dataBytes) / clusterBytes;
  const { blocks, tableClusters } = countRefcountClusters(clusters, layout);
  return tablesBytes + (blocks + tableClusters) * clusterBytes;
}

/** As if each bitmap had all its clusters. Undefined for images that can't have bitmaps. */
async function measureBitmaps(image: OpenedImage, clusterBytes: number): Promise<number | undefined> {
  const [link] = image.chain.links;
  if (link?.header?.version !== 3) return undefined;
  let bytes = 0;
  let directoryBytes = 0;
  for (const { name, granularityBits } of await readBitmapDirectory(link)) {
    const clusters = Math.ceil(measureBitmap(image.virtualSizeBytes, granularityBits) / clusterBytes);
    bytes += clusters * clusterBytes + alignUp(clusters * TABLE_ENTRY_BYTES, clusterBytes);
    directoryBytes += roundUpTo8(BITMAP_ENTRY_BYTES + new TextEncoder().encode(name).length);
  }
  return bytes + alignUp(directoryBytes, clusterBytes);
}

function tooLarge(): ImgtxError {
  const message = "The image size is too large (try using a larger cluster size)";
  return new ImgtxError("E_UNSUPPORTED", message, { field: "size" });
}

function usage(message: string, field: string): ImgtxError {
  return new ImgtxError("E_USAGE", message, { field });
}

// New images, raw and qcow2: planned as plain data, then written.
//
// Invariants
// - Planning refuses what can't be, and touches nothing. Writing goes to files that are new and empty.
// - The file is complete before anybody can find it: nothing here flushes or names anything; the caller does,
//   before something refers to it.
// - Byte for byte what `qemu-img create` writes, but that zeros at the end of a table are a hole (an overlay takes three
//   blocks on the disk, whatever its size), and that a refcount table that was outgrown on the way leaves no trace: QEMU
//   leaves it where it was, where a preallocated image may show it to the guest.

import type { StorageFile } from "../../storage/index.ts";
import { alignUp, clusterIndex, hostOffset, startOf } from "../../units/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import {
  type CreateOptions,
  imageTooLarge,
  type Qcow2Choices,
  chooseQcow2Choices,
  chooseRawPreallocation,
  chooseVirtualSize,
} from "./create-options.ts";
import type { ImageFormat, Preallocation } from "../image-format.ts";
import {
  AUTOCLEAR_BIT,
  COMPATIBLE_BIT,
  FEATURE_NAMES_CLUSTER_BITS_MIN,
  INCOMPATIBLE_BIT,
  KNOWN_FEATURES,
} from "../qcow2/codec/features.ts";
import { FIELDS_OF_VERSION_2, HEADER_LENGTH_V3, type HeaderFields } from "../qcow2/codec/header.ts";
import { encodeHeaderCluster } from "../qcow2/codec/header-cluster.ts";
import type { HeaderExtension } from "../qcow2/codec/header-extension.ts";
import { type NewImageLayout, planNewImage } from "../qcow2/layout/new-image.ts";
import { encodeTables } from "../qcow2/layout/write-new-image.ts";
import { SegmentWriter } from "../qcow2/layout/segment-writer.ts";

export interface ImageRequest {
  readonly format: ImageFormat;
  /** Undefined: that of the backing image. Rounded up to a multiple of 512. */
  readonly virtualSizeBytes: number | undefined;
  /** Of the image that it is to stand on, where the caller has opened that. */
  readonly backingSizeBytes?: number | undefined;
  readonly options: CreateOptions;
}

/** What a new file's file system is asked for. */
export interface FileHints {
  readonly noCow: boolean;
  /** 0: none. */
  readonly extentSizeHintBytes: number;
  /** Whether the user asked for it, and has to hear where it can't be. */
  readonly extentSizeIsChosen: boolean;
}

/** As QEMU has it: fewer and larger extents, where the file system (XFS) takes the hint. */
const EXTENT_SIZE_HINT_BYTES = 1024 * 1024;

interface RawImagePlan {
  readonly format: "raw";
  readonly virtualSizeBytes: number;
  readonly preallocation: Preallocation;
  readonly hints: FileHints;
}

export interface Qcow2ImagePlan {
  readonly format: "qcow2";
  readonly virtualSizeBytes: number;
  readonly choices: Qcow2Choices;
  readonly layout: NewImageLayout;
  /** The header with its extensions and the backing file name. */
  readonly headerBytes: Uint8Array;
  readonly hints: FileHints;
}

export type ImagePlan = RawImagePlan | Qcow2ImagePlan;

/** Where a planned image is written to. */
export interface NewImageFiles {
  readonly file: StorageFile;
  /** For a plan with a data file. */
  readonly dataFile?: StorageFile | undefined;
}

/** QEMU's limit; no file system takes more. */
const VIRTUAL_SIZE_MAX = Number.MAX_SAFE_INTEGER;

/**
 * Plans an image. E_USAGE for options that can't be or exclude each other, E_UNSUPPORTED for a size or a name
 * that the format has no room for; both in qemu-img's words.
 */
export async function planImage(request: ImageRequest): Promise<ImagePlan> {
  const { format, options } = request;
  const hints = {
    noCow: options.noCow ?? false,
    extentSizeHintBytes: options.extentSizeHintBytes ?? EXTENT_SIZE_HINT_BYTES,
    extentSizeIsChosen: options.extentSizeHintBytes !== undefined,
  };
  if (format === "raw") {
    const preallocation = chooseRawPreallocation(options);
    const virtualSizeBytes = chooseVirtualSize(request.virtualSizeBytes, undefined);
    if (virtualSizeBytes > VIRTUAL_SIZE_MAX) throw imageTooLarge(format);
    return { format, virtualSizeBytes, preallocation, hints };
  }
  const virtualSizeBytes = chooseVirtualSize(request.virtualSizeBytes, request.backingSizeBytes);
  return await planQcow2Image(virtualSizeBytes, chooseQcow2Choices(options), hints);
}

/** The same of a qcow2 image whose choices are settled. */
export async function planQcow2Image(
  virtualSizeBytes: number,
  choices: Qcow2Choices,
  hints: FileHints,
): Promise<Qcow2ImagePlan> {
  const format = "qcow2";
  if (virtualSizeBytes > VIRTUAL_SIZE_MAX) throw imageTooLarge(format);
  const layout = await planNewImage({
    ...choices,
    virtualSizeBytes,
    hasDataFile: choices.dataFileName !== undefined,
  });
  if (layout === undefined) throw imageTooLarge(format);
  const headerBytes = encodeNewHeader(virtualSizeBytes, choices, layout);
  return { format, virtualSizeBytes, choices, layout, headerBytes, hints };
}

/**
 * Writes a planned image into files that are new and empty, but for a data file that is kept, and may be left out where it
 * is as long as the disk. Flushes nothing. Returns what was not heeded.
 */
export async function writeImage(files: NewImageFiles, plan: ImagePlan): Promise<readonly string[]> {
  const { file, dataFile } = files;
  const warnings = giveHints(file, plan.hints);
  await assertReserves(files, plan.format === "raw" ? plan.preallocation : plan.choices.preallocation);
  if (plan.format === "raw") {
    await growFile(file, plan.virtualSizeBytes, plan.preallocation);
    return warnings;
  }
  const { layout, choices } = plan;
  const isWanted = choices.dataFileName !== undefined;
  if ((dataFile !== undefined) !== isWanted && !(isWanted && choices.keepDataFile)) {
    throw new ImgtxError("E_INTERNAL", "a data file was planned and not given, or given and not planned");
  }
  // QEMU preallocates whole clusters, there too.
  const clusterBytes = choices.preallocation === "off" ? 1 : 2 ** choices.clusterBits;
  const dataBytes = alignUp(plan.virtualSizeBytes, clusterBytes);
  if (dataFile !== undefined && !choices.keepDataFile) {
    warnings.push(...giveHints(dataFile, plan.hints));
    await growFile(dataFile, dataBytes, choices.preallocation);
  }
  await growCleared(file, layout.fileSizeBytes);
  if (layout.reserved !== undefined) {
    const { start, lengthBytes } = layout.reserved;
    await reserve(file, start, lengthBytes, choices.preallocation);
  }
  const segments = new SegmentWriter(file);
  await segments.add({ offset: hostOffset(0), bytes: plan.headerBytes });
  for (const segment of encodeTables(layout)) await segments.add(segment);
  await segments.finish();
  // All that the disk shows has to be there; what is more than that stays.
  if (dataFile !== undefined && choices.keepDataFile && (await dataFile.stat()).sizeBytes < dataBytes) {
    await growCleared(dataFile, dataBytes);
  }
  return warnings;
}

function giveHints(file: StorageFile, hints: FileHints): string[] {
  // As for QEMU, nocow is a wish that goes unheeded in silence where there is no copy-on-write to disable.
  if (hints.noCow) file.disableCopyOnWrite();
  if (hints.extentSizeHintBytes === 0) return [];
  const isTaken = file.setExtentSizeHint(hints.extentSizeHintBytes);
  if (isTaken || !hints.extentSizeIsChosen) return [];
  return ["Failed to set extent size hint: the file system does not take it"];
}

/** To this size, all of it zeros: so is a file that was empty. E_NO_SPACE on a block device that is smaller. */
async function growCleared(file: StorageFile, sizeBytes: number): Promise<void> {
  if ((await file.stat()).kind !== "device") {
    await file.truncate(sizeBytes);
    return;
  }
  const all = { start: 0, lengthBytes: sizeBytes };
  await file.allocate(all);
  await file.punchHole(all);
}

/** A device has its blocks, and QEMU refuses to be asked for them. */
async function assertReserves(
  { file, dataFile }: NewImageFiles,
  preallocation: Preallocation,
): Promise<void> {
  if (preallocation !== "falloc" && preallocation !== "full") return;
  for (const one of dataFile === undefined ? [file] : [file, dataFile]) {
    if ((await one.stat()).kind !== "device") continue;
    throw new ImgtxError(
      "E_UNSUPPORTED",
      `Could not resize image: Failed to resize underlying file: Preallocation mode '${preallocation}' unsupported for this non-regular file`,
      {
        image: one.path,
      },
    );
  }
}

async function growFile(file: StorageFile, sizeBytes: number, preallocation: Preallocation): Promise<void> {
  const { kind, sizeBytes: deviceBytes } = await file.stat();
  if (kind === "device") {
    // As QEMU has it, an image in the format raw is what is on the device, as large as that is.
    if (sizeBytes <= deviceBytes) return;
    throw new ImgtxError("E_NO_SPACE", "Cannot grow device files", {
      image: file.path,
      hint: `the device has ${deviceBytes} bytes`,
    });
  }
  await file.truncate(sizeBytes);
  await reserve(file, 0, sizeBytes, preallocation);
}

const ZEROS_BYTES = 4 * 1024 * 1024;

async function reserve(
  file: StorageFile,
  start: number,
  lengthBytes: number,
  preallocation: Preallocation,
): Promise<void> {
  if (lengthBytes === 0) return;
  if (preallocation === "falloc") await file.allocate({ start, lengthBytes });
  if (preallocation !== "full") return;
  const zeros = new Uint8Array(Math.min(ZEROS_BYTES, lengthBytes));
  for (let done = 0; done < lengthBytes; done += zeros.length) {
    await file.write(zeros.subarray(0, Math.min(zeros.length, lengthBytes - done)), start + done);
  }
}

function encodeNewHeader(
  virtualSizeBytes: number,
  choices: Qcow2Choices,
  layout: NewImageLayout,
): Uint8Array {
  const clusterBytes = 2 ** choices.clusterBits;
  const fields: HeaderFields = {
    version: choices.version,
    backingFileOffset: hostOffset(0),
    backingFileSize: 0,
    clusterBits: choices.clusterBits,
    size: virtualSizeBytes,
    cryptMethod: 0,
    l1Size: layout.l1Size,
    l1TableOffset: startOf(layout.l1Start ?? clusterIndex(0), clusterBytes),
    refcountTableOffset: startOf(layout.refcountTable.first, clusterBytes),
    refcountTableClusters: layout.refcountTable.count,
    nbSnapshots: 0,
    snapshotsOffset: hostOffset(0),
    ...FIELDS_OF_VERSION_2,
    ...(choices.version === 3 ? version3Fields(choices) : {}),
  };
  const extensions: HeaderExtension[] = [];
  const { backingFileName, backingFormat, dataFileName } = choices;
  if (backingFormat !== undefined) extensions.push({ kind: "backingFormat", format: backingFormat });
  if (dataFileName !== undefined) extensions.push({ kind: "dataFile", name: dataFileName });
  if (choices.version === 3 && choices.clusterBits >= FEATURE_NAMES_CLUSTER_BITS_MIN) {
    extensions.push({ kind: "featureNames", names: KNOWN_FEATURES });
  }
  const bytes = encodeHeaderCluster({ fields, extensions, backingFileName });
  if (bytes !== undefined) return bytes;
  throw new ImgtxError(
    "E_UNSUPPORTED",
    `the header does not fit a cluster of ${clusterBytes} bytes with the names that it has to store`,
    { field: "backing_file_name", hint: "choose larger clusters, or shorter names" },
  );
}

function version3Fields(choices: Qcow2Choices): Partial<HeaderFields> {
  const isZstd = choices.compressionType === "zstd";
  return {
    incompatibleFeatures: [
      ...(choices.dataFileName === undefined ? [] : [INCOMPATIBLE_BIT.externalDataFile]),
      ...(isZstd ? [INCOMPATIBLE_BIT.compressionType] : []),
      ...(choices.extendedL2 ? [INCOMPATIBLE_BIT.extendedL2] : []),
    ],
    compatibleFeatures: choices.lazyRefcounts ? [COMPATIBLE_BIT.lazyRefcounts] : [],
    autoclearFeatures: choices.dataFileRaw ? [AUTOCLEAR_BIT.rawExternalData] : [],
    refcountOrder: choices.refcountOrder,
    headerLength: HEADER_LENGTH_V3,
    compressionType: isZstd ? 1 : 0,
    furtherFields: new Uint8Array(HEADER_LENGTH_V3 - 105),
  };
}

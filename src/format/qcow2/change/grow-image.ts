// A larger disk: more room behind the end of the guest's data, which reads as zeros.
//
// Invariants
// - A power cut leaves the disk at the old size or at the new one, and at worst leaked clusters. The new L1 table
//   and its refcounts are durable before the header points there; the old one is given away behind that; and
//   the size changes last, when what would show of a longer backing image is hidden by zeros.
// - Nothing is locked here: as for writing.

import { ImgtxError } from "../../../errors/index.ts";
import type { Storage, StorageFile } from "../../../storage/index.ts";
import { hostOffset } from "../../../units/index.ts";
import type { ImageFormat } from "../../image-format.ts";
import type { GateOptions } from "../../chain/open-gate.ts";
import { openWriterState, requireWritable } from "../../open/open-for-writing.ts";
import { openImage, type OpenedImage } from "../../open/open-image.ts";
import { AUTOCLEAR_BIT } from "../codec/features.ts";
import { HEADER_AT } from "../codec/header.ts";
import type { Qcow2Header } from "../codec/header-cluster.ts";
import { countL1Entries, L1_TABLE_BYTES_MAX, SECTOR_BYTES, TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import type { Qcow2Link } from "../../chain/chain-link.ts";
import { readBytes } from "../../read-header.ts";
import { Qcow2Writer } from "../write/qcow2-writer.ts";
import { WriterLayer } from "../write/writer-layer.ts";

interface GrowingFiles {
  readonly file: StorageFile;
  /** The image's own file where it has no external data file. */
  readonly dataFile: StorageFile;
}

/**
 * Makes the disk of the image at path larger, durably. sizeBytes is a multiple of 512. E_UNSUPPORTED for a
 * smaller size, for one that the tables can't hold, and for version 2 with internal snapshots, which say no
 * size; E_REFUSED where persistent bitmaps would be lost; else the errors of openForWriting.
 */
export async function growImage(
  storage: Storage,
  path: string,
  options: { readonly format: ImageFormat | undefined; readonly gate: GateOptions },
  sizeBytes: number,
): Promise<void> {
  const opened = await openImage(storage, path, options);
  const own: StorageFile[] = [];
  try {
    const [link] = opened.chain.links;
    if (link === undefined) throw new RangeError("a chain without an image");
    requireLarger(path, link.virtualSizeBytes, sizeBytes);
    const file = await storage.openFile(path, "write");
    own.push(file);
    const { header, dataFile } = link;
    if (header === undefined) {
      await file.truncate(sizeBytes);
      await file.flush("larger-raw-image");
      return;
    }
    requireWritable(header, path);
    requireGrowable(header, path, sizeBytes);
    const data =
      dataFile &&
      (await storage.openFile(await storage.realPath(dataFile.path), "write", { refuseSymlink: true }));
    if (data) own.push(data);
    await growQcow2({ ...link, header }, { file, dataFile: data ?? file }, opened, sizeBytes);
  } finally {
    await Promise.all([opened.close(), ...own.map((file) => file.close())]);
  }
}

async function growQcow2(
  link: Qcow2Link,
  files: GrowingFiles,
  opened: OpenedImage,
  sizeBytes: number,
): Promise<void> {
  const header = await growL1Table(link, files, sizeBytes);
  const grown: Qcow2Link = { ...link, header, virtualSizeBytes: sizeBytes };
  if (header.hasRawExternalData) {
    await files.dataFile.truncate(sizeBytes);
    await files.dataFile.flush("larger-data-file");
  }
  await hideBacking(grown, files, opened, link.virtualSizeBytes);
  await files.file.write(encodeSize(sizeBytes), HEADER_AT.size);
  await files.file.flush("larger-disk");
}

/** The header with an L1 table that maps the larger disk. On disk the size is still the old one. */
async function growL1Table(link: Qcow2Link, files: GrowingFiles, sizeBytes: number): Promise<Qcow2Header> {
  const { header } = link;
  const { clusterSizeBytes, clusterBits, hasExtendedL2 } = header;
  const larger = { ...header, size: sizeBytes };
  const l1Size = countL1Entries(sizeBytes, clusterBits, hasExtendedL2);
  if (l1Size <= header.l1Size) return larger;
  const state = await openWriterState(link, { ...files, isOrdered: true });
  await state.begin();
  const clusters = Math.ceil((l1Size * TABLE_ENTRY_BYTES) / clusterSizeBytes);
  const place = (await state.allocate(clusters)) * clusterSizeBytes;
  const table = new Uint8Array(clusters * clusterSizeBytes);
  const oldBytes = header.l1Size * TABLE_ENTRY_BYTES;
  table.set(await readBytes(files.file, header.l1TableOffset, oldBytes));
  await files.file.write(table, place);
  await state.flush("l1-table-before-header");
  await files.file.write(encodeL1Place(l1Size, place), HEADER_AT.l1Size);
  await files.file.flush("header-before-old-l1-table");
  const oldClusters = Math.ceil(oldBytes / clusterSizeBytes);
  await state.giveBack(header.l1TableOffset / clusterSizeBytes, oldClusters);
  await state.finish();
  return { ...larger, l1Size, l1TableOffset: hostOffset(place) };
}

/** What a longer backing image has behind the old end must not show. */
async function hideBacking(
  grown: Qcow2Link,
  files: GrowingFiles,
  opened: OpenedImage,
  start: number,
): Promise<void> {
  const below = opened.layers.slice(1);
  const end = Math.min(grown.virtualSizeBytes, below[0]?.virtualSizeBytes ?? 0);
  if (start >= end) return;
  const state = await openWriterState(grown, { ...files, isOrdered: true });
  const writer = new Qcow2Writer(state, new WriterLayer(grown, state), below, () => Promise.resolve());
  await writer.writeZeroes({ start, lengthBytes: end - start }, false);
  await writer.flush("zeros-before-size");
  await writer.close();
}

function requireLarger(image: string, presentBytes: number, sizeBytes: number): void {
  if (sizeBytes % SECTOR_BYTES !== 0) {
    throw new ImgtxError("E_USAGE", `The new size must be a multiple of ${SECTOR_BYTES}`, { image });
  }
  if (sizeBytes >= presentBytes) return;
  throw new ImgtxError("E_UNSUPPORTED", "the disk is larger than that, and can't be made smaller", { image });
}

function requireGrowable(header: Qcow2Header, image: string, sizeBytes: number): void {
  if (header.version === 2 && header.nbSnapshots > 0) {
    throw new ImgtxError("E_UNSUPPORTED", "Can't resize a v2 image which has snapshots", { image });
  }
  if (header.autoclearFeatures.includes(AUTOCLEAR_BIT.bitmaps)) {
    throw new ImgtxError("E_REFUSED", "it has persistent bitmaps, which would be lost", {
      image,
      hint: "remove them first, with `qemu-img bitmap --remove`",
    });
  }
  const l1Size = countL1Entries(sizeBytes, header.clusterBits, header.hasExtendedL2);
  if (l1Size * TABLE_ENTRY_BYTES <= L1_TABLE_BYTES_MAX) return;
  throw new ImgtxError("E_UNSUPPORTED", "The image size is too large for its cluster size", { image });
}

function encodeSize(sizeBytes: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(sizeBytes));
  return bytes;
}

/** l1_size and l1_table_offset, side by side in one sector of the header. */
function encodeL1Place(l1Size: number, place: number): Uint8Array {
  const bytes = new Uint8Array(12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, l1Size);
  view.setBigUint64(4, BigInt(place));
  return bytes;
}

// A larger or a smaller disk. What a larger one has past the old end reads as zeros; of a smaller one nothing comes
// back when it grows again.
//
// Invariants
// - A power cut while a disk grows leaves it at the old size or at the new one, and at worst leaked clusters. The new L1
//   table and its refcounts are durable before the header points there; the old one is given away after that; and
//   the size changes last, when what would show of a longer backing image is hidden by zeros.
// - A disk shrinks safely over a redo log alone: its clusters go before its size does.
// - Persistent bitmaps come along, as with QEMU: of a larger disk the new part is not marked.
// - Nothing is locked here: as for writing.

import { ImgtxError } from "../../../errors/index.ts";
import type { ByteRange, Storage, StorageFile } from "../../../storage/index.ts";
import {
  alignUp,
  clusterAt,
  guestRange,
  type GuestRange,
  type HostOffset,
  SECTOR_BYTES,
} from "../../../units/index.ts";
import type { Chain } from "../../chain/backing-chain.ts";
import type { ChainLink, Qcow2Link } from "../../chain/chain-link.ts";
import { type GateOptions, openingNamed } from "../../chain/open-gate.ts";
import type { ImageFormat, Preallocation } from "../../image-format.ts";
import { openWriterState, requireWritable } from "../../open/open-for-writing.ts";
import { openImage, type OpenedImage } from "../../open/open-image.ts";
import { quoteName, shellQuote } from "../../quote-name.ts";
import { readBytes } from "../../read-header.ts";
import { encodeSize, encodeTablePlace, HEADER_AT } from "../codec/header.ts";
import { countL1Entries, L1_TABLE_BYTES_MAX, TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { readBitmapDirectory } from "../read/qcow2-bitmaps.ts";
import { preallocate } from "../write/preallocate.ts";
import { Qcow2Writer } from "../write/qcow2-writer.ts";
import { WriterLayer } from "../write/writer-layer.ts";
import type { WriterState } from "../write/writer-state.ts";
import { cutTables, punchDataFile } from "./cut-tables.ts";
import { rereadHeader } from "./reread-header.ts";
import { resizeBitmaps } from "./resize-bitmaps.ts";
import { dropEmptyBlocks } from "./shrink-refcounts.ts";

interface ResizedFiles {
  readonly file: StorageFile;
  /** The image's own file where it has no external data file. */
  readonly dataFile: StorageFile;
}

/**
 * What of a resizing is known to be refused before anything is written. E_USAGE for a size that no disk can have;
 * E_UNSUPPORTED for one that the tables can't hold, for version 2 with internal snapshots, which say no size, and for
 * version 2 where a longer backing image would have to be hidden; E_REFUSED for a dirty image, and for a bitmap that
 * can't come along; E_CORRUPT.
 */
export async function judgeResize(
  { links }: Pick<Chain, "links">,
  sizeBytes: number,
  preallocation: Preallocation = "off",
): Promise<void> {
  const [link, below] = links;
  if (link === undefined) throw new RangeError("a chain without an image");
  const { header, path: image, virtualSizeBytes } = link;
  judgePreallocation(link, sizeBytes, preallocation);
  if (header === undefined) return;
  if (sizeBytes % SECTOR_BYTES !== 0) {
    throw new ImgtxError("E_USAGE", `The new size must be a multiple of ${SECTOR_BYTES}`, { image });
  }
  requireWritable(header, image);
  if (header.version === 2 && header.nbSnapshots > 0) {
    throw new ImgtxError("E_UNSUPPORTED", "Can't resize a v2 image which has snapshots", {
      image,
      hint: `\`imgtx img amend -o compat=1.1 ${shellQuote(image)}\` makes it version 3, which can`,
    });
  }
  const hiddenEnd = Math.min(sizeBytes, below?.virtualSizeBytes ?? 0);
  if (header.version === 2 && hiddenEnd > virtualSizeBytes) {
    throw new ImgtxError(
      "E_UNSUPPORTED",
      "a v2 image can't hide what its backing image has past the old end of the disk",
      { image, hint: `\`imgtx img amend -o compat=1.1 ${shellQuote(image)}\` makes it version 3, which can` },
    );
  }
  const l1Size = countL1Entries(sizeBytes, header.clusterBits, header.hasExtendedL2);
  if (l1Size * TABLE_ENTRY_BYTES > L1_TABLE_BYTES_MAX) {
    throw new ImgtxError("E_UNSUPPORTED", "The image size is too large for its cluster size", { image });
  }
  const broken = (await readBitmapDirectory(link)).find(({ isInUse }) => isInUse);
  if (broken === undefined) return;
  throw new ImgtxError(
    "E_REFUSED",
    `Bitmap ${quoteName(broken.name)} is inconsistent and cannot be used: it can't be resized with the disk`,
    {
      image,
      field: "bitmap_directory",
      hint: `remove it first: \`imgtx img bitmap --remove ${shellQuote(image)} ${shellQuote(broken.name)}\``,
    },
  );
}

function judgePreallocation(
  { header, path: image, virtualSizeBytes, stat }: Chain["links"][number],
  sizeBytes: number,
  preallocation: Preallocation,
): void {
  if (preallocation === "off") return;
  const place = { image, field: "preallocation" };
  // Its clusters would have there what the last user of the volume left.
  if (stat.kind === "device") throw new ImgtxError("E_UNSUPPORTED", "a volume has all its blocks", place);
  if (sizeBytes < virtualSizeBytes) {
    throw new ImgtxError("E_USAGE", "Preallocation can only be used for growing images", place);
  }
  if (header === undefined && preallocation === "metadata") {
    throw new ImgtxError("E_UNSUPPORTED", "Unsupported preallocation mode: metadata", place);
  }
}

/** What of a file is to get its blocks in advance; isFull: by zeros that are written, where there are holes. */
export interface Preallocated extends ByteRange {
  readonly isFull: boolean;
}

interface ResizeOptions {
  readonly format: ImageFormat | undefined;
  readonly gate: GateOptions;
  readonly preallocation?: Preallocation;
}

/**
 * Gives the disk of the image at path another size, durably. Returns what of its file the caller is to preallocate.
 * Errors are those of judgeResize and of openForWriting.
 */
export async function resizeImage(
  storage: Storage,
  path: string,
  { preallocation = "off", ...options }: ResizeOptions,
  sizeBytes: number,
): Promise<Preallocated | undefined> {
  const opened = await openImage(storage, path, options);
  return await withFiles(storage, path, { opened, gate: options.gate }, async (link, files) => {
    await judgeResize(opened.chain, sizeBytes, preallocation);
    const { file } = files;
    const { header } = link;
    if (header === undefined) {
      const { sizeBytes: start } = await file.stat();
      await file.truncate(sizeBytes);
      await file.flush("resized-raw-image");
      return preallocated(preallocation, start, sizeBytes);
    }
    return await resizeQcow2({ ...link, header }, files, opened, { sizeBytes, preallocation });
  });
}

/**
 * Has an overlay show what is below it: it keeps its size, its bitmaps and its internal snapshots, and none of its content.
 * As a smaller disk it is safe over a redo log alone. Errors are those of openForWriting.
 */
export async function emptyImage(
  storage: Storage,
  path: string,
  options: Pick<ResizeOptions, "format" | "gate">,
): Promise<void> {
  const opened = await openImage(storage, path, { ...options, backing: false });
  await withFiles(storage, path, { opened, gate: options.gate }, async (link, files) => {
    const { header } = link;
    if (header?.backingFileName === undefined) throw new RangeError("only an overlay may be emptied");
    requireWritable(header, path);
    if (header.hasExternalDataFile) await punchDataFile(await openCountedOnce(files)({ ...link, header }));
    await dropPast({ ...link, header }, files, 0);
    await files.file.flush("emptied-overlay");
  });
}

/** Opens the first image's files for writing, and closes all. */
async function withFiles<T>(
  storage: Storage,
  path: string,
  { opened, gate }: { readonly opened: OpenedImage; readonly gate: GateOptions },
  use: (link: ChainLink, files: ResizedFiles) => Promise<T>,
): Promise<T> {
  const own: StorageFile[] = [];
  try {
    const [link] = opened.chain.links;
    if (link === undefined) throw new RangeError("a chain without an image");
    const file = await storage.openFile(path, "write", openingNamed(gate));
    own.push(file);
    const data =
      link.dataFile &&
      (await storage.openFile(await storage.realPath(link.dataFile.path), "write", { refuseSymlink: true }));
    if (data) own.push(data);
    return await use(link, { file, dataFile: data ?? file });
  } finally {
    await Promise.all([opened.close(), ...own.map((file) => file.close())]);
  }
}

function preallocated(mode: Preallocation, start: number, end: number): Preallocated | undefined {
  const isOfFile = mode === "falloc" || mode === "full";
  return isOfFile && end > start ? { start, lengthBytes: end - start, isFull: mode === "full" } : undefined;
}

/** What of the image's external data file the caller is to preallocate, where the disk becomes larger. */
export function preallocatedBeside(
  { header, virtualSizeBytes }: Pick<ChainLink, "header" | "virtualSizeBytes">,
  sizeBytes: number,
  mode: Preallocation,
): Preallocated | undefined {
  return preallocated(mode, alignUp(virtualSizeBytes, header?.clusterSizeBytes ?? 1), sizeBytes);
}

interface NewSize {
  readonly sizeBytes: number;
  readonly preallocation: Preallocation;
}

async function resizeQcow2(
  link: Qcow2Link,
  files: ResizedFiles,
  opened: OpenedImage,
  size: NewSize,
): Promise<Preallocated | undefined> {
  const { file } = files;
  const { sizeBytes } = size;
  const isSmaller = sizeBytes < link.virtualSizeBytes;
  let taken: Preallocated | undefined;
  if (isSmaller) await shrinkQcow2(link, files, sizeBytes);
  else taken = await growQcow2(link, files, opened, size);
  // The size right after them: one without the other is no image that anybody opens.
  await resizeBitmaps(await rereadHeader(link, file), sizeBytes);
  await file.write(encodeSize(sizeBytes), HEADER_AT.size);
  await file.flush(isSmaller ? "smaller-disk" : "larger-disk");
  return taken;
}

async function shrinkQcow2(link: Qcow2Link, files: ResizedFiles, sizeBytes: number): Promise<void> {
  await dropPast(link, files, sizeBytes);
  if (files.dataFile !== files.file) await files.dataFile.truncate(sizeBytes);
}

/** Gives back what is mapped from there on, and the end of the file that nothing needs any more. */
async function dropPast(link: Qcow2Link, files: ResizedFiles, sizeBytes: number): Promise<void> {
  const { file } = files;
  const open = openCountedOnce(files);
  const state = await open(link);
  await state.begin();
  await cutTables(state, sizeBytes);
  await state.finish();
  const cut = await rereadHeader(link, file);
  await dropEmptyBlocks(file, cut.header);
  const end = await (await open(cut)).findUsedEnd();
  const now = await file.stat();
  if (end < now.sizeBytes && now.kind !== "device") await file.truncate(end);
}

async function growQcow2(
  link: Qcow2Link,
  files: ResizedFiles,
  opened: OpenedImage,
  { sizeBytes, preallocation }: NewSize,
): Promise<Preallocated | undefined> {
  const { clusterBits, clusterSizeBytes, hasExtendedL2, hasExternalDataFile, hasRawExternalData, l1Size } =
    link.header;
  const open = openCountedOnce(files);
  if (await hasTablesBehindEnd(link, files.file)) {
    const state = await open(link);
    await state.begin();
    await cutTables(state, link.virtualSizeBytes);
    await state.flush("tables-past-the-end");
    await state.finish();
  }
  const isL1Larger = countL1Entries(sizeBytes, clusterBits, hasExtendedL2) > l1Size;
  if (isL1Larger) await growL1Table(await rereadHeader(link, files.file), files, sizeBytes, open);
  const start = link.virtualSizeBytes;
  const clusterEnd = alignUp(start, clusterSizeBytes);
  if (hasRawExternalData || (hasExternalDataFile && preallocation !== "off")) {
    await growDataFile(files.dataFile, { clusterEnd, sizeBytes, preallocation });
  }
  let taken: Preallocated | undefined;
  if (preallocation !== "off" && clusterEnd < sizeBytes) {
    const state = await open({ ...(await rereadHeader(link, files.file)), virtualSizeBytes: sizeBytes });
    await state.begin();
    const range = await preallocate(state, start, sizeBytes);
    await state.finish();
    if (!hasExternalDataFile) taken = preallocated(preallocation, range.start, range.end);
  }
  // What is below, and what a larger disk has left in the rest of the last cluster.
  const below = preallocation === "off" ? (opened.layers[1]?.virtualSizeBytes ?? 0) : 0;
  const end = Math.min(sizeBytes, Math.max(below, clusterEnd));
  if (start >= end) return taken;
  const grown = { ...(await rereadHeader(link, files.file)), virtualSizeBytes: sizeBytes };
  await hide(grown, await open(grown), opened, guestRange(start, end - start));
  return taken;
}

async function growDataFile(
  dataFile: StorageFile,
  { clusterEnd, sizeBytes, preallocation }: NewSize & { readonly clusterEnd: number },
): Promise<void> {
  // Clusters that lead there show what it has: nobody has written to them yet, whatever was there before.
  const isLonger = preallocation !== "off" && clusterEnd < (await dataFile.stat()).sizeBytes;
  if (isLonger) await dataFile.truncate(clusterEnd);
  await dataFile.truncate(sizeBytes);
  await dataFile.flush("larger-data-file");
}

type OpenState = (link: Qcow2Link) => Promise<WriterState>;

/** All that is in use is counted, as the first state has it looked at; what is changed here leaves it so. */
function openCountedOnce(files: ResizedFiles): OpenState {
  let isCounted = false;
  return async (link) => {
    const options = { ...files, isOrdered: true, keepsBitmaps: true };
    const state = await openWriterState(link, options, { isCounted });
    isCounted = true;
    return state;
  };
}

/** The VM state of an internal snapshot that was applied: QEMU leaves it there, and it would show in a larger disk. */
async function hasTablesBehindEnd({ header }: Qcow2Link, file: StorageFile): Promise<boolean> {
  const { clusterBits, hasExtendedL2, l1Size, l1TableOffset } = header;
  const first = countL1Entries(header.size, clusterBits, hasExtendedL2) * TABLE_ENTRY_BYTES;
  const lengthBytes = l1Size * TABLE_ENTRY_BYTES - first;
  if (lengthBytes <= 0) return false;
  return (await readBytes(file, l1TableOffset + first, lengthBytes)).some((byte) => byte !== 0);
}

/** An L1 table that maps the larger disk. On disk the size is still the old one. */
async function growL1Table(
  link: Qcow2Link,
  files: ResizedFiles,
  sizeBytes: number,
  open: OpenState,
): Promise<void> {
  const { header } = link;
  const l1Size = countL1Entries(sizeBytes, header.clusterBits, header.hasExtendedL2);
  if (await hasRoomForEntries(link, files.file, l1Size)) {
    const end = header.l1TableOffset + l1Size * TABLE_ENTRY_BYTES;
    if ((await files.file.stat()).sizeBytes < end) {
      await files.file.truncate(end);
      await files.file.flush("l1-entries-before-header");
    }
    await files.file.write(encodeTablePlace(l1Size, header.l1TableOffset), HEADER_AT.l1Size);
    return;
  }
  const state = await open(link);
  await state.begin();
  const table = new Uint8Array(l1Size * TABLE_ENTRY_BYTES);
  table.set(await readBytes(files.file, header.l1TableOffset, header.l1Size * TABLE_ENTRY_BYTES));
  await replaceL1Table(state, table);
  await state.finish();
}

/**
 * Whether the table's last cluster has these entries as well, as zeros. Nothing is allocated for them then, so that it
 * does not matter whether the rest of the image is counted.
 */
async function hasRoomForEntries({ header }: Qcow2Link, file: StorageFile, l1Size: number): Promise<boolean> {
  const { clusterSizeBytes, l1TableOffset } = header;
  const before = header.l1Size * TABLE_ENTRY_BYTES;
  const after = l1Size * TABLE_ENTRY_BYTES;
  if (before === 0 || after > Math.ceil(before / clusterSizeBytes) * clusterSizeBytes) return false;
  return (await readBytes(file, l1TableOffset + before, after - before)).every((byte) => byte === 0);
}

/** Another active L1 table, at another place. Returns that. The state's own tables are of no use afterwards. */
export async function replaceL1Table(state: WriterState, table: Uint8Array): Promise<HostOffset> {
  const { clusterBytes, files } = state;
  const { l1Size, l1TableOffset } = files.header;
  const place = await state.store(table);
  await state.flush("l1-table-before-header");
  await files.file.write(encodeTablePlace(table.length / TABLE_ENTRY_BYTES, place), HEADER_AT.l1Size);
  await files.file.flush("header-before-old-l1-table");
  const oldClusters = Math.ceil((l1Size * TABLE_ENTRY_BYTES) / clusterBytes);
  await state.giveBack(clusterAt(l1TableOffset, clusterBytes), oldClusters);
  return place;
}

/** What is past the old end reads as zeros. */
async function hide(
  grown: Qcow2Link,
  state: WriterState,
  opened: OpenedImage,
  range: GuestRange,
): Promise<void> {
  const below = opened.layers.slice(1);
  const writer = new Qcow2Writer(state, new WriterLayer(grown, state), below, () => Promise.resolve());
  await writer.writeZeroes(range, below.length === 0);
  await writer.flush("zeros-before-size");
  await writer.close();
}

// Copies the persistent bitmaps of an image into a new one of the same size.
//
// Invariants
// - Only for an image that nobody can find yet: the header that names the bitmaps is written last, but nothing
//   is flushed in between.
// - Memory is that of one cluster of bits and of one bitmap's table at a time.

import { ImgtxError } from "../../errors/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import { hostOffset } from "../../units/index.ts";
import type { ChainLink } from "../chain/chain-link.ts";
import { findMarkedRanges, readBitmapDirectory } from "../qcow2/read/qcow2-bitmaps.ts";
import {
  type BitmapEntry,
  type BitmapTableEntry,
  encodeBitmapDirectory,
  encodeBitmapTableEntryAt,
  measureBitmap,
} from "../qcow2/codec/bitmap.ts";
import { AUTOCLEAR_BIT } from "../qcow2/codec/features.ts";
import { encodeHeaderCluster, type Qcow2Header } from "../qcow2/codec/header-cluster.ts";
import { TABLE_ENTRY_BYTES } from "../qcow2/codec/limits.ts";
import { readOwnHeader } from "../read-header.ts";
import { MetadataMap } from "../qcow2/write/metadata-map.ts";
import { WriterState } from "../qcow2/write/writer-state.ts";

interface NewImage {
  readonly path: string;
  readonly file: StorageFile;
  readonly dataFile: StorageFile;
}

/**
 * The bitmaps to copy. E_FAILED, in qemu-img's words, for one that is inconsistent, unless onBroken takes note
 * of it: then it is left out.
 */
export async function listBitmapsToCopy(
  source: ChainLink,
  onBroken: ((name: string) => void) | undefined,
): Promise<readonly BitmapEntry[]> {
  const bitmaps = await readBitmapDirectory(source);
  // QEMU looks at the last one first.
  for (const { isInUse, name } of bitmaps.toReversed()) {
    if (!isInUse) continue;
    if (onBroken === undefined) {
      throw new ImgtxError("E_REFUSED", `Cannot copy inconsistent bitmap '${name}'`, {
        field: "bitmap_directory",
      });
    }
    onBroken(name);
  }
  return bitmaps.filter(({ isInUse }) => !isInUse);
}

/** Into an image that is written and closed, whose files are still open. */
export async function copyBitmaps(
  source: ChainLink,
  bitmaps: readonly BitmapEntry[],
  target: NewImage,
): Promise<void> {
  if (bitmaps.length === 0) return;
  const { file, path } = target;
  const header = await readOwnHeader(file, path);
  if (header.version === 2) {
    const name = bitmaps[0]?.name ?? "";
    const message = `Failed to create bitmap ${name}: Cannot store dirty bitmaps in qcow2 v2 files`;
    throw new ImgtxError("E_FAILED", message);
  }
  const metadata = new MetadataMap(path, header.clusterSizeBytes);
  metadata.claim("header", 0, header.clusterSizeBytes);
  const state = await WriterState.open({ ...target, header, isOrdered: false }, metadata);
  await state.begin();
  const entries: BitmapEntry[] = [];
  for (const bitmap of bitmaps) entries.push(await writeBitmap(source, bitmap, state));
  const directory = encodeBitmapDirectory(entries);
  const directoryStart = await store(state, directory);
  await state.finish();
  await writeHeader(file, header, {
    count: entries.length,
    start: directoryStart,
    lengthBytes: directory.length,
  });
}

/** Writes the bits and their table, and returns the entry for the directory. */
async function writeBitmap(source: ChainLink, bitmap: BitmapEntry, state: WriterState): Promise<BitmapEntry> {
  const { clusterBytes } = state;
  const bitsBytes = measureBitmap(source.virtualSizeBytes, bitmap.granularityBits);
  const entries = Math.ceil(bitsBytes / clusterBytes);
  const table = new Uint8Array(entries * TABLE_ENTRY_BYTES);
  const view = new DataView(table.buffer);
  for await (const { index, entry } of gatherBits(source, bitmap, state)) {
    encodeBitmapTableEntryAt(view, index, entry);
  }
  const start = await store(state, table);
  return {
    ...bitmap,
    bitmapTableOffset: hostOffset(start),
    bitmapTableSize: entries,
    extraData: new Uint8Array(0),
    isExtraDataCompatible: false,
  };
}

/** The entries that are not zeros, each with its bits written. */
async function* gatherBits(
  source: ChainLink,
  bitmap: BitmapEntry,
  state: WriterState,
): AsyncGenerator<{ index: number; entry: BitmapTableEntry }> {
  const bitsOfCluster = state.clusterBytes * 8;
  const granularity = 2 ** bitmap.granularityBits;
  const bits = new Uint8Array(state.clusterBytes);
  let gathered = -1;
  const finish = async (): Promise<{ index: number; entry: BitmapTableEntry }> => {
    const place = await store(state, bits);
    bits.fill(0);
    return { index: gathered, entry: { kind: "data", hostOffset: hostOffset(place) } };
  };
  for await (const range of findMarkedRanges(source, bitmap)) {
    const end = Math.ceil((range.start + range.lengthBytes) / granularity);
    for (let bit = range.start / granularity; bit < end; ) {
      const index = Math.floor(bit / bitsOfCluster);
      const clusterEnd = (index + 1) * bitsOfCluster;
      const stop = Math.min(end, clusterEnd);
      if (gathered !== index && gathered !== -1) yield await finish();
      gathered = index;
      if (bit === clusterEnd - bitsOfCluster && stop === clusterEnd) {
        yield { index, entry: { kind: "ones" } };
        gathered = -1;
      } else {
        const first = bit - index * bitsOfCluster;
        setBits(bits, first, first + (stop - bit));
      }
      bit = stop;
    }
  }
  if (gathered !== -1) yield await finish();
}

/** Least significant bit of a byte first. */
function setBits(bits: Uint8Array, start: number, end: number): void {
  for (let bit = start; bit < end; ) {
    if (bit % 8 === 0 && end - bit >= 8) {
      bits[bit / 8] = 0xff;
      bit += 8;
      continue;
    }
    const byte = Math.floor(bit / 8);
    bits[byte] = (bits[byte] ?? 0) | (1 << (bit % 8));
    bit += 1;
  }
}

/** Takes clusters for the bytes and writes them there. Returns where. */
async function store(state: WriterState, bytes: Uint8Array): Promise<number> {
  const { clusterBytes, files } = state;
  const start = (await state.allocate(Math.max(1, Math.ceil(bytes.length / clusterBytes)))) * clusterBytes;
  await files.file.write(bytes, start);
  return start;
}

async function writeHeader(
  file: StorageFile,
  header: Qcow2Header,
  directory: { count: number; start: number; lengthBytes: number },
): Promise<void> {
  const bytes = encodeHeaderCluster({
    fields: { ...header, autoclearFeatures: [AUTOCLEAR_BIT.bitmaps, ...header.autoclearFeatures] },
    extensions: [
      ...header.extensions,
      {
        kind: "bitmaps",
        nbBitmaps: directory.count,
        bitmapDirectorySize: directory.lengthBytes,
        bitmapDirectoryOffset: hostOffset(directory.start),
      },
    ],
    backingFileName: header.backingFileName,
  });
  if (bytes === undefined) {
    throw new ImgtxError("E_UNSUPPORTED", "the header has no room for the bitmaps", {
      hint: "choose larger clusters",
    });
  }
  await file.write(bytes, 0);
}

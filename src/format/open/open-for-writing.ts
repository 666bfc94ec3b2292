// Opens an image for writing its guest data, with the chain that it stands on.
//
// Invariants
// - Nothing is locked here: the caller holds the locks, a writer's on the image and its data file, a reader's
//   on the images below.
// - Nothing is written before the first write is asked for.
// - Refused are images that must not be changed: corrupt or dirty ones, encrypted ones, features that imgtx
//   does not know, metadata that overlaps, and clusters in use that nobody counted (require-counted.ts).

import { elseClosed, ImgtxError } from "../../errors/index.ts";
import type { Storage, StorageFile } from "../../storage/index.ts";
import { hostOffset } from "../../units/index.ts";
import type { WritableImage } from "../image.ts";
import { OPENING_PASSED, openingNamed } from "../chain/open-gate.ts";
import type { ChainOptions } from "../chain/backing-chain.ts";
import { openImage, type OpenedImage } from "./open-image.ts";
import { isHalfChanged } from "./half-changed.ts";
import { isFencedHead } from "../qcow2/codec/fence.ts";
import { findConsistentBitmaps } from "../qcow2/codec/header-tables.ts";
import { HEADER_AT } from "../qcow2/codec/header.ts";
import type { Qcow2Header } from "../qcow2/codec/header-cluster.ts";
import { TABLE_ENTRY_BYTES } from "../qcow2/codec/limits.ts";
import type { Qcow2Link } from "../chain/chain-link.ts";
import { howToFindNames, shellQuote } from "../quote-name.ts";
import { readHead } from "../read-header.ts";
import { readSnapshotTable } from "../qcow2/read/qcow2-snapshots.ts";
import { requireCounted } from "../qcow2/check/require-counted.ts";
import { RawTarget } from "../raw/raw-target.ts";
import { MetadataMap } from "../qcow2/write/metadata-map.ts";
import { Qcow2Writer } from "../qcow2/write/qcow2-writer.ts";
import { WriterLayer } from "../qcow2/write/writer-layer.ts";
import { type WriterFiles, WriterState } from "../qcow2/write/writer-state.ts";

export interface WritingOptions extends Pick<ChainOptions, "format" | "gate" | "backing"> {
  /** The image's file where the caller has it open for writing already, and goes on to own it. */
  readonly file?: StorageFile | undefined;
  /** The same of its external data file. */
  readonly dataFile?: StorageFile | undefined;
  /**
   * Whether a power cut at any moment must leave a sound image: flushes are made where the order of writes
   * needs them. False for an image that nobody can find yet. Default: true.
   */
  readonly isOrdered?: boolean;
  /**
   * Keeps the refcounts up even where the image asks for lazy ones, which would leave it dirty when the writing is
   * cut off: whoever has to begin again could not. Default: false.
   */
  readonly isExact?: boolean;
  /** Whether no guest data changes, so that persistent bitmaps stay true. Default: false. */
  readonly keepsBitmaps?: boolean | undefined;
  /** Whether a fence may be up, which the caller has to answer for. It stays as it is. Default: false. */
  readonly isFenced?: boolean | undefined;
}

/**
 * Opens the image at path, which is absolute. The caller closes it. Errors are those of openImage;
 * E_REFUSED for a dirty image; E_CORRUPT for one that is marked corrupt, whose metadata overlaps, or whose refcounts
 * are too low.
 */
export async function openForWriting(
  storage: Storage,
  path: string,
  options: WritingOptions,
): Promise<WritableImage> {
  const { format, gate, backing = true } = options;
  const dataFileAt = options.dataFile?.path;
  const opened = await openImage(storage, path, { format, gate, backing, dataFileAt });
  const own: StorageFile[] = [];
  const close = async (): Promise<void> => {
    await Promise.all([opened.close(), ...own.map((file) => file.close())]);
  };
  return await elseClosed({ close }, async () => {
    const file = options.file ?? (await storage.openFile(path, "write", openingNamed(gate)));
    if (options.file === undefined) own.push(file);
    const [link] = opened.chain.links;
    if (link === undefined) throw new RangeError("a chain without an image");
    const { header } = link;
    if (header === undefined) {
      // A fenced qcow2 image by another name is fenced all the same.
      if (isFencedHead(await readHead(file))) throw isFrozen(path);
      return openRaw(path, file, link.virtualSizeBytes, close);
    }
    requireWritable(options.isFenced ? { ...header, isFenced: false, changer: undefined } : header, path);
    const dataFile = await openDataFile(storage, link.dataFile?.path, options, file, own);
    return await openQcow2({ ...link, header }, { file, dataFile, opened, options, close });
  });
}

function openRaw(
  path: string,
  file: StorageFile,
  virtualSizeBytes: number,
  close: () => Promise<void>,
): WritableImage {
  return new ClosingRawTarget(path, file, virtualSizeBytes, close);
}

class ClosingRawTarget extends RawTarget {
  readonly #closeAll: () => Promise<void>;

  constructor(path: string, file: StorageFile, virtualSizeBytes: number, close: () => Promise<void>) {
    super(path, file, virtualSizeBytes);
    this.#closeAll = close;
  }

  override async close(): Promise<void> {
    await this.#closeAll();
  }
}

async function openDataFile(
  storage: Storage,
  path: string | undefined,
  options: WritingOptions,
  file: StorageFile,
  own: StorageFile[],
): Promise<StorageFile> {
  if (path === undefined) return file;
  if (options.dataFile !== undefined) return options.dataFile;
  const dataFile = await storage.openFile(await storage.realPath(path), "write", OPENING_PASSED);
  own.push(dataFile);
  return dataFile;
}

interface WriterParts {
  readonly file: StorageFile;
  readonly dataFile: StorageFile;
  readonly opened: OpenedImage;
  readonly options: WritingOptions;
  readonly close: () => Promise<void>;
}

async function openQcow2(link: Qcow2Link, parts: WriterParts): Promise<WritableImage> {
  const { file, dataFile, options, opened, close } = parts;
  const { isOrdered = true, isExact, keepsBitmaps } = options;
  const state = await openWriterState(link, { file, dataFile, isOrdered, isExact, keepsBitmaps });
  return new Qcow2Writer(state, new WriterLayer(link, state), opened.layers.slice(1), close);
}

/**
 * The tables of an image that requireWritable let pass, with all its metadata claimed. isCounted: the caller had
 * requireCounted look at it as it is.
 */
export async function openWriterState(
  link: Qcow2Link,
  files: Pick<WriterFiles, "file" | "dataFile" | "isOrdered" | "isExact" | "keepsBitmaps">,
  { isCounted = false }: { readonly isCounted?: boolean } = {},
): Promise<WriterState> {
  const { header, path } = link;
  // An image that nobody can find yet is ours from its first byte on.
  if (files.isOrdered && !isCounted) await requireCounted(files.file, path);
  const metadata = new MetadataMap(path, header.clusterSizeBytes);
  await claimMetadata(metadata, link);
  return WriterState.open({ path, header, ...files }, metadata);
}

/** Everything that the refcount structures, and the L1 table with its L2 tables, do not claim themselves. */
async function claimMetadata(metadata: MetadataMap, link: Qcow2Link): Promise<void> {
  const { header } = link;
  metadata.claim("header", hostOffset(0), header.clusterSizeBytes);
  if (header.nbSnapshots > 0) {
    const { entries, lengthBytes } = await readSnapshotTable(link);
    metadata.claim("snapshot table", header.snapshotsOffset, lengthBytes);
    for (const { l1TableOffset, l1Size } of entries) {
      metadata.claim("L1 table of a snapshot", l1TableOffset, l1Size * TABLE_ENTRY_BYTES);
    }
  }
  const bitmaps = findConsistentBitmaps(header, header.extensions);
  if (bitmaps !== undefined) {
    metadata.claim("bitmap directory", bitmaps.bitmapDirectoryOffset, bitmaps.bitmapDirectorySize);
  }
}

export function requireWritable(header: Qcow2Header, image: string): void {
  if (header.isCorrupt) {
    throw new ImgtxError("E_CORRUPT", "the image is marked corrupt: it can be read, and not written to", {
      image,
      field: "incompatible_features",
      offset: HEADER_AT.incompatibleFeatures,
      hint: `\`imgtx img check -r all ${shellQuote(image)}\` repairs it, and takes the mark away`,
    });
  }
  if (header.changer !== undefined) throw isHalfChanged(image, header);
  if (header.isFenced) throw isFrozen(image);
  if (!header.isDirty) return;
  throw new ImgtxError("E_REFUSED", "the image is dirty: its refcounts may be behind its tables", {
    image,
    field: "incompatible_features",
    offset: HEADER_AT.incompatibleFeatures,
    hint: `\`imgtx img check -r all ${shellQuote(image)}\` brings them up to date`,
  });
}

/** Of an image whose fence keeps everybody from writing to it. */
export function isFrozen(image: string): ImgtxError {
  return new ImgtxError("E_REFUSED", "the image is frozen: nothing may be written to it", {
    image,
    field: "incompatible_features",
    offset: HEADER_AT.incompatibleFeatures,
    hint:
      "`imgtx unfreeze DEV` for its device ends that. Where a command was interrupted that knew the file by another name " +
      `(${howToFindNames(image)}), \`imgtx img check NAME\` with that ` +
      "name ends it. `imgtx unfreeze --force DEV` is for where neither is",
  });
}

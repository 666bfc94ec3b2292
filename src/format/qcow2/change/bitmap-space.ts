// The bitmaps of an image, and what a change of them needs of the rest of it: clusters for their structures, their
// refcounts, the directory and the header. Over the state that every writer of the image has.
//
// Invariants
// - Before anything is written, all metadata has its owner: what the writer's state claims, and the tables of the
//   bitmaps. Neither what is given away nor what is freed may be one of these.
// - A directory is rewritten in place where it fits its clusters. The header comes last: the refcount table may have
//   moved by then.
// - What is freed may be taken again at once: all of the change counts together, or the image is one that nobody can
//   find yet.

import { ImgtxError } from "../../../errors/index.ts";
import { alignUp, clusterAt, type HostOffset, hostOffset, offsetBy } from "../../../units/index.ts";
import type { ChainLink, Qcow2Link } from "../../chain/chain-link.ts";
import { openWriterState, requireWritable } from "../../open/open-for-writing.ts";
import { quoteName, shellQuote } from "../../quote-name.ts";
import { readOwnHeader } from "../../read-header.ts";
import { type BitmapEntry, encodeBitmapDirectory } from "../codec/bitmap.ts";
import { AUTOCLEAR_BIT } from "../codec/features.ts";
import type { Qcow2Header } from "../codec/header-cluster.ts";
import { findExtension, type HeaderExtension } from "../codec/header-extension.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { readBitmapTable } from "../read/qcow2-bitmaps.ts";
import { readSoundSnapshots } from "../read/qcow2-snapshots.ts";
import type { WriterState } from "../write/writer-state.ts";
import { encodeChangedHeader, writeHeader } from "./rewrite-header.ts";

type BitmapsExtension = Extract<HeaderExtension, { kind: "bitmaps" }>;

export interface SpaceOptions {
  /** Whether a judge has found everything in use counted, in the same command. Default: false. */
  readonly isCounted?: boolean;
  /** Whether nobody can find the image yet. Default: false. */
  readonly isNew?: boolean;
}

/** Requests come one after the other. */
export class BitmapSpace {
  readonly clusterBytes: number;
  readonly #link: Qcow2Link;
  readonly #state: WriterState;

  private constructor(link: Qcow2Link, state: WriterState) {
    this.clusterBytes = link.header.clusterSizeBytes;
    this.#link = link;
    this.#state = state;
  }

  /**
   * For an image with these bitmaps, whose file is written to. E_REFUSED for a dirty or frozen image, E_CORRUPT for
   * one that is marked so and for metadata that can't be true.
   */
  static async open(
    link: Qcow2Link,
    bitmaps: readonly BitmapEntry[],
    { isCounted = false, isNew = false }: SpaceOptions = {},
  ): Promise<BitmapSpace> {
    const { file, header, path } = link;
    requireWritable(header, path);
    await readSoundSnapshots(link);
    const files = { file, dataFile: file, isOrdered: !isNew, keepsBitmaps: true };
    const state = await openWriterState(link, files, { isCounted });
    for (const { name, bitmapTableOffset, bitmapTableSize } of bitmaps) {
      const what = `the table of bitmap ${quoteName(name)}`;
      state.metadata.claim(what, bitmapTableOffset, bitmapTableSize * TABLE_ENTRY_BYTES);
    }
    await state.begin();
    return new BitmapSpace(link, state);
  }

  /** The image, with the length that its file has come to. */
  get link(): Qcow2Link {
    return { ...this.#link, stat: { ...this.#link.stat, sizeBytes: this.#state.highWater } };
  }

  /** Contiguous clusters for these bytes, and the bytes in them. */
  async store(bytes: Uint8Array): Promise<HostOffset> {
    return await this.#state.store(bytes);
  }

  async write(bytes: Uint8Array, offset: HostOffset): Promise<void> {
    await this.#link.file.write(bytes, offset);
  }

  /** Gives back clusters of the bitmaps' metadata. Offsets are those of clusters. */
  async freeMetadata(offset: HostOffset, lengthBytes: number): Promise<void> {
    this.#state.metadata.release(offset, lengthBytes);
    await this.#lower(offset, lengthBytes);
  }

  /** Gives back one cluster of bits, or neighbours. E_CORRUPT where metadata lies there, or they are free already. */
  async freeBits(offset: HostOffset, lengthBytes: number): Promise<void> {
    this.#state.metadata.requireClear("a bitmap's cluster", offset, lengthBytes);
    await this.#lower(offset, lengthBytes);
  }

  /** All bits of a bitmap, in runs of neighbours, since QEMU writes them one after the other. */
  async freeAllBits(bitmap: BitmapEntry): Promise<void> {
    let [start, end] = [hostOffset(0), hostOffset(0)];
    for await (const entry of readBitmapTable(this.link, bitmap, bitmap.bitmapTableSize)) {
      if (entry.kind !== "data") continue;
      if (entry.hostOffset !== end) {
        if (end > start) await this.freeBits(start, end - start);
        start = entry.hostOffset;
      }
      end = offsetBy(entry.hostOffset, this.clusterBytes);
    }
    if (end > start) await this.freeBits(start, end - start);
  }

  /** Leaves the image with these bitmaps, and everything that was asked for in its file. */
  async finish(bitmaps: readonly BitmapEntry[]): Promise<void> {
    const extension = await this.#writeDirectory(bitmaps);
    await this.#state.finish();
    const { file, path } = this.#link;
    const header = await readOwnHeader(file, path);
    await writeHeader(file, header, encodeWithBitmaps(header, path, extension));
  }

  /** Where it was if it fits its clusters, else in new ones. Undefined without bitmaps. */
  async #writeDirectory(bitmaps: readonly BitmapEntry[]): Promise<BitmapsExtension | undefined> {
    const { clusterBytes } = this;
    const { extensions, autoclearFeatures } = this.#link.header;
    const isValid = autoclearFeatures.includes(AUTOCLEAR_BIT.bitmaps);
    const old = isValid ? findExtension(extensions, "bitmaps") : undefined;
    const oldStart = old?.bitmapDirectoryOffset ?? hostOffset(0);
    const oldSize = old?.bitmapDirectorySize ?? 0;
    const oldBytes = alignUp(oldSize, clusterBytes);
    // No name of what has gone is left in clusters that are free, or after the new end.
    if (oldSize > 0) await this.write(new Uint8Array(oldSize), oldStart);
    const bytes = encodeBitmapDirectory(bitmaps);
    const fits = bytes.length <= oldBytes;
    const start = fits ? oldStart : await this.store(bytes);
    if (fits) await this.write(bytes, start);
    const keptBytes = fits ? alignUp(bytes.length, clusterBytes) : 0;
    if (oldBytes > keptBytes) await this.freeMetadata(offsetBy(oldStart, keptBytes), oldBytes - keptBytes);
    if (bitmaps.length === 0) return undefined;
    return {
      kind: "bitmaps",
      nbBitmaps: bitmaps.length,
      bitmapDirectorySize: bytes.length,
      bitmapDirectoryOffset: start,
    };
  }

  async #lower(offset: HostOffset, lengthBytes: number): Promise<void> {
    const { clusterBytes } = this;
    await this.#state.giveBack(clusterAt(offset, clusterBytes), Math.ceil(lengthBytes / clusterBytes));
  }
}

/** E_UNSUPPORTED where the first cluster has no room for bitmaps. */
export function requireRoomForBitmaps({ header, path }: Pick<Qcow2Link, "header" | "path">): void {
  const somewhere = hostOffset(header.clusterSizeBytes);
  encodeWithBitmaps(header, path, {
    kind: "bitmaps",
    nbBitmaps: 1,
    bitmapDirectorySize: 0,
    bitmapDirectoryOffset: somewhere,
  });
}

/** The header with this extension, or without one: its autoclear bit says the same. Unknown ones can't be kept up. */
function encodeWithBitmaps(
  header: Qcow2Header,
  image: string,
  bitmaps: BitmapsExtension | undefined,
): Uint8Array {
  const known = header.autoclearFeatures.filter((bit) => bit === AUTOCLEAR_BIT.rawExternalData);
  const autoclearFeatures = bitmaps === undefined ? known : [AUTOCLEAR_BIT.bitmaps, ...known];
  const bytes = encodeChangedHeader(header, {
    fields: { ...header, autoclearFeatures },
    extensions: placeExtension(header.extensions, bitmaps),
  });
  if (bytes !== undefined) return bytes;
  throw new ImgtxError("E_UNSUPPORTED", "the header has no room for bitmaps in its cluster", {
    image,
    field: "bitmaps",
    hint: "`qemu-img convert -o cluster_size=64k` makes an image with room; a shorter backing file name may do",
  });
}

/** In the place of the old one; after all others where there was none. */
function placeExtension(
  extensions: readonly HeaderExtension[],
  bitmaps: BitmapsExtension | undefined,
): readonly HeaderExtension[] {
  const others = extensions.filter(({ kind }) => kind !== "bitmaps");
  if (bitmaps === undefined) return others;
  if (others.length === extensions.length) return [...others, bitmaps];
  return extensions.map((extension) => (extension.kind === "bitmaps" ? bitmaps : extension));
}

/** E_UNSUPPORTED for what can't have bitmaps. */
export function requireBitmaps<Link extends Pick<ChainLink, "header" | "path">>(
  link: Link,
): Link & { readonly header: Qcow2Header } {
  const { header, path } = link;
  if (header === undefined) {
    throw new ImgtxError("E_UNSUPPORTED", "an image of format raw has no bitmaps", {
      image: path,
      hint: "`imgtx reopen DEV FILE --shell` makes an image around the raw disk of a device that can have some",
    });
  }
  if (header.version === 2) {
    throw new ImgtxError("E_UNSUPPORTED", "Cannot store dirty bitmaps in qcow2 v2 files", {
      image: path,
      field: "version",
      offset: 4,
      hint: `\`imgtx img amend -o compat=1.1 ${shellQuote(path)}\` makes it version 3`,
    });
  }
  return { ...link, header };
}

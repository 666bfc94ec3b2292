// What a change of bitmaps needs of the rest of an image: clusters for their structures, their refcounts, and
// the header. Read from the image, and written to a file of its own choice.
//
// Invariants
// - Before anything is planned, all metadata has its owner: the header, refcount structures, L1 and L2 tables,
//   the snapshot table with its L1 tables, and the directory and the tables of bitmaps. Neither what is given
//   away nor what is freed may be one of these.
// - What the file grows by is bounded, whatever refcounts say: it counts when nothing may refuse any more, and a file
//   system's limit would be met there.

import { ImgtxError } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import { hostOffset } from "../../../units/index.ts";
import { DAMAGE_HINT, type ChainLink, type Qcow2Link } from "../../chain/chain-link.ts";
import { claimMetadata, requireWritable } from "../../open/open-for-writing.ts";
import type { BitmapEntry } from "../codec/bitmap.ts";
import { ClusterAllocator } from "../layout/cluster-allocator.ts";
import { AUTOCLEAR_BIT, encodeFeatureBits } from "../codec/features.ts";
import type { HeaderFields } from "../codec/header.ts";
import { encodeHeaderCluster, measureHeaderCluster } from "../codec/header-cluster.ts";
import type { HeaderExtension } from "../codec/header-extension.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { readSoundSnapshots } from "../read/qcow2-snapshots.ts";
import { quoteName } from "../../quote-name.ts";
import { readHead } from "../../read-header.ts";
import { requireCounted } from "../check/require-counted.ts";
import { L2Tables } from "../write/l2-tables.ts";
import { MetadataMap } from "../write/metadata-map.ts";
import { Refcounts } from "../write/refcounts.ts";

/** Counted clusters behind the end of a file are what a crash left; more than this no crash leaves. */
const COUNTED_BEHIND_END_MAX = 1024 ** 3;
const AUTOCLEAR_AT = 88;

/** Where the change goes: it reads as the image does until then. */
export type StagedBytes = Pick<StorageFile, "read" | "write" | "flush" | "truncate" | "stat">;

export type BitmapsExtension = Extract<HeaderExtension, { kind: "bitmaps" }>;

/** The parts of an image where bitmaps are. Requests come one after the other. */
export class BitmapSpace {
  readonly link: Qcow2Link;
  readonly clusterBytes: number;
  readonly #file: StagedBytes;
  readonly #refcounts: Refcounts;
  readonly #allocator: ClusterAllocator;
  readonly #metadata: MetadataMap;

  private constructor(
    link: Qcow2Link,
    parts: { file: StagedBytes; refcounts: Refcounts; metadata: MetadataMap },
  ) {
    this.link = link;
    this.clusterBytes = link.header.clusterSizeBytes;
    this.#file = parts.file;
    this.#refcounts = parts.refcounts;
    this.#metadata = parts.metadata;
    this.#allocator = new ClusterAllocator(parts.refcounts, link.header);
  }

  /**
   * For an image with these bitmaps. E_UNSUPPORTED for version 2, E_REFUSED for a dirty image, E_CORRUPT for
   * one that is marked so and for metadata that can't be true.
   */
  static async open(
    link: Qcow2Link,
    file: StagedBytes,
    bitmaps: readonly BitmapEntry[],
  ): Promise<BitmapSpace> {
    const { header, path, stat } = link;
    requireWritable(header, path);
    await requireCounted(link.file, path);
    const metadata = new MetadataMap(path, header.clusterSizeBytes);
    await readSoundSnapshots(link);
    await claimMetadata(metadata, link);
    const refcounts = await Refcounts.open(
      { path, header, metadata, file, isOrdered: false },
      stat.sizeBytes,
    );
    await L2Tables.open({ path, header, metadata, file: link.file }, stat.sizeBytes);
    const space = new BitmapSpace(link, { file, refcounts, metadata });
    for (const bitmap of bitmaps) space.#claimTable(bitmap);
    return space;
  }

  /** Contiguous clusters for these bytes, and the bytes in them. Returns where. */
  async store(bytes: Uint8Array): Promise<number> {
    const clusters = Math.ceil(bytes.length / this.clusterBytes);
    const start = (await this.#allocator.allocate(clusters)) * this.clusterBytes;
    const lengthBytes = clusters * this.clusterBytes;
    this.#metadata.claim("a new cluster", start, lengthBytes);
    this.#requireNear(start);
    await this.write(bytes, start);
    return start;
  }

  async write(bytes: Uint8Array, offset: number): Promise<void> {
    await this.#file.write(bytes, offset);
  }

  /** Gives back clusters of the bitmaps' metadata. Offsets are those of clusters. */
  async freeMetadata(offset: number, lengthBytes: number): Promise<void> {
    this.#metadata.release(offset, lengthBytes);
    await this.#lower(offset, lengthBytes);
  }

  /** Gives back clusters of bits. E_CORRUPT where metadata lies there, or they are free already. */
  async freeBits(offset: number, lengthBytes: number): Promise<void> {
    this.#metadata.requireClear("a bitmap's cluster", offset, lengthBytes);
    await this.#lower(offset, lengthBytes);
  }

  /**
   * The header with this extension, or without one: its autoclear bit says the same. E_UNSUPPORTED where the
   * first cluster has no room for it.
   */
  async writeHeader(bitmaps: BitmapsExtension | undefined): Promise<void> {
    const { header, path } = this.link;
    const known = header.autoclearFeatures.filter((bit) => bit === AUTOCLEAR_BIT.rawExternalData);
    const { backingFileName } = header;
    const fields: HeaderFields = {
      ...header,
      // The place of an empty name would end the extensions there.
      ...(backingFileName === undefined ? { backingFileOffset: hostOffset(0), backingFileSize: 0 } : {}),
      autoclearFeatures: bitmaps === undefined ? known : [AUTOCLEAR_BIT.bitmaps, ...known],
      refcountTableOffset: hostOffset(this.#refcounts.tableStart * this.clusterBytes),
      refcountTableClusters: (this.#refcounts.tableEntries * TABLE_ENTRY_BYTES) / this.clusterBytes,
    };
    const extensions = placeExtension(header.extensions, bitmaps);
    const bytes = encodeHeaderCluster({ fields, extensions, backingFileName });
    if (bytes === undefined) {
      throw new ImgtxError("E_UNSUPPORTED", "the header has no room for bitmaps in its cluster", {
        image: path,
        field: "bitmaps",
        hint: "`qemu-img convert -o cluster_size=64k` makes an image with room; a shorter backing file name may do",
      });
    }
    // What stood behind the new end, such as the tail of a longer area, goes.
    const usedBytes = measureHeaderCluster(await readHead(this.link.file));
    const whole = new Uint8Array(Math.max(bytes.length, Math.min(usedBytes, this.clusterBytes)));
    whole.set(bytes);
    await this.write(whole, 0);
  }

  /** For a change that leaves the header as it is, but for what imgtx does not know and can't keep up. */
  async clearUnknownAutoclear(): Promise<void> {
    const known: readonly number[] = Object.values(AUTOCLEAR_BIT);
    const mask = new DataView(new ArrayBuffer(8));
    const kept = this.link.header.autoclearFeatures.filter((bit) => known.includes(bit));
    mask.setBigUint64(0, encodeFeatureBits(kept));
    await this.write(new Uint8Array(mask.buffer), AUTOCLEAR_AT);
  }

  /** All that was asked for is in the file then. */
  async finish(): Promise<void> {
    await this.#refcounts.persist();
    const { sizeBytes } = await this.#file.stat();
    const end = Math.ceil(sizeBytes / this.clusterBytes) * this.clusterBytes;
    // A file that did not grow may end inside a cluster as before.
    if (sizeBytes <= this.link.stat.sizeBytes) return;
    this.#requireNear(end);
    await this.#file.truncate(end);
  }

  async #lower(offset: number, lengthBytes: number): Promise<void> {
    const clusters = Math.ceil(lengthBytes / this.clusterBytes);
    await this.#allocator.lower(offset / this.clusterBytes, clusters);
  }

  #claimTable({ name, bitmapTableOffset, bitmapTableSize }: BitmapEntry): void {
    const { path, stat } = this.link;
    const lengthBytes = bitmapTableSize * TABLE_ENTRY_BYTES;
    const end = Math.ceil(stat.sizeBytes / this.clusterBytes) * this.clusterBytes;
    if (bitmapTableOffset + lengthBytes > end) {
      throw new ImgtxError(
        "E_CORRUPT",
        `the table of bitmap ${quoteName(name)} ends past the end of the file`,
        {
          image: path,
          offset: bitmapTableOffset,
          field: "bitmap_table_offset",
          hint: DAMAGE_HINT,
        },
      );
    }
    this.#metadata.claim(`the table of bitmap ${quoteName(name)}`, bitmapTableOffset, lengthBytes);
  }

  #requireNear(offset: number): void {
    const { path, stat } = this.link;
    if (offset - stat.sizeBytes <= COUNTED_BEHIND_END_MAX) return;
    throw new ImgtxError(
      "E_CORRUPT",
      "refcounts say that clusters far behind the end of the file are in use",
      {
        image: path,
        offset,
        field: "refcount",
        hint: "`qemu-img check -r leaks` mends them",
      },
    );
  }
}

/** E_UNSUPPORTED for what can't have bitmaps. */
export function requireBitmaps(link: ChainLink): Qcow2Link {
  const { header, path } = link;
  if (header === undefined) {
    throw new ImgtxError("E_UNSUPPORTED", "an image of format raw has no bitmaps", {
      image: path,
      hint: "`qemu-img convert -O qcow2` makes an image that can have some",
    });
  }
  if (header.version === 2) {
    throw new ImgtxError("E_UNSUPPORTED", "Cannot store dirty bitmaps in qcow2 v2 files", {
      image: path,
      field: "version",
      offset: 4,
      hint: "`qemu-img amend -f qcow2 -o compat=1.1` makes it version 3",
    });
  }
  return { ...link, header };
}

/** In the place of the old one; behind all others where there was none. */
function placeExtension(
  extensions: readonly HeaderExtension[],
  bitmaps: BitmapsExtension | undefined,
): readonly HeaderExtension[] {
  const others = extensions.filter(({ kind }) => kind !== "bitmaps");
  if (bitmaps === undefined) return others;
  if (others.length === extensions.length) return [...others, bitmaps];
  return extensions.map((extension) => (extension.kind === "bitmaps" ? bitmaps : extension));
}

// What one qcow2 image that is being written to has in memory, and the order in which that gets to the disk.
//
// Invariants
// - Refcounts rise, durably, before an L1 or L2 entry points to the cluster; new tables are durable before an
//   entry of the L1 table points to them; so is guest data that was copied from elsewhere. The other order would
//   share a cluster, or show garbage. A crash in between leaks clusters, which check reclaims.
// - Refcounts fall, and clusters are given away again, when no durable entry points there any more.
// - With lazy refcounts the dirty bit is durable before the first change, and refcounts may lag behind it.
// - Everything here runs inside the turnstile: one change of tables at a time.
// - A failed flush has lost what it should have made durable: nothing is written after one.
// - Persistent bitmaps are not kept up: their autoclear bit is cleared, durably, before the first change of content, as
//   the specification asks of who does not know them. Backups start anew from there.
// - What a staged file grows by is bounded, whatever refcounts say: its log counts when nothing may refuse any more, and a
//   file system's limit would be met there.
// - Clusters are punched out of the file when their refcount has fallen to 0. QEMU does that only where it is told to.

import { ImgtxError } from "../../../errors/index.ts";
import { type StorageFile, Turnstile } from "../../../storage/index.ts";
import {
  alignUp,
  clusterAt,
  type ClusterIndex,
  type HostOffset,
  hostOffset,
  offsetBy,
  startOf,
} from "../../../units/index.ts";
import { ClusterAllocator } from "../layout/cluster-allocator.ts";
import { AUTOCLEAR_BIT, encodeFeatureBits, INCOMPATIBLE_BIT } from "../codec/features.ts";
import { HEADER_AT } from "../codec/header.ts";
import type { Qcow2Header } from "../codec/header-cluster.ts";
import type { L2Entry } from "../codec/l2-table.ts";
import { type L2Table, L2Tables } from "./l2-tables.ts";
import { shellQuote } from "../../quote-name.ts";
import type { MetadataMap } from "./metadata-map.ts";
import { type CountWindow, Refcounts } from "./refcounts.ts";

export interface WriterFiles {
  readonly path: string;
  readonly file: StorageFile;
  /** The image's own file where it has no external data file. */
  readonly dataFile: StorageFile;
  readonly header: Qcow2Header;
  /** Whether a power cut in between must leave a sound image. False for one that nobody can find yet. */
  readonly isOrdered: boolean;
  /** Whether refcounts are kept up even where the image asks for lazy ones; so they are where the file is staged. */
  readonly isExact?: boolean | undefined;
  /** Whether no guest data changes, so that persistent bitmaps stay true. */
  readonly keepsBitmaps?: boolean | undefined;
}

/** Counted clusters after the end of a file are what a crash left; more than this no crash leaves. */
export const COUNTED_AFTER_END_MAX = 1024 ** 3;

interface FreedClusters {
  readonly first: ClusterIndex;
  count: number;
  /** Whether their blocks are to be given back to the file system too. */
  readonly punches: boolean;
}

export class WriterState {
  readonly files: WriterFiles;
  readonly tables: L2Tables;
  readonly metadata: MetadataMap;
  readonly clusterBytes: number;
  readonly turnstile = new Turnstile();
  readonly #refcounts: Refcounts;
  readonly #allocator: ClusterAllocator;
  readonly #freed: FreedClusters[] = [];
  readonly #isLazy: boolean;
  /** After this nothing of the image was ever written: it reads as zeros, but on a block device. */
  #highWater: number;
  /** Whether what nothing of the image was written to reads as zeros: a block device has what its last user left. */
  readonly #endIsZero: boolean;
  /** Where the next compressed cluster may begin; 0 for none. */
  #freeByte = hostOffset(0);
  #hasBegun = false;
  #failure: unknown;

  private constructor(
    files: WriterFiles,
    parts: { tables: L2Tables; refcounts: Refcounts; metadata: MetadataMap },
    { highWater, endIsZero }: { readonly highWater: number; readonly endIsZero: boolean },
  ) {
    const { header } = files;
    this.files = files;
    this.tables = parts.tables;
    this.metadata = parts.metadata;
    this.#refcounts = parts.refcounts;
    this.#allocator = new ClusterAllocator(parts.refcounts, header);
    this.clusterBytes = header.clusterSizeBytes;
    this.#highWater = highWater;
    this.#endIsZero = endIsZero;
    const isExact = files.isExact === true || files.file.onDisk !== undefined;
    this.#isLazy = header.hasLazyRefcounts && files.isOrdered && !isExact;
  }

  /** Reads what has to be in memory. The header is claimed, and what else the caller knows of. */
  static async open(files: WriterFiles, metadata: MetadataMap): Promise<WriterState> {
    const { header, file } = files;
    const { sizeBytes, kind } = await file.stat();
    const refcounts = await Refcounts.open({ ...files, metadata }, sizeBytes);
    const tables = await L2Tables.open({ ...files, metadata }, sizeBytes);
    const isDevice = kind === "device";
    const highWater = isDevice
      ? startOf(await refcounts.findUsedEnd(), header.clusterSizeBytes)
      : alignUp(sizeBytes, header.clusterSizeBytes);
    return new WriterState(files, { tables, refcounts, metadata }, { highWater, endIsZero: !isDevice });
  }

  get highWater(): number {
    return this.#highWater;
  }

  /** Whether a cluster that was just allocated there, when the high water was this, reads as zeros. */
  isFresh(place: HostOffset, highWater: number): boolean {
    return this.#endIsZero && place >= highWater;
  }

  /** Before the first change: what the header promises and this change would break is taken back. */
  async begin(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#hasBegun) return;
    const { header, file } = this.files;
    // Bitmaps are not kept up here, and unknown features can't be: their bits say so.
    const isKept = (bit: number): boolean =>
      bit === AUTOCLEAR_BIT.rawExternalData ||
      (bit === AUTOCLEAR_BIT.bitmaps && this.files.keepsBitmaps === true);
    const kept = header.autoclearFeatures.filter(isKept);
    const clears = kept.length < header.autoclearFeatures.length;
    if (clears) {
      await this.#writeMask(HEADER_AT.autoclearFeatures, kept);
      if (this.files.isOrdered) await this.#flushFile(file, "autoclear-before-first-write");
    }
    // The dirty bit is durable with the first flush, which comes before any entry changes.
    if (this.#isLazy) {
      await this.#writeMask(HEADER_AT.incompatibleFeatures, [
        INCOMPATIBLE_BIT.dirty,
        ...header.incompatibleFeatures,
      ]);
    }
    this.#hasBegun = true;
  }

  /** The table of this part of the guest, one that may be changed. */
  async requireTable(l1Index: number): Promise<L2Table> {
    await this.#makeRoom();
    const place = this.tables.place(l1Index);
    if (place?.isOwn !== true) {
      const cluster = await this.allocate(1);
      const table = await this.tables.replace(l1Index, startOf(cluster, this.clusterBytes));
      if (place !== undefined) {
        this.metadata.release(place.hostOffset, this.clusterBytes);
        this.#freeClusters(place.hostOffset, this.clusterBytes, false);
      }
      return table;
    }
    const table = await this.tables.find(l1Index);
    if (table !== undefined) return table;
    throw new ImgtxError("E_INTERNAL", `L2 table ${l1Index} is gone`, { image: this.files.path });
  }

  async findTable(l1Index: number): Promise<L2Table | undefined> {
    await this.#makeRoom();
    return this.tables.find(l1Index);
  }

  /** Contiguous clusters with a count of 1. Returns the first. */
  async allocate(clusters: number): Promise<ClusterIndex> {
    const first = await this.#allocator.allocate(clusters);
    const offset = startOf(first, this.clusterBytes);
    this.metadata.requireClear("a new cluster", offset, clusters * this.clusterBytes);
    if (this.files.file.onDisk !== undefined) this.#requireNear(offset);
    this.#highWater = Math.max(this.#highWater, offset + clusters * this.clusterBytes);
    return first;
  }

  /** At least one cluster after all that was ever written to, and at most so many, which lie side by side. */
  async allocateAtEnd(most: number): Promise<{ readonly first: ClusterIndex; readonly clusters: number }> {
    for (;;) {
      const offset = hostOffset(this.#highWater);
      const first = clusterAt(offset, this.clusterBytes);
      const clusters = await this.#allocator.allocateAt(first, most);
      this.#highWater += Math.max(1, clusters) * this.clusterBytes;
      if (clusters === 0) continue;
      this.metadata.requireClear("a new cluster", offset, clusters * this.clusterBytes);
      return { first, clusters };
    }
  }

  #requireNear(offset: HostOffset): void {
    if (offset - this.#highWater <= COUNTED_AFTER_END_MAX) return;
    const message = "refcounts say that clusters far after the end of the file are in use";
    throw new ImgtxError("E_CORRUPT", message, {
      image: this.files.path,
      offset,
      field: "refcount",
      hint: `\`imgtx img convert -O qcow2 ${shellQuote(this.files.path)} COPY\` makes an image without them`,
    });
  }

  /** E_CORRUPT where an entry leads guest data to where none can be. */
  judgePlace(place: HostOffset, lengthBytes: number): void {
    if (place + lengthBytes > this.#highWater) {
      throw new ImgtxError("E_CORRUPT", `Cluster at 0x${place.toString(16)} lies past the end of the file`, {
        image: this.files.path,
        field: "l2_entry",
      });
    }
    this.metadata.requireClear("guest data", place, lengthBytes);
  }

  /** Nothing is written any more: the image was found damaged, and must not be made worse. */
  stop(reason: unknown): void {
    this.#failure ??= reason;
  }

  /** Takes back what nothing points to yet. */
  async giveBack(first: ClusterIndex, clusters: number): Promise<void> {
    await this.#allocator.lower(first, clusters);
  }

  /** Metadata at new clusters of its own; the rest of the last one is zeros. Of nothing there is no place: 0. */
  async store(bytes: Uint8Array): Promise<HostOffset> {
    const clusters = Math.ceil(bytes.length / this.clusterBytes);
    if (clusters === 0) return hostOffset(0);
    const place = startOf(await this.allocate(clusters), this.clusterBytes);
    const whole = new Uint8Array(clusters * this.clusterBytes);
    whole.set(bytes);
    await this.files.file.write(whole, place);
    return place;
  }

  /** The active tables without this one, whose entries the caller has let go of. */
  dropTable(l1Index: number, punches: boolean): void {
    const place = this.tables.remove(l1Index);
    if (place === undefined) return;
    this.metadata.release(place, this.clusterBytes);
    this.#freeClusters(place, this.clusterBytes, punches);
  }

  /** One reference more to clusters that are in use. */
  async raise(first: ClusterIndex, clusters: number): Promise<void> {
    while (!(await this.#allocator.raise(first, clusters)));
  }

  /** One reference less, once no durable entry has it. */
  release(offset: HostOffset, lengthBytes: number, punches: boolean): void {
    if (lengthBytes > 0) this.#freeClusters(offset, lengthBytes, punches);
  }

  async readCounts(cluster: ClusterIndex): Promise<CountWindow> {
    return await this.#refcounts.readCounts(cluster);
  }

  /** Where the clusters of the file end that are in use. */
  async findUsedEnd(): Promise<HostOffset> {
    return startOf(await this.#refcounts.findUsedEnd(), this.clusterBytes);
  }

  /** Room for compressed data, after the last one where that fits. */
  async allocateBytes(lengthBytes: number): Promise<HostOffset> {
    const { clusterBytes } = this;
    let offset = this.#freeByte;
    if (offset !== 0) {
      const count = await this.#refcounts.readCount(clusterAt(offset, clusterBytes));
      if (count >= this.#refcountMax) offset = hostOffset(0);
    }
    let room = offset === 0 ? 0 : clusterBytes - (offset % clusterBytes);
    for (;;) {
      if (room < lengthBytes) {
        const start = startOf(await this.#allocator.reserveOne(), clusterBytes);
        this.metadata.requireClear("a new cluster", start, clusterBytes);
        if (offset !== 0 && alignUp(offset, clusterBytes) === start) room += clusterBytes;
        else [offset, room] = [start, clusterBytes];
      }
      const first = clusterAt(offset, clusterBytes);
      const last = clusterAt(offsetBy(offset, lengthBytes - 1), clusterBytes);
      if (await this.#allocator.raise(first, last - first + 1)) break;
      [offset, room] = [hostOffset(0), 0];
    }
    const end = offsetBy(offset, lengthBytes);
    this.#freeByte = end % clusterBytes === 0 ? hostOffset(0) : end;
    this.#highWater = Math.max(this.#highWater, alignUp(end, clusterBytes));
    return offset;
  }

  /** Lets go of what an entry had, once no durable entry points there. */
  free(entry: L2Entry, punches: boolean): void {
    if (entry.kind === "unallocated" || this.files.header.hasExternalDataFile) return;
    if (entry.hostOffset === undefined) return;
    const lengthBytes = entry.kind === "compressed" ? entry.lengthBytes : this.clusterBytes;
    this.#freeClusters(entry.hostOffset, lengthBytes, punches);
  }

  /** Writes all tables, in the order that a power cut demands. What is written last may not be durable yet. */
  async persist(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.tables.isDirty) {
      if (!this.#isLazy) await this.#refcounts.persist();
      await this.tables.writeNew();
      await this.#flushInOrder("refcounts-before-references");
      await this.tables.writeChanged();
    }
    if (this.#freed.length === 0) return;
    await this.#flushInOrder("references-before-refcounts-fall");
    await this.#applyFreed();
  }

  /** Everything written before is durable when this returns. */
  async flush(purpose: string): Promise<void> {
    await this.persist();
    if (!this.#isLazy) await this.#refcounts.persist();
    const { file, dataFile } = this.files;
    if (dataFile !== file) await this.#flushFile(dataFile, purpose);
    await this.#flushFile(file, purpose);
  }

  /** Leaves the file as a clean image: refcounts exact, and no dirty bit. */
  async finish(): Promise<void> {
    if (!this.#hasBegun || this.#failure !== undefined) return;
    await this.persist();
    await this.#refcounts.persist();
    const { file, header } = this.files;
    if ((await file.stat()).sizeBytes < this.#highWater) await file.truncate(this.#highWater);
    this.#hasBegun = false;
    if (!this.#isLazy) return;
    await this.#flushInOrder("refcounts-before-clean");
    await this.#writeMask(HEADER_AT.incompatibleFeatures, header.incompatibleFeatures);
  }

  get #refcountMax(): number {
    return 2 ** Math.min(this.files.header.refcountBits, 52) - 1;
  }

  async #makeRoom(): Promise<void> {
    if (!this.tables.isFull || this.tables.shrink()) return;
    await this.persist();
    this.tables.shrink();
  }

  #freeClusters(offset: HostOffset, lengthBytes: number, punches: boolean): void {
    const first = clusterAt(offset, this.clusterBytes);
    const count = Math.ceil((offset + lengthBytes) / this.clusterBytes) - first;
    const last = this.#freed.at(-1);
    if (last !== undefined && last.punches === punches && last.first + last.count === first)
      last.count += count;
    else this.#freed.push({ first, count, punches });
  }

  async #applyFreed(): Promise<void> {
    for (;;) {
      const range = this.#freed.shift();
      if (range === undefined) return;
      await this.#allocator.lower(range.first, range.count);
      await this.#forgetFreeByte(range);
      if (range.punches) await this.#punch(range);
    }
  }

  /** A cluster that nothing uses any more may be given to anybody, its free rest included. */
  async #forgetFreeByte({ first, count }: FreedClusters): Promise<void> {
    const cluster = clusterAt(this.#freeByte, this.clusterBytes);
    if (this.#freeByte === 0 || cluster < first || cluster >= first + count) return;
    if ((await this.#refcounts.readCount(cluster)) === 0) this.#freeByte = hostOffset(0);
  }

  async #punch({ first, count }: FreedClusters): Promise<void> {
    const end = offsetBy(first, count);
    for (let at = await this.#refcounts.findFree(first, end); at < end; ) {
      const free = await this.#refcounts.countFree(at, end - at);
      const range = { start: startOf(at, this.clusterBytes), lengthBytes: free * this.clusterBytes };
      await this.files.file.punchHole(range);
      at = await this.#refcounts.findFree(offsetBy(at, free), end);
    }
  }

  async #flushInOrder(purpose: string): Promise<void> {
    if (!this.files.isOrdered) return;
    const { file, dataFile } = this.files;
    if (dataFile !== file) await this.#flushFile(dataFile, purpose);
    await this.#flushFile(file, purpose);
  }

  async #flushFile(file: StorageFile, purpose: string): Promise<void> {
    try {
      await file.flush(purpose);
    } catch (error) {
      this.#failure = error;
      throw error;
    }
  }

  async #writeMask(at: number, bits: readonly number[]): Promise<void> {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, encodeFeatureBits(bits));
    await this.files.file.write(bytes, at);
  }
}

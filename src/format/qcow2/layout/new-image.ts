// Where everything in a new qcow2 image goes: the plan of it, as plain data. The same requests are made of the
// same allocator in the same order as in QEMU, so that the tables lie where qemu-img lays them.
//
// Invariants
// - Pure: no file is touched, and a plan of many TiB is small. What it says is written by write-new-image.ts.
// - Every cluster in use has a refcount of 1, the refcount structures themselves included.

import {
  alignDown,
  alignUp,
  type ClusterIndex,
  clusterIndex,
  type HostOffset,
  offsetBy,
  startOf,
} from "../../../units/index.ts";
import { ClusterAllocator, tooLarge } from "./cluster-allocator.ts";
import {
  countL1Entries,
  L1_TABLE_BYTES_MAX,
  REFCOUNT_TABLE_BYTES_MAX,
  TABLE_ENTRY_BYTES,
} from "../codec/limits.ts";
import { type ClusterRange, NewImageCounts } from "./new-image-counts.ts";

export interface NewImageRequest {
  readonly virtualSizeBytes: number;
  readonly clusterBits: number;
  readonly refcountOrder: number;
  readonly extendedL2: boolean;
  readonly hasDataFile: boolean;
  readonly preallocation: "off" | "metadata" | "falloc" | "full";
}

/** Guest clusters that are mapped to host clusters in one run, inside one L2 table. */
export interface MappedRun {
  readonly l1Index: number;
  readonly firstEntry: number;
  readonly count: number;
  /** Where the first one's data is, in the image file or in the data file. */
  readonly hostOffset: HostOffset;
}

/** Places are clusters of the image file. */
export interface NewImageLayout {
  readonly clusterBits: number;
  readonly refcountOrder: number;
  readonly extendedL2: boolean;
  readonly refcountTable: ClusterRange;
  /** Of the refcount blocks, by their index in the table. */
  readonly blocks: readonly (ClusterIndex | undefined)[];
  /** Clusters with a refcount of 1. All others have 0. */
  readonly used: readonly ClusterRange[];
  readonly l1Size: number;
  /** Undefined for a table without entries. */
  readonly l1Start: ClusterIndex | undefined;
  /** Clusters of the L2 tables, by their index in the L1 table; empty without preallocation. */
  readonly l2Tables: readonly ClusterIndex[];
  readonly runs: readonly MappedRun[];
  readonly fileSizeBytes: number;
  /** Bytes of the image file that are to be given their blocks in advance. */
  readonly reserved: { readonly start: number; readonly lengthBytes: number } | undefined;
}

/** QEMU maps at most this much in one go. */
const MAPPED_BYTES_MAX = 2 ** 31 - 1;
/** And in steps of at most a slice of an L2 table. */
const SLICE_BYTES_MAX = 65_536;
const [REFCOUNT_TABLE, FIRST_BLOCK] = [clusterIndex(1), clusterIndex(2)];

/** What was planned last: a group of overlays is mostly of one size. Of small plans alone, since it stays in memory. */
let last: { readonly request: NewImageRequest; readonly layout: NewImageLayout } | undefined;

/** Undefined where the L1 table would be larger than QEMU reads. E_UNSUPPORTED for the refcount table. */
export async function planNewImage(request: NewImageRequest): Promise<NewImageLayout | undefined> {
  if (last && isSameRequest(last.request, request)) return last.layout;
  const l1Size = countL1Entries(request.virtualSizeBytes, request.clusterBits, request.extendedL2);
  if (l1Size * TABLE_ENTRY_BYTES > L1_TABLE_BYTES_MAX) return undefined;
  // Found before millions of blocks are planned: the data by itself has too many.
  if (countDataBlocks(request) * TABLE_ENTRY_BYTES > REFCOUNT_TABLE_BYTES_MAX) throw tooLarge();
  const layout = await new Planning(request, l1Size).run();
  if (request.preallocation === "off") last = { request, layout };
  return layout;
}

/** How many refcount blocks count the data clusters that are mapped in advance. */
function countDataBlocks(request: NewImageRequest): number {
  if (request.preallocation === "off" || request.hasDataFile) return 0;
  const clusterBytes = 2 ** request.clusterBits;
  const blockEntries = (clusterBytes * 8) / 2 ** request.refcountOrder;
  return Math.ceil(Math.ceil(request.virtualSizeBytes / clusterBytes) / blockEntries);
}

function isSameRequest(a: NewImageRequest, b: NewImageRequest): boolean {
  return (
    a.virtualSizeBytes === b.virtualSizeBytes &&
    a.clusterBits === b.clusterBits &&
    a.refcountOrder === b.refcountOrder &&
    a.extendedL2 === b.extendedL2 &&
    a.hasDataFile === b.hasDataFile &&
    a.preallocation === b.preallocation
  );
}

class Planning {
  readonly #request: NewImageRequest;
  readonly #clusterBytes: number;
  readonly #l2Entries: number;
  readonly #l1Size: number;
  readonly #counts: NewImageCounts;
  readonly #allocator: ClusterAllocator;
  readonly #l2Tables: ClusterIndex[] = [];
  readonly #runs: MappedRun[] = [];
  #dataEnd = 0;

  constructor(request: NewImageRequest, l1Size: number) {
    this.#request = request;
    this.#l1Size = l1Size;
    this.#clusterBytes = 2 ** request.clusterBits;
    this.#l2Entries = this.#clusterBytes / (request.extendedL2 ? 16 : 8);
    this.#counts = new NewImageCounts(this.#clusterBytes / TABLE_ENTRY_BYTES, REFCOUNT_TABLE, FIRST_BLOCK);
    this.#allocator = new ClusterAllocator(this.#counts, request);
  }

  async run(): Promise<NewImageLayout> {
    const { preallocation, hasDataFile } = this.#request;
    // The header, the refcount table and its first block.
    await this.#allocator.allocate(3);
    const l1Clusters = Math.ceil((this.#l1Size * TABLE_ENTRY_BYTES) / this.#clusterBytes);
    const l1Start = l1Clusters === 0 ? undefined : await this.#allocator.allocate(l1Clusters);
    let reserved: NewImageLayout["reserved"];
    if (preallocation !== "off" && (preallocation === "metadata" || hasDataFile)) await this.#mapAsNeeded();
    else if (preallocation !== "off") reserved = await this.#reserveData(l1Start);
    const { clusterBits, refcountOrder, extendedL2 } = this.#request;
    return {
      clusterBits,
      refcountOrder,
      extendedL2,
      refcountTable: { first: this.#counts.tableStart, count: this.#counts.tableClusters },
      blocks: this.#counts.blocks,
      used: this.#counts.used,
      l1Size: this.#l1Size,
      l1Start,
      l2Tables: this.#l2Tables,
      runs: this.#runs,
      fileSizeBytes: this.#measureFile(l1Start),
      reserved,
    };
  }

  /** Maps the whole disk as one who writes all of it in order would. */
  async #mapAsNeeded(): Promise<void> {
    const { virtualSizeBytes } = this.#request;
    const mostBytes = alignDown(MAPPED_BYTES_MAX, this.#clusterBytes);
    let guest = 0;
    while (guest < virtualSizeBytes) {
      const wanted = Math.min(virtualSizeBytes - guest, mostBytes);
      const { hostOffset, lengthBytes } = await this.#mapInOneGo(guest, wanted);
      guest += lengthBytes;
      if (!this.#request.hasDataFile) {
        this.#dataEnd = alignUp(hostOffset + lengthBytes, this.#clusterBytes);
      }
    }
  }

  /** Maps up to lengthBytes to one run of host clusters; it ends early where an L2 table gets in between. */
  async #mapInOneGo(
    guest: number,
    lengthBytes: number,
  ): Promise<{ hostOffset: HostOffset; lengthBytes: number }> {
    const sliceEntries = Math.min(this.#l2Entries, (SLICE_BYTES_MAX * this.#l2Entries) / this.#clusterBytes);
    const firstGuestCluster = guest / this.#clusterBytes;
    const clusters = Math.ceil(lengthBytes / this.#clusterBytes);
    let start: ClusterIndex | undefined;
    let done = 0;
    while (done < clusters) {
      const guestCluster = firstGuestCluster + done;
      await this.#requireL2Table(Math.floor(guestCluster / this.#l2Entries));
      const wanted = Math.min(clusters - done, sliceEntries - (guestCluster % sliceEntries));
      const got = await this.#takeClusters(
        start === undefined ? undefined : offsetBy(start, done),
        wanted,
        guestCluster,
      );
      if (got.count === 0) break;
      start ??= got.first;
      this.#map(guestCluster, got.first, got.count);
      done += got.count;
    }
    const mapped = Math.min(lengthBytes, done * this.#clusterBytes);
    return { hostOffset: startOf(start ?? clusterIndex(0), this.#clusterBytes), lengthBytes: mapped };
  }

  async #takeClusters(
    place: ClusterIndex | undefined,
    count: number,
    guestCluster: number,
  ): Promise<ClusterRange> {
    // A data file has each guest cluster at its own place.
    if (this.#request.hasDataFile) return { first: clusterIndex(guestCluster), count };
    if (place === undefined) return { first: await this.#allocator.allocate(count), count };
    return { first: place, count: await this.#allocator.allocateAt(place, count) };
  }

  /** One run of clusters for all data after new refcount structures that cover it. */
  async #reserveData(l1Start: ClusterIndex | undefined): Promise<NewImageLayout["reserved"]> {
    const fileEnd = clusterIndex(Math.ceil(this.#measureFile(l1Start) / this.#clusterBytes));
    const start = await this.#allocator.findUsedEnd(fileEnd);
    const clusters = Math.ceil(this.#request.virtualSizeBytes / this.#clusterBytes);
    const l2Tables = Math.ceil(clusters / this.#l2Entries) + 1;
    const oldSizeBytes = this.#measureFile(l1Start);
    const first = await this.#allocator.makeArea(start, clusters + l2Tables, true);
    await this.#allocator.allocateAt(first, clusters);
    this.#dataEnd = startOf(offsetBy(first, clusters), this.#clusterBytes);
    for (let guest = 0; guest < clusters; ) {
      const count = Math.min(clusters - guest, this.#l2Entries - (guest % this.#l2Entries));
      await this.#requireL2Table(Math.floor(guest / this.#l2Entries));
      this.#map(guest, offsetBy(first, guest), count);
      guest += count;
    }
    // QEMU reserves from where the file ended: after the refcount structures that it had written meanwhile.
    const reservedStart = Math.max(oldSizeBytes, startOf(first, this.#clusterBytes));
    return { start: reservedStart, lengthBytes: this.#dataEnd - reservedStart };
  }

  async #requireL2Table(l1Index: number): Promise<void> {
    if (l1Index < this.#l2Tables.length) return;
    this.#l2Tables.push(await this.#allocator.allocate(1));
  }

  #map(guestCluster: number, first: ClusterIndex, count: number): void {
    const l1Index = Math.floor(guestCluster / this.#l2Entries);
    const firstEntry = guestCluster % this.#l2Entries;
    const hostOffset = startOf(first, this.#clusterBytes);
    const last = this.#runs.at(-1);
    const joins =
      last?.l1Index === l1Index && last.hostOffset + last.count * this.#clusterBytes === hostOffset;
    if (last !== undefined && joins) {
      this.#runs[this.#runs.length - 1] = { ...last, count: last.count + count };
    } else this.#runs.push({ l1Index, firstEntry, count, hostOffset });
  }

  /** Up to the end of the last thing that is written: an L1 table ends with its last entry. */
  #measureFile(l1Start: ClusterIndex | undefined): number {
    const { tableStart, tableClusters, blocks } = this.#counts;
    let lastCluster = tableStart + tableClusters - 1;
    for (const block of blocks) lastCluster = Math.max(lastCluster, block ?? 0);
    for (const table of this.#l2Tables) lastCluster = Math.max(lastCluster, table);
    let end = (lastCluster + 1) * this.#clusterBytes;
    if (l1Start !== undefined) {
      end = Math.max(end, startOf(l1Start, this.#clusterBytes) + this.#l1Size * TABLE_ENTRY_BYTES);
    }
    return Math.max(end, this.#dataEnd);
  }
}

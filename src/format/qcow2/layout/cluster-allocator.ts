// Which clusters of an image file are given to whom: first fit from the lowest free one, as QEMU allocates, so
// that the same sequence of requests lays the same file.
//
// Invariants
// - Nothing here touches a file. A CountStore keeps the counts, the refcount blocks and the refcount table;
//   over an image that is the blocks themselves (refcounts.ts), over an image that is being planned a list of
//   ranges (new-image-counts.ts).
// - A new refcount block may take the very clusters that were about to be given away. So a request that needed
//   one starts its search again: raise says so by false, with everything it had raised taken back.
// - A count is raised before the caller learns of its cluster.
// - The header's cluster is never given back.

import { ImgtxError } from "../../../errors/index.ts";
import { type ClusterIndex, clusterIndex, nextUnit, offsetBy, startOf } from "../../../units/index.ts";
import { REFCOUNT_TABLE_BYTES_MAX, TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { countBlockEntries, countRefcountClusters, type RefcountLayout } from "../codec/refcount-table.ts";

export interface CountStore {
  /** Entries that the refcount table on disk has room for. */
  readonly tableEntries: number;
  readonly tableStart: ClusterIndex;
  hasBlock(index: number): boolean;
  /** The highest index with a block; -1 without any. */
  readonly lastBlock: number;
  /** Makes block `index` at a cluster, all its counts 0, and enters it into the table. */
  addBlock(index: number, cluster: ClusterIndex): Promise<void>;
  /** The first cluster from `first` on whose count is 0; where there is no block, all are. It may stop looking at end. */
  findFree(first: ClusterIndex, end?: ClusterIndex): Promise<ClusterIndex>;
  /** How many clusters from `first` on have a count of 0, at most `most`. */
  countFree(first: ClusterIndex, most: number): Promise<number>;
  readCount(cluster: ClusterIndex): Promise<number>;
  /** Adds `by` (1 or -1) to the counts of a range that lies in one block, which exists. */
  change(first: ClusterIndex, count: number, by: 1 | -1): Promise<void>;
  /** Gives the table a new place and size. Its entries are those of the old one, and addBlock's. */
  moveTable(start: ClusterIndex, clusters: number): Promise<void>;
}

const TABLE_ENTRIES_MAX = REFCOUNT_TABLE_BYTES_MAX / TABLE_ENTRY_BYTES;

export class ClusterAllocator {
  readonly #store: CountStore;
  readonly #layout: RefcountLayout;
  /** Clusters that one block counts. */
  readonly blockEntries: number;
  readonly #tableClusterEntries: number;
  /** Everything below is in use. */
  #firstFree = clusterIndex(0);

  constructor(store: CountStore, layout: RefcountLayout) {
    this.#store = store;
    this.#layout = layout;
    this.blockEntries = countBlockEntries(layout);
    this.#tableClusterEntries = 2 ** layout.clusterBits / TABLE_ENTRY_BYTES;
  }

  /** Contiguous clusters, each with a count of 1. Returns the first. */
  async allocate(clusters: number): Promise<ClusterIndex> {
    for (;;) {
      const first = await this.#reserve(clusters);
      const uncounted = this.#findWithoutBlock(first, clusters);
      if (uncounted === undefined) {
        if (await this.raise(first, clusters)) return first;
      } else {
        await this.#makeBlock(uncounted);
        this.#searchFrom(first);
      }
    }
  }

  /** As many of these clusters as are free from the first on, each with a count of 1. Returns how many. */
  async allocateAt(first: ClusterIndex, clusters: number): Promise<number> {
    for (;;) {
      const free = await this.#store.countFree(first, clusters);
      if (free === 0 || (await this.raise(first, free))) return free;
    }
  }

  /** The next free cluster, not counted yet: the caller raises it, and asks again where raise says false. */
  async reserveOne(): Promise<ClusterIndex> {
    return this.#reserve(1);
  }

  /**
   * Adds 1 to each count. False, and nothing changed, where refcount blocks had to be made first: what the
   * caller found free may not be so any more.
   */
  async raise(first: ClusterIndex, clusters: number): Promise<boolean> {
    const end = offsetBy(first, clusters);
    let at = first;
    while (at < end) {
      const index = Math.floor(at / this.blockEntries);
      if (!this.#store.hasBlock(index)) {
        await this.#makeBlock(at);
        this.#searchFrom(first);
        await this.lower(first, at - first);
        return false;
      }
      const count = Math.min(end, (index + 1) * this.blockEntries) - at;
      await this.#store.change(at, count, 1);
      at = offsetBy(at, count);
    }
    return true;
  }

  /** Takes 1 from each count. What gets to 0 is given away again. */
  async lower(first: ClusterIndex, clusters: number): Promise<void> {
    if (!Number.isInteger(first) || !Number.isInteger(clusters) || first < 1) {
      throw new ImgtxError(
        "E_INTERNAL",
        `${clusters} clusters would be freed at ${first}, where no cluster can be`,
      );
    }
    const end = offsetBy(first, clusters);
    for (let at = first; at < end; ) {
      const index = Math.floor(at / this.blockEntries);
      const count = Math.min(end, (index + 1) * this.blockEntries) - at;
      await this.#store.change(at, count, -1);
      const stop = offsetBy(at, count);
      const free = await this.#store.findFree(at, stop);
      if (free < stop) this.#searchFrom(free);
      at = offsetBy(at, count);
    }
  }

  /** Where the clusters in use below `end` end; 0 where none is. */
  async findUsedEnd(end: ClusterIndex): Promise<ClusterIndex> {
    for (let used = end; used > 0; used = offsetBy(used, -1)) {
      if ((await this.#store.readCount(offsetBy(used, -1))) > 0) return used;
    }
    return clusterIndex(0);
  }

  /**
   * New refcount structures from `start` on, after which nothing is: blocks and a table that cover all there
   * is, themselves, and `further` clusters after them. Returns the first cluster after them.
   */
  async makeArea(start: ClusterIndex, further: number, isExact: boolean): Promise<ClusterIndex> {
    const store = this.#store;
    const { blocks } = countRefcountClusters(start + further, this.#layout, !isExact);
    const wanted = isExact ? blocks : blocks + Math.ceil(blocks / 2);
    const tableClusters = Math.ceil(wanted / this.#tableClusterEntries);
    if (tableClusters * this.#tableClusterEntries > TABLE_ENTRIES_MAX) throw tooLarge();
    const firstBlock = Math.floor(start / this.blockEntries);
    let next = start;
    for (let index = firstBlock; index < blocks; index += 1) {
      if (store.hasBlock(index)) continue;
      await store.addBlock(index, next);
      next = offsetBy(next, 1);
    }
    const end = offsetBy(next, tableClusters);
    if ((await store.countFree(start, end - start)) < end - start) {
      throw new ImgtxError("E_CORRUPT", "a cluster past the end of the image has a refcount", {
        field: "refcount",
        offset: startOf(start, 2 ** this.#layout.clusterBits),
      });
    }
    for (let at = start; at < end; ) {
      const count = Math.min(end, nextUnit(at, this.blockEntries)) - at;
      await store.change(at, count, 1);
      at = offsetBy(at, count);
    }
    const old = { start: store.tableStart, clusters: store.tableEntries / this.#tableClusterEntries };
    await store.moveTable(next, tableClusters);
    await this.lower(old.start, old.clusters);
    return end;
  }

  #searchFrom(free: ClusterIndex): void {
    if (free < this.#firstFree) this.#firstFree = free;
  }

  /** The first cluster of the range that no block counts. */
  #findWithoutBlock(first: ClusterIndex, clusters: number): ClusterIndex | undefined {
    const last = Math.floor((first + clusters - 1) / this.blockEntries);
    for (let index = Math.floor(first / this.blockEntries); index <= last; index += 1) {
      if (!this.#store.hasBlock(index)) return clusterIndex(Math.max(first, index * this.blockEntries));
    }
    return undefined;
  }

  async #reserve(clusters: number): Promise<ClusterIndex> {
    let first = await this.#store.findFree(this.#firstFree);
    for (;;) {
      const free = clusters === 1 ? 1 : await this.#store.countFree(first, clusters);
      if (free === clusters) break;
      first = await this.#store.findFree(offsetBy(first, free));
    }
    this.#firstFree = offsetBy(first, clusters);
    return first;
  }

  /** Gives a cluster its refcount block. The search for clusters must start again after it. */
  async #makeBlock(cluster: ClusterIndex): Promise<void> {
    const store = this.#store;
    const index = Math.floor(cluster / this.blockEntries);
    const place = await this.#reserve(1);
    if (place === 0) {
      throw new ImgtxError("E_CORRUPT", "the header's cluster has a refcount of 0", {
        field: "refcount",
        offset: 0,
      });
    }
    const describesItself = Math.floor(place / this.blockEntries) === index;
    // Described elsewhere: that block may be missing too, and is then made first.
    if (!describesItself && !(await this.raise(place, 1))) return;
    const hasRoom = index < store.tableEntries;
    await store.addBlock(index, place);
    if (describesItself) await store.change(place, 1, 1);
    if (hasRoom) return;
    const covered = Math.ceil(Math.max(cluster + 1, place + 1) / this.blockEntries);
    await this.makeArea(clusterIndex(covered * this.blockEntries), 0, false);
  }
}

export function tooLarge(): ImgtxError {
  return new ImgtxError("E_UNSUPPORTED", "the image's refcount table would exceed 8 MiB", {
    field: "refcount_table_clusters",
    hint: "choose larger clusters",
  });
}

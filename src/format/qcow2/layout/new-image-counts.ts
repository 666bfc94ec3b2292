// The refcounts of an image that does not exist yet: which clusters it will use, each once.
//
// Invariant: ranges are in order, apart, and not empty. A new image has a handful of them, whatever its size,
// so that planning one of many TiB takes no memory to speak of.

import { ImgtxError } from "../../../errors/index.ts";
import { type ClusterIndex, offsetBy } from "../../../units/index.ts";
import type { CountStore } from "./cluster-allocator.ts";

export interface ClusterRange {
  readonly first: ClusterIndex;
  readonly count: number;
}

function endOf({ first, count }: ClusterRange): ClusterIndex {
  return offsetBy(first, count);
}

export class NewImageCounts implements CountStore {
  readonly #tableClusterEntries: number;
  readonly #blocks: (ClusterIndex | undefined)[] = [];
  readonly #used: ClusterRange[] = [];
  #tableStart: ClusterIndex;
  #tableClusters: number;

  /** A refcount table of one cluster, and its first block, both still to be counted. */
  constructor(tableClusterEntries: number, tableStart: ClusterIndex, firstBlock: ClusterIndex) {
    this.#tableClusterEntries = tableClusterEntries;
    this.#tableStart = tableStart;
    this.#tableClusters = 1;
    this.#blocks.push(firstBlock);
  }

  get tableStart(): ClusterIndex {
    return this.#tableStart;
  }

  get tableClusters(): number {
    return this.#tableClusters;
  }

  get tableEntries(): number {
    return this.#tableClusters * this.#tableClusterEntries;
  }

  get lastBlock(): number {
    return this.#blocks.length - 1;
  }

  /** Clusters of the blocks, by their index; undefined where there is none. */
  get blocks(): readonly (ClusterIndex | undefined)[] {
    return this.#blocks;
  }

  get used(): readonly ClusterRange[] {
    return this.#used;
  }

  hasBlock(index: number): boolean {
    return this.#blocks[index] !== undefined;
  }

  async addBlock(index: number, cluster: ClusterIndex): Promise<void> {
    while (this.#blocks.length < index) this.#blocks.push(undefined);
    this.#blocks[index] = cluster;
  }

  async findFree(first: ClusterIndex): Promise<ClusterIndex> {
    const range = this.#used[this.#search(first)];
    return range === undefined || range.first > first ? first : endOf(range);
  }

  async countFree(first: ClusterIndex, most: number): Promise<number> {
    const range = this.#used[this.#search(first)];
    return range === undefined ? most : Math.min(most, Math.max(0, range.first - first));
  }

  async readCount(cluster: ClusterIndex): Promise<number> {
    return (await this.findFree(cluster)) === cluster ? 0 : 1;
  }

  async change(first: ClusterIndex, count: number, by: 1 | -1): Promise<void> {
    if (count === 0) return;
    const isFree = (await this.countFree(first, count)) === count;
    const isUsed = (await this.findFree(first)) >= first + count;
    if (by === 1 ? !isFree : !isUsed) {
      throw new ImgtxError(
        "E_INTERNAL",
        `cluster ${first} of a new image would be ${by === 1 ? "taken" : "freed"} twice`,
      );
    }
    const end = offsetBy(first, count);
    // With the neighbours that touch the range, so that what belongs together stays one.
    const from = this.#search(offsetBy(first, -1));
    let to = from;
    while ((this.#used[to]?.first ?? Number.POSITIVE_INFINITY) <= end) to += 1;
    const touched = this.#used.slice(from, to);
    const [before] = touched;
    const start = before && before.first < first ? before.first : first;
    const last = touched.at(-1);
    const stop = Math.max(end, last === undefined ? end : endOf(last));
    const pieces =
      by === 1
        ? [{ first: start, count: stop - start }]
        : [
            { first: start, count: first - start },
            { first: end, count: stop - end },
          ];
    this.#used.splice(from, to - from, ...pieces.filter((piece) => piece.count > 0));
  }

  async moveTable(start: ClusterIndex, clusters: number): Promise<void> {
    this.#tableStart = start;
    this.#tableClusters = clusters;
  }

  /** Index of the first range that ends past the cluster. */
  #search(cluster: ClusterIndex): number {
    let low = 0;
    let high = this.#used.length;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      const range = this.#used[middle];
      if (range !== undefined && endOf(range) <= cluster) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

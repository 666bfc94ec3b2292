// The refcounts of an image that is being written to: its table in memory, its blocks in a write-back cache.
//
// Invariants
// - A count on disk is never lower than what durable tables refer to. Raised counts are written and flushed
//   by persist, before the caller writes what points to the clusters; counts are lowered here only when
//   nothing durable points there any more. So a block may be written at any time.
// - A new block is durable before the table's entry for it, and a new table before the header's pointer.
// - Blocks lie inside the file and clear of all other metadata.
// - What leaves the cache gives its memory to what comes: a full disk has gigabytes of blocks, and a collector would come
//   too late for them. So the bytes of a block are read before anything else is asked for, as callers do one at a time.

import { ImgtxError } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import {
  alignUp,
  clusterAt,
  type ClusterIndex,
  clusterIndex,
  hostOffset,
  offsetBy,
  startOf,
} from "../../../units/index.ts";
import type { CountStore } from "../layout/cluster-allocator.ts";
import { HEADER_AT } from "../codec/header.ts";
import type { Qcow2Header } from "../codec/header-cluster.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import {
  fillRefcounts,
  findFreeEntry,
  findUsedEntry,
  maxRefcount,
  readRefcount,
  writeRefcount,
} from "../codec/refcount-block.ts";
import { shellQuote } from "../../quote-name.ts";
import { readBytes } from "../../read-header.ts";
import type { MetadataMap } from "./metadata-map.ts";

interface Block {
  readonly bytes: Uint8Array;
  isDirty: boolean;
}

/** The counts of clusters first to end, as a block has them. To be read before anything else changes them. */
export interface CountWindow {
  readonly first: ClusterIndex;
  readonly end: ClusterIndex;
  readonly bytes: Uint8Array;
}

const CACHE_BYTES = 16 * 1024 * 1024;
/** refcount_table_offset and refcount_table_clusters, side by side in one sector of the header. */
const HEADER_FIELDS_BYTES = 12;

export interface RefcountsOptions {
  readonly path: string;
  readonly file: Pick<StorageFile, "read" | "write" | "flush">;
  readonly header: Qcow2Header;
  readonly metadata: MetadataMap;
  /** Whether what is written has to survive a power cut in between. */
  readonly isOrdered: boolean;
}

export class Refcounts implements CountStore {
  readonly #options: RefcountsOptions;
  readonly #clusterBytes: number;
  readonly #order: number;
  readonly #blockEntries: number;
  /** Offset of each block; 0 where there is none. Longer than the table on disk while that is to grow. */
  #table: Float64Array;
  #tableStart: ClusterIndex;
  #tableClusters: number;
  /** Blocks that the table on disk does not have yet. */
  readonly #unhooked = new Set<number>();
  readonly #blocks = new Map<number, Block>();
  lastBlock: number;

  private constructor(options: RefcountsOptions, table: Float64Array, lastBlock: number) {
    const { header } = options;
    this.#options = options;
    this.#clusterBytes = header.clusterSizeBytes;
    this.#order = header.refcountOrder;
    this.#blockEntries = (this.#clusterBytes * 8) / header.refcountBits;
    this.#table = table;
    this.#tableStart = clusterAt(header.refcountTableOffset, this.#clusterBytes);
    this.#tableClusters = header.refcountTableClusters;
    this.lastBlock = lastBlock;
  }

  /** Reads the table, and claims it and all blocks as metadata. E_CORRUPT where they can't be true. */
  static async open(options: RefcountsOptions, fileSizeBytes: number): Promise<Refcounts> {
    const { header, file, metadata, path } = options;
    const { clusterSizeBytes } = header;
    const lengthBytes = header.refcountTableClusters * clusterSizeBytes;
    metadata.claim("refcount table", header.refcountTableOffset, lengthBytes);
    const bytes = await readBytes(file, header.refcountTableOffset, lengthBytes);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, Math.floor(bytes.length / 4));
    const fileEnd = alignUp(fileSizeBytes, clusterSizeBytes);
    const table = new Float64Array(lengthBytes / TABLE_ENTRY_BYTES);
    let lastBlock = -1;
    for (let at = 0; at + TABLE_ENTRY_BYTES <= bytes.length; at += TABLE_ENTRY_BYTES) {
      // Most of the table is empty, and gone through without a call for each entry.
      if (words[at / 4] === 0 && words[at / 4 + 1] === 0) continue;
      const offset = hostOffset(view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4));
      if (offset % clusterSizeBytes !== 0 || offset + clusterSizeBytes > fileEnd) {
        throw new ImgtxError(
          "E_CORRUPT",
          `refcount block ${at / TABLE_ENTRY_BYTES} can't be at 0x${offset.toString(16)}`,
          { image: path, offset: header.refcountTableOffset + at, field: "refcount_table_entry" },
        );
      }
      metadata.claim("refcount block", offset, clusterSizeBytes);
      lastBlock = at / TABLE_ENTRY_BYTES;
      table[lastBlock] = offset;
    }
    return new Refcounts(options, table, lastBlock);
  }

  get tableEntries(): number {
    return (this.#tableClusters * this.#clusterBytes) / TABLE_ENTRY_BYTES;
  }

  get tableStart(): ClusterIndex {
    return this.#tableStart;
  }

  hasBlock(index: number): boolean {
    return (this.#table[index] ?? 0) !== 0;
  }

  async addBlock(index: number, cluster: ClusterIndex): Promise<void> {
    if (this.hasBlock(index)) {
      throw new ImgtxError("E_INTERNAL", `refcount block ${index} would be made a second time`, {
        image: this.#options.path,
      });
    }
    const bytes = (await this.#takeMemory()).fill(0);
    const offset = startOf(cluster, this.#clusterBytes);
    this.#options.metadata.claim("new refcount block", offset, this.#clusterBytes);
    if (index >= this.#table.length) {
      const longer = new Float64Array(Math.max(index + 1, this.#table.length * 2));
      longer.set(this.#table);
      this.#table = longer;
    }
    this.#table[index] = offset;
    this.lastBlock = Math.max(this.lastBlock, index);
    this.#unhooked.add(index);
    this.#blocks.set(index, { bytes, isDirty: true });
  }

  async findFree(first: ClusterIndex, end?: ClusterIndex): Promise<ClusterIndex> {
    let cluster = first;
    for (;;) {
      if (end !== undefined && cluster >= end) return end;
      const { index, entry } = this.#placeOf(cluster);
      if (!this.hasBlock(index)) return cluster;
      const { bytes } = await this.#load(index);
      const stop = Math.min(this.#blockEntries, entry + (end ?? Number.POSITIVE_INFINITY) - cluster);
      const free = findFreeEntry(bytes, entry, stop, this.#order);
      cluster = offsetBy(cluster, free - entry);
      if (free < stop) return cluster;
    }
  }

  async countFree(first: ClusterIndex, most: number): Promise<number> {
    let count = 0;
    while (count < most) {
      const { index, entry } = this.#placeOf(offsetBy(first, count));
      const stop = Math.min(entry + most - count, this.#blockEntries);
      if (this.hasBlock(index)) {
        const { bytes } = await this.#load(index);
        const used = findUsedEntry(bytes, entry, stop, this.#order);
        if (used < stop) return count + used - entry;
      }
      count += stop - entry;
    }
    return most;
  }

  /** The block that counts a cluster, and which of its entries does. */
  #placeOf(cluster: ClusterIndex): { readonly index: number; readonly entry: number } {
    return { index: Math.floor(cluster / this.#blockEntries), entry: cluster % this.#blockEntries };
  }

  #clusterOf(index: number, entry: number): ClusterIndex {
    return clusterIndex(index * this.#blockEntries + entry);
  }

  /** The block that counts the cluster; zeros where there is none. */
  async readCounts(cluster: ClusterIndex): Promise<CountWindow> {
    const { index } = this.#placeOf(cluster);
    const first = this.#clusterOf(index, 0);
    const bytes = this.hasBlock(index) ? (await this.#load(index)).bytes : new Uint8Array(this.#clusterBytes);
    return { first, end: offsetBy(first, this.#blockEntries), bytes };
  }

  /** Where the clusters in use end. */
  async findUsedEnd(): Promise<ClusterIndex> {
    for (let index = this.lastBlock; index >= 0; index -= 1) {
      if (!this.hasBlock(index)) continue;
      const { bytes } = await this.#load(index);
      for (let entry = this.#blockEntries - 1; entry >= 0; entry -= 1) {
        if (readRefcount(bytes, entry, this.#order) > 0) return this.#clusterOf(index, entry + 1);
      }
    }
    return clusterIndex(0);
  }

  async readCount(cluster: ClusterIndex): Promise<number> {
    const { index, entry } = this.#placeOf(cluster);
    if (!this.hasBlock(index)) return 0;
    const { bytes } = await this.#load(index);
    return readRefcount(bytes, entry, this.#order);
  }

  async change(first: ClusterIndex, count: number, by: 1 | -1): Promise<void> {
    if (count === 0) return;
    const { index, entry: from } = this.#placeOf(first);
    if (!this.hasBlock(index)) throw this.#impossible(first, by);
    const block = await this.#load(index);
    block.isDirty = true;
    const to = from + count;
    // The usual case: fresh clusters, all at once.
    if (by === 1 && findUsedEntry(block.bytes, from, to, this.#order) === to) {
      fillRefcounts(block.bytes, from, count, this.#order, 1);
      return;
    }
    for (let entry = from; entry < to; entry += 1) {
      const next = readRefcount(block.bytes, entry, this.#order) + by;
      if (next < 0 || next > maxRefcount(this.#order)) {
        throw this.#impossible(this.#clusterOf(index, entry), by);
      }
      writeRefcount(block.bytes, entry, this.#order, next);
    }
  }

  /** Everything of the new table at once: what is at the old place holds until the header points to the new. */
  async moveTable(start: ClusterIndex, clusters: number): Promise<void> {
    const { file, metadata } = this.#options;
    const lengthBytes = clusters * this.#clusterBytes;
    const offset = startOf(start, this.#clusterBytes);
    metadata.claim("new refcount table", offset, lengthBytes);
    await this.#writeBlocks();
    const bytes = new Uint8Array(lengthBytes);
    const view = new DataView(bytes.buffer);
    for (let index = 0; index <= this.lastBlock; index += 1) this.#encodeEntry(view, index, index);
    await file.write(bytes, offset);
    await this.#flushInOrder("refcount-table-before-header");
    const fields = new DataView(new ArrayBuffer(HEADER_FIELDS_BYTES));
    fields.setBigUint64(0, BigInt(offset));
    fields.setUint32(8, clusters);
    await file.write(new Uint8Array(fields.buffer), HEADER_AT.refcountTableOffset);
    // The old table's clusters are given away next.
    await this.#flushInOrder("header-before-old-refcount-table");
    metadata.release(startOf(this.#tableStart, this.#clusterBytes), this.#tableClusters * this.#clusterBytes);
    this.#tableStart = start;
    this.#tableClusters = clusters;
    this.#unhooked.clear();
  }

  /** Writes every changed count. The caller flushes before it writes what relies on them. */
  async persist(): Promise<void> {
    await this.#writeBlocks();
    while (this.#unhooked.size > 0) {
      // An entry that outlived its block would lead to garbage instead of counts. And a block that is counted
      // by another new one would seem to be free if its entry came first: so those wait for the next round.
      await this.#flushInOrder("refcount-blocks-before-table");
      const ready = [...this.#unhooked].filter((index) => this.#isCounted(index));
      ready.sort((one, other) => one - other);
      await this.#writeEntries(ready);
      for (const index of ready) this.#unhooked.delete(index);
    }
  }

  /** Whether the block that counts this one's cluster is itself, or in the table on disk. */
  #isCounted(index: number): boolean {
    const counter = Math.floor((this.#table[index] ?? 0) / this.#clusterBytes / this.#blockEntries);
    return counter === index || !this.#unhooked.has(counter);
  }

  /** Neighbours go out in one write. */
  async #writeEntries(indices: readonly number[]): Promise<void> {
    for (let from = 0; from < indices.length; ) {
      const first = indices[from] ?? 0;
      let count = 1;
      while (indices[from + count] === first + count) count += 1;
      const bytes = new Uint8Array(count * TABLE_ENTRY_BYTES);
      const view = new DataView(bytes.buffer);
      for (let position = 0; position < count; position += 1) {
        this.#encodeEntry(view, position, first + position);
      }
      const tableOffset = startOf(this.#tableStart, this.#clusterBytes);
      await this.#options.file.write(bytes, tableOffset + first * TABLE_ENTRY_BYTES);
      from += count;
    }
  }

  #encodeEntry(view: DataView, position: number, index: number): void {
    view.setBigUint64(position * TABLE_ENTRY_BYTES, BigInt(this.#table[index] ?? 0));
  }

  async #flushInOrder(purpose: string): Promise<void> {
    if (this.#options.isOrdered) await this.#options.file.flush(purpose);
  }

  async #load(index: number): Promise<Block> {
    const known = this.#blocks.get(index);
    if (known !== undefined) return known;
    const bytes = await this.#takeMemory();
    bytes.fill(0, await this.#options.file.read(bytes, this.#table[index] ?? 0));
    const block = { bytes, isDirty: false };
    this.#blocks.set(index, block);
    return block;
  }

  /** For one block more. First in, first out: allocation moves through the file, and comes back rarely. */
  async #takeMemory(): Promise<Uint8Array> {
    const most = Math.max(2, Math.floor(CACHE_BYTES / this.#clusterBytes));
    const [oldest] = this.#blocks;
    if (oldest === undefined || this.#blocks.size < most) return new Uint8Array(this.#clusterBytes);
    const [index, block] = oldest;
    if (block.isDirty) await this.#writeBlock(index, block);
    this.#blocks.delete(index);
    return block.bytes;
  }

  async #writeBlocks(): Promise<void> {
    for (const [index, block] of this.#blocks) if (block.isDirty) await this.#writeBlock(index, block);
  }

  async #writeBlock(index: number, block: Block): Promise<void> {
    await this.#options.file.write(block.bytes, this.#table[index] ?? 0);
    block.isDirty = false;
  }

  #impossible(cluster: ClusterIndex, by: 1 | -1): ImgtxError {
    const offset = startOf(cluster, this.#clusterBytes);
    const what = by === 1 ? "can't be raised any more" : "is 0 and would have to fall";
    return new ImgtxError("E_CORRUPT", `the refcount of the cluster at 0x${offset.toString(16)} ${what}`, {
      image: this.#options.path,
      offset,
      field: "refcount",
      hint: `\`imgtx img check -r all ${shellQuote(this.#options.path)}\` mends refcounts`,
    });
  }
}

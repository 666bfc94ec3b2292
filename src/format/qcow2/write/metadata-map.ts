// Which clusters of an image file are metadata, so that nothing is written over it: neither by guest data
// that a damaged entry leads there, nor by an allocation that a wrong refcount allows.
//
// Invariants
// - A cluster has one owner at most. Claiming one twice is E_CORRUPT: the image contradicts itself.
// - Memory follows the metadata, not the file: bits are kept only where some are set.

import { ImgtxError } from "../../../errors/index.ts";
import type { ByteRange } from "../../../storage/index.ts";
import {
  clusterAt,
  type ClusterIndex,
  clusterIndex,
  type HostOffset,
  offsetBy,
  startOf,
} from "../../../units/index.ts";

const CHUNK_CLUSTERS = 32_768;

export class MetadataMap {
  readonly #image: string;
  readonly #clusterBytes: number;
  readonly #chunks = new Map<number, Uint8Array>();

  constructor(image: string, clusterBytes: number) {
    this.#image = image;
    this.#clusterBytes = clusterBytes;
  }

  /** Offsets in bytes; a cluster that is owned in part is owned. */
  claim(what: string, offset: HostOffset, lengthBytes: number): void {
    const [first, end] = this.#clusters(offset, lengthBytes);
    for (let cluster = first; cluster < end; cluster = offsetBy(cluster, 1)) {
      if (this.#has(cluster)) throw this.#overlap(what, cluster);
      this.#set(cluster, true);
    }
  }

  release(offset: HostOffset, lengthBytes: number): void {
    const [first, end] = this.#clusters(offset, lengthBytes);
    for (let cluster = first; cluster < end; cluster = offsetBy(cluster, 1)) this.#set(cluster, false);
  }

  /** E_CORRUPT where what is to be written there would hit metadata. */
  requireClear(what: string, offset: HostOffset, lengthBytes: number): void {
    const [first, end] = this.#clusters(offset, lengthBytes);
    const owned = this.#findOwned(first, end);
    if (owned < end) throw this.#overlap(what, clusterIndex(owned));
  }

  /** The first from `first` on and before `end` that is; end where there is none. Most are looked at eight at a time. */
  #findOwned(first: number, end: number): number {
    for (let at = first; at < end; ) {
      const number = Math.floor(at / CHUNK_CLUSTERS);
      const chunk = this.#chunks.get(number);
      const from = number * CHUNK_CLUSTERS;
      const stop = Math.min(end, from + CHUNK_CLUSTERS);
      if (chunk === undefined) {
        at = stop;
        continue;
      }
      while (at < stop) {
        const bit = at - from;
        const byte = chunk[bit >>> 3] ?? 0;
        if (byte === 0) at = from + (bit | 7) + 1;
        else if (((byte >>> (bit & 7)) & 1) === 1) return at;
        else at += 1;
      }
    }
    return end;
  }

  /** All that is claimed, in runs of whole clusters. The last one may reach past the end of the file. */
  *ranges(): Generator<ByteRange> {
    for (const number of [...this.#chunks.keys()].sort((a, b) => a - b)) {
      const start = clusterIndex(number * CHUNK_CLUSTERS);
      const end = offsetBy(start, CHUNK_CLUSTERS);
      for (let cluster = start; cluster < end; cluster = offsetBy(cluster, 1)) {
        const first = cluster;
        while (cluster < end && this.#has(cluster)) cluster = offsetBy(cluster, 1);
        const lengthBytes = (cluster - first) * this.#clusterBytes;
        if (lengthBytes > 0) yield { start: startOf(first, this.#clusterBytes), lengthBytes };
      }
    }
  }

  #clusters(offset: HostOffset, lengthBytes: number): readonly [ClusterIndex, ClusterIndex] {
    const end = offsetBy(offset, lengthBytes + this.#clusterBytes - 1);
    return [clusterAt(offset, this.#clusterBytes), clusterAt(end, this.#clusterBytes)];
  }

  #has(cluster: ClusterIndex): boolean {
    const chunk = this.#chunks.get(Math.floor(cluster / CHUNK_CLUSTERS));
    if (chunk === undefined) return false;
    const bit = cluster % CHUNK_CLUSTERS;
    return (((chunk[bit >>> 3] ?? 0) >>> (bit & 7)) & 1) === 1;
  }

  #set(cluster: ClusterIndex, isOwned: boolean): void {
    const number = Math.floor(cluster / CHUNK_CLUSTERS);
    let chunk = this.#chunks.get(number);
    if (chunk === undefined) {
      if (!isOwned) return;
      chunk = new Uint8Array(CHUNK_CLUSTERS / 8);
      this.#chunks.set(number, chunk);
    }
    const bit = cluster % CHUNK_CLUSTERS;
    const byte = chunk[bit >>> 3] ?? 0;
    chunk[bit >>> 3] = isOwned ? byte | (1 << (bit & 7)) : byte & ~(1 << (bit & 7));
  }

  #overlap(what: string, cluster: ClusterIndex): ImgtxError {
    const offset = startOf(cluster, this.#clusterBytes);
    return new ImgtxError(
      "E_CORRUPT",
      `Preventing invalid write on metadata (${what} overlaps with other metadata at 0x${offset.toString(16)})`,
      {
        image: this.#image,
        offset,
        hint: "the image is damaged and must not be written to; `qemu-img check` says more about it",
      },
    );
  }
}

// Where the structures of a sound qcow2 image lie in its file, so that a fuzzer can aim at them.
//
// Invariant: independent of src, and for images that are sound: what is wrong with one makes it throw or
// find less.

/** Consecutive words of one structure. */
export interface Region {
  readonly name: RegionName;
  readonly offset: number;
  readonly words: number;
  readonly wordBytes: 4 | 8;
}

export const REGION_NAMES = [
  "header",
  "extensions",
  "l1",
  "l2",
  "refcount-table",
  "refcount-block",
  "snapshot-table",
  "snapshot-l1",
  "bitmap-directory",
  "bitmap-table",
  "data",
] as const;
export type RegionName = (typeof REGION_NAMES)[number];

export interface Structure {
  readonly clusterBits: number;
  readonly headerLength: number;
  readonly backingFileOffset: number;
  readonly regions: readonly Region[];
}

const OFFSET_MASK = 0x00ff_ffff_ffff_fe00n;
const COMPRESSED = 1n << 62n;
const BITMAPS_EXTENSION = 0x23852875;
const DATA_REGIONS_MAX = 16;

export function findStructure(image: Buffer): Structure {
  const clusterBits = image.readUInt32BE(20);
  const headerLength = image.readUInt32BE(4) === 2 ? 72 : image.readUInt32BE(100);
  const finder = new Finder(image, 2 ** clusterBits);
  finder.add("header", 0, headerLength / 4, 4);
  finder.findExtensions(headerLength);
  finder.findMapping("l1", Number(image.readBigUInt64BE(40)), image.readUInt32BE(36));
  finder.findRefcounts(Number(image.readBigUInt64BE(48)), image.readUInt32BE(56));
  finder.findSnapshots(Number(image.readBigUInt64BE(64)), image.readUInt32BE(60));
  return {
    clusterBits,
    headerLength,
    backingFileOffset: Number(image.readBigUInt64BE(8)),
    regions: finder.regions,
  };
}

class Finder {
  readonly regions: Region[] = [];
  readonly #image: Buffer;
  readonly #clusterBytes: number;
  readonly #seen = new Set<number>();
  #data = 0;

  constructor(image: Buffer, clusterBytes: number) {
    this.#image = image;
    this.#clusterBytes = clusterBytes;
  }

  add(name: RegionName, offset: number, words: number, wordBytes: 4 | 8): void {
    const there = Math.floor((this.#image.length - offset) / wordBytes);
    const inFile = Math.floor(Math.min(words, there));
    if (inFile > 0) this.regions.push({ name, offset, words: inFile, wordBytes });
  }

  findExtensions(start: number): void {
    let at = start;
    while (at + 8 <= Math.min(this.#clusterBytes, this.#image.length)) {
      const type = this.#image.readUInt32BE(at);
      const lengthBytes = this.#image.readUInt32BE(at + 4);
      if (type === 0) break;
      if (type === BITMAPS_EXTENSION) {
        const sizeBytes = Number(this.#image.readBigUInt64BE(at + 16));
        this.#findBitmaps(Number(this.#image.readBigUInt64BE(at + 24)), sizeBytes);
      }
      at += 8 + Math.ceil(lengthBytes / 8) * 8;
    }
    this.add("extensions", start, (at + 8 - start) / 4, 4);
  }

  findMapping(name: "l1" | "snapshot-l1", offset: number, entries: number): void {
    this.add(name, offset, entries, 8);
    for (const l2Offset of this.#targets(offset, entries)) {
      if (this.#seen.has(l2Offset)) continue;
      this.#seen.add(l2Offset);
      // Where entries are: a table of an almost empty disk is mostly zeros, and dull.
      const words = this.#lastWord(l2Offset) + 2;
      this.add("l2", l2Offset, words, 8);
      for (const target of this.#targets(l2Offset, words)) {
        if (this.#data >= DATA_REGIONS_MAX) return;
        this.#data += 1;
        this.add("data", target, Math.min(64, this.#clusterBytes / 8), 8);
      }
    }
  }

  findRefcounts(offset: number, clusters: number): void {
    const words = (clusters * this.#clusterBytes) / 8;
    this.add("refcount-table", offset, Math.min(words, 64), 8);
    for (const block of this.#targets(offset, words)) {
      this.add("refcount-block", block, Math.min(this.#lastWord(block) + 2, this.#clusterBytes / 8), 8);
    }
  }

  findSnapshots(offset: number, count: number): void {
    let at = offset;
    for (let index = 0; index < count; index += 1) {
      this.findMapping(
        "snapshot-l1",
        Number(this.#image.readBigUInt64BE(at)),
        this.#image.readUInt32BE(at + 8),
      );
      const idBytes = this.#image.readUInt16BE(at + 12);
      const nameBytes = this.#image.readUInt16BE(at + 14);
      at += Math.ceil((40 + this.#image.readUInt32BE(at + 36) + idBytes + nameBytes) / 8) * 8;
    }
    if (count > 0) this.add("snapshot-table", offset, (at - offset) / 4, 4);
  }

  #findBitmaps(offset: number, sizeBytes: number): void {
    this.add("bitmap-directory", offset, sizeBytes / 4, 4);
    for (let at = offset; at + 24 <= offset + sizeBytes; ) {
      const entries = this.#image.readUInt32BE(at + 8);
      this.add("bitmap-table", Number(this.#image.readBigUInt64BE(at)), entries, 8);
      const extra = this.#image.readUInt32BE(at + 20);
      at += Math.ceil((24 + extra + this.#image.readUInt16BE(at + 18)) / 8) * 8;
    }
  }

  /** Offsets that the entries of a table lead to. */
  #targets(offset: number, entries: number): number[] {
    const targets: number[] = [];
    for (let index = 0; index < entries; index += 1) {
      const at = offset + index * 8;
      if (at + 8 > this.#image.length) break;
      const entry = this.#image.readBigUInt64BE(at);
      const target = Number(entry & OFFSET_MASK);
      if (target > 0 && target < this.#image.length && (entry & COMPRESSED) === 0n) targets.push(target);
      // The sectors of a compressed cluster, as far as small images go.
      const place = Number(entry & 0xffff_ffffn);
      if ((entry & COMPRESSED) !== 0n && place < this.#image.length) targets.push(place - (place % 8));
    }
    return targets;
  }

  #lastWord(table: number): number {
    let last = 0;
    for (let index = 0; index < this.#clusterBytes / 8; index += 1) {
      const at = table + index * 8;
      if (at + 8 > this.#image.length) break;
      if (this.#image.readBigUInt64BE(at) !== 0n) last = index;
    }
    return last;
  }
}

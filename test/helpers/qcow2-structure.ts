// A small `qemu-img check`: does every reference fit into the file, does every cluster have as many
// references as its refcount says, do no two structures overlap? What internal snapshots share is counted for each
// of them. Bitmaps are taken for valid. Of a data file it knows nothing. Independent of src.

import { readHeader, viewOf, type ImageBytes, type ImageHeader } from "./guest-content.ts";

const OFFSET_MASK = 0x00ff_ffff_ffff_fe00n;
const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;

/** What is wrong with an image, a sentence each; nothing for a clean one. Leaks count as wrong. */
export function structureProblems(file: ImageBytes, path: string): string[] {
  return new StructureCheck(file, readHeader(file, path)).run();
}

class StructureCheck {
  readonly #file: ImageBytes;
  readonly #header: ImageHeader;
  readonly #clusterBytes: number;
  readonly #references = new Map<number, number>();
  readonly #owners = new Map<number, string>();
  readonly #copied = new Map<number, string>();
  readonly #problems: string[] = [];
  /** Whether the tables that are read are a snapshot's: they have L2 tables and data in common with others. */
  #isShared = false;

  constructor(file: ImageBytes, header: ImageHeader) {
    this.#file = file;
    this.#header = header;
    this.#clusterBytes = 2 ** header.clusterBits;
  }

  run(): string[] {
    const { l1Offset, l1Size, refcountTableOffset, refcountTableClusters } = this.#header;
    this.#own("header", 0, this.#clusterBytes, 1);
    this.#own("L1 table", l1Offset, l1Size * 8, 8);
    this.#own("refcount table", refcountTableOffset, refcountTableClusters * this.#clusterBytes, 8);
    const refcounts = this.#readRefcounts();
    this.#readTables(l1Offset, l1Size);
    this.#isShared = true;
    this.#readSnapshots();
    if (this.#header.bitmaps) this.#readBitmaps(viewOf(this.#header.bitmaps));
    this.#compare(refcounts);
    return this.#problems;
  }

  /** Notes that a structure takes these bytes; the last `unit` of them has to be in the file. */
  #own(what: string, offset: number, lengthBytes: number, unit: number): void {
    if (lengthBytes === 0) return;
    if (offset % this.#clusterBytes !== 0) this.#problems.push(`${what} at ${offset} is not aligned`);
    if (offset + (what === "header" ? unit : lengthBytes) > this.#file.sizeBytes) {
      this.#problems.push(`${what} at ${offset} ends past the file`);
    }
    for (let at = offset; at < offset + lengthBytes; at += this.#clusterBytes) this.#refer(what, at);
  }

  #refer(what: string, offset: number): void {
    const cluster = Math.floor(offset / this.#clusterBytes);
    const owner = this.#owners.get(cluster);
    const mayShare =
      what === "compressed data" || (this.#isShared && (what === "data" || what === "L2 table"));
    if (owner !== undefined && !(mayShare && what === owner)) {
      this.#problems.push(`cluster ${cluster} is ${owner} and ${what} at once`);
    }
    this.#owners.set(cluster, what);
    this.#references.set(cluster, (this.#references.get(cluster) ?? 0) + 1);
  }

  #words(offset: number, count: number): bigint[] {
    const bytes = this.#file.read(offset, count * 8);
    const view = viewOf(bytes);
    return Array.from({ length: Math.floor(bytes.length / 8) }, (_, index) => view.getBigUint64(index * 8));
  }

  #readRefcounts(): Map<number, bigint> {
    const { refcountTableOffset, refcountTableClusters, refcountOrder } = this.#header;
    const bits = 2 ** refcountOrder;
    const perBlock = (this.#clusterBytes * 8) / bits;
    const refcounts = new Map<number, bigint>();
    const entries = this.#words(refcountTableOffset, (refcountTableClusters * this.#clusterBytes) / 8);
    for (const [index, entry] of entries.entries()) {
      if (entry === 0n) continue;
      const offset = Number(entry);
      this.#own("refcount block", offset, this.#clusterBytes, 8);
      const block = this.#file.read(offset, this.#clusterBytes);
      for (let at = 0; at < Math.floor((block.length * 8) / bits); at += 1) {
        const count = refcountAt(block, at, bits);
        if (count !== 0n) refcounts.set(index * perBlock + at, count);
      }
    }
    return refcounts;
  }

  #readSnapshots(): void {
    const start = Number(viewOf(this.#file.read(64, 8)).getBigUint64(0));
    let at = start;
    for (let index = 0; index < this.#header.snapshots; index += 1) {
      const entry = viewOf(this.#file.read(at, 40));
      const [l1Offset, l1Size] = [Number(entry.getBigUint64(0)), entry.getUint32(8)];
      this.#own("L1 table of a snapshot", l1Offset, l1Size * 8, 8);
      this.#readTables(l1Offset, l1Size);
      at += Math.ceil((40 + entry.getUint32(36) + entry.getUint16(12) + entry.getUint16(14)) / 8) * 8;
    }
    this.#own("snapshot table", start, at - start, 1);
  }

  #readTables(l1Offset: number, l1Size: number): void {
    const entryWords = this.#header.extendedL2 ? 2 : 1;
    for (const [index, l1Entry] of this.#words(l1Offset, l1Size).entries()) {
      const l2Offset = Number(l1Entry & OFFSET_MASK);
      if (l2Offset === 0) continue;
      this.#own("L2 table", l2Offset, this.#clusterBytes, 8);
      this.#noteCopied(l2Offset, l1Entry, `L1 entry ${index}`);
      const words = this.#words(l2Offset, this.#clusterBytes / 8);
      for (let at = 0; at < words.length; at += entryWords)
        this.#readEntry(words[at] ?? 0n, `L2 ${l2Offset} word ${at}`);
    }
  }

  #readBitmaps(extension: DataView): void {
    const [count, sizeBytes] = [extension.getUint32(0), Number(extension.getBigUint64(8))];
    const start = Number(extension.getBigUint64(16));
    this.#own("bitmap directory", start, sizeBytes, 1);
    const directory = viewOf(this.#file.read(start, sizeBytes));
    let at = 0;
    for (let index = 0; index < count; index += 1) {
      const [table, entries] = [Number(directory.getBigUint64(at)), directory.getUint32(at + 8)];
      this.#own("bitmap table", table, entries * 8, 8);
      for (const entry of this.#words(table, entries)) {
        const offset = Number(entry & OFFSET_MASK);
        if (offset !== 0) this.#own("bitmap data", offset, this.#clusterBytes, 1);
      }
      at += Math.ceil((24 + directory.getUint16(at + 18) + directory.getUint32(at + 20)) / 8) * 8;
    }
    if (at !== sizeBytes)
      this.#problems.push(`the bitmap directory has ${sizeBytes} bytes, and ${at} in use`);
  }

  #readEntry(entry: bigint, where: string): void {
    if ((entry & COMPRESSED) !== 0n) {
      const offsetBits = BigInt(62 - (this.#header.clusterBits - 8));
      const start = Number(entry & ((1n << offsetBits) - 1n));
      const sectors = Number((entry & (COMPRESSED - 1n)) >> offsetBits) + 1;
      const end = Math.floor(start / 512) * 512 + sectors * 512;
      const first = Math.floor(start / this.#clusterBytes) * this.#clusterBytes;
      for (let at = first; at < end; at += this.#clusterBytes) this.#refer("compressed data", at);
      return;
    }
    const offset = Number(entry & OFFSET_MASK);
    // A data file's clusters are not counted.
    if (offset === 0 || this.#header.dataFileName !== undefined) return;
    if (offset >= this.#file.sizeBytes) this.#problems.push(`${where} leads past the file, to ${offset}`);
    if (offset % this.#clusterBytes !== 0) this.#problems.push(`${where} is not aligned: ${offset}`);
    this.#refer("data", offset);
    this.#noteCopied(offset, entry, where);
  }

  #noteCopied(offset: number, entry: bigint, where: string): void {
    // It is true of the active tables alone.
    if ((entry & COPIED) !== 0n && !this.#isShared) this.#copied.set(offset / this.#clusterBytes, where);
  }

  #compare(refcounts: ReadonlyMap<number, bigint>): void {
    for (const cluster of new Set([...refcounts.keys(), ...this.#references.keys()])) {
      const refcount = refcounts.get(cluster) ?? 0n;
      const references = BigInt(this.#references.get(cluster) ?? 0);
      if (refcount !== references) {
        const kind = refcount > references ? "leaked" : "corrupt";
        this.#problems.push(`cluster ${cluster} is ${kind}: refcount ${refcount}, references ${references}`);
      }
    }
    for (const [cluster, where] of this.#copied) {
      const refcount = refcounts.get(cluster) ?? 0n;
      if (refcount !== 1n) this.#problems.push(`${where} says COPIED, with refcount ${refcount}`);
    }
  }
}

function refcountAt(block: Uint8Array, index: number, bits: number): bigint {
  if (bits < 8) {
    const byte = block[Math.floor((index * bits) / 8)] ?? 0;
    return BigInt((byte >> ((index * bits) % 8)) & (2 ** bits - 1));
  }
  let value = 0n;
  const bytes = bits / 8;
  for (let at = 0; at < bytes; at += 1) value = (value << 8n) | BigInt(block[index * bytes + at] ?? 0);
  return value;
}

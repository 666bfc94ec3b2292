// Sets bits of a bitmap: those of the guest bytes that another one marks, whatever granularity that has.
//
// Invariant: memory is that of the bitmap's table and of one cluster of bits.

import { alignDown, endOf, type GuestRange } from "../../../units/index.ts";
import { readBytes } from "../../read-header.ts";
import {
  type BitmapEntry,
  type BitmapTableEntry,
  decodeBitmapTableEntry,
  encodeBitmapTableEntryAt,
} from "../codec/bitmap.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import type { BitmapSpace } from "./bitmap-space.ts";

/** Marks the ranges, which ascend, beside what the bitmap marks already. */
export async function markRanges(
  space: BitmapSpace,
  bitmap: BitmapEntry,
  ranges: AsyncIterable<GuestRange> | Iterable<GuestRange>,
): Promise<void> {
  const granularityBytes = 2 ** bitmap.granularityBits;
  const bitsInCluster = space.clusterBytes * 8;
  const marks = await Marks.open(space, bitmap);
  for await (const range of ranges) {
    const end = Math.ceil(endOf(range) / granularityBytes);
    for (let bit = Math.floor(range.start / granularityBytes); bit < end; ) {
      const first = alignDown(bit, bitsInCluster);
      const stop = Math.min(end, first + bitsInCluster);
      await marks.set(first / bitsInCluster, bit - first, stop - first);
      bit = stop;
    }
  }
  await marks.finish();
}

/** A bitmap's table in memory, and one cluster of its bits. */
class Marks {
  readonly #space: BitmapSpace;
  readonly #bitmap: BitmapEntry;
  readonly #table: DataView<ArrayBuffer>;
  readonly #bits: Uint8Array;
  /** Whose bits these are; -1 for none. */
  #index = -1;

  private constructor(space: BitmapSpace, bitmap: BitmapEntry, table: Uint8Array<ArrayBuffer>) {
    this.#space = space;
    this.#bitmap = bitmap;
    this.#table = new DataView(table.buffer);
    this.#bits = new Uint8Array(space.clusterBytes);
  }

  static async open(space: BitmapSpace, bitmap: BitmapEntry): Promise<Marks> {
    const table = new Uint8Array(bitmap.bitmapTableSize * TABLE_ENTRY_BYTES);
    table.set(await readBytes(space.link.file, bitmap.bitmapTableOffset, table.length));
    return new Marks(space, bitmap, table);
  }

  /** Bits first to end of one cluster of them. */
  async set(index: number, first: number, end: number): Promise<void> {
    if (index !== this.#index) await this.#turnTo(index);
    setBits(this.#bits, first, end);
  }

  async finish(): Promise<void> {
    await this.#writeBits();
    await this.#space.write(new Uint8Array(this.#table.buffer), this.#bitmap.bitmapTableOffset);
  }

  async #turnTo(index: number): Promise<void> {
    await this.#writeBits();
    this.#index = index;
    const entry = this.#entryAt(index);
    this.#bits.fill(entry.kind === "ones" ? 0xff : 0);
    if (entry.kind !== "data") return;
    this.#bits.set(await readBytes(this.#space.link.file, entry.hostOffset, this.#bits.length));
  }

  /** Where they are, or in a cluster that they get. Bits that are all set need none. */
  async #writeBits(): Promise<void> {
    if (this.#index === -1) return;
    const { clusterBytes } = this.#space;
    const entry = this.#entryAt(this.#index);
    let after: BitmapTableEntry = entry;
    if (this.#bits.every((byte) => byte === 0xff)) {
      if (entry.kind === "data") await this.#space.freeBits(entry.hostOffset, clusterBytes);
      after = { kind: "ones" };
    } else if (entry.kind === "data") await this.#space.write(this.#bits, entry.hostOffset);
    else after = { kind: "data", hostOffset: await this.#space.store(this.#bits) };
    encodeBitmapTableEntryAt(this.#table, this.#index, after);
  }

  #entryAt(index: number): BitmapTableEntry {
    const at = index * TABLE_ENTRY_BYTES;
    const { clusterBits } = this.#space.link.header;
    return decodeBitmapTableEntry(this.#table.getUint32(at), this.#table.getUint32(at + 4), clusterBits);
  }
}

/** Least significant bit of a byte first. */
function setBits(bits: Uint8Array, start: number, end: number): void {
  const [firstWhole, lastWhole] = [Math.ceil(start / 8), Math.floor(end / 8)];
  if (firstWhole < lastWhole) bits.fill(0xff, firstWhole, lastWhole);
  for (let bit = start; bit < end; bit += 1) {
    const byte = Math.floor(bit / 8);
    if (byte >= firstWhole && byte < lastWhole) bit = lastWhole * 8 - 1;
    else bits[byte] = (bits[byte] ?? 0) | (1 << (bit % 8));
  }
}

// Refcount blocks: how often each cluster is used (qcow2 specification, "Host cluster management").
//
// Invariants
// - Pure, and without memory of its own: a block is its bytes as the file has them, and an entry is named by
//   its index. Entries are 2^refcountOrder bits wide (1 to 64) and big-endian; below 8 bits they sit in their
//   byte from the least significant bit upwards.
// - A count is a plain number. Beyond 2^53 it is the nearest double: larger than any count that can be true,
//   and never 0.

import { ImgtxError } from "../../../errors/index.ts";

const TWO_TO_32 = 2 ** 32;

/** Counts of 16 bits, each of them 1, as most are: parts of blocks are compared with them at once. */
export const WORDS_OF_ONE: Uint8Array = Buffer.alloc(2 ** 17, Uint8Array.of(0, 1));
const ZEROS = new Uint8Array(4096);

const LARGEST: readonly number[] = [1, 3, 15, 255, 65_535, 2 ** 32 - 1, Number.MAX_SAFE_INTEGER];

/** The largest count that fits, or the largest that imgtx writes where more would fit. */
export function maxRefcount(refcountOrder: number): number {
  const largest = LARGEST[refcountOrder];
  if (largest === undefined) throw new RangeError(`no refcount width of order ${refcountOrder}`);
  return largest;
}

export function readRefcount(block: Uint8Array, index: number, refcountOrder: number): number {
  if (refcountOrder < 3) {
    const bits = 1 << refcountOrder;
    const bit = index * bits;
    return (byteAt(block, Math.floor(bit / 8)) >>> (bit % 8)) & ((1 << bits) - 1);
  }
  if (refcountOrder === 3) return byteAt(block, index);
  if (refcountOrder === 4) return (byteAt(block, 2 * index) << 8) | byteAt(block, 2 * index + 1);
  if (refcountOrder === 5) return wordAt(block, 4 * index);
  return wordAt(block, 8 * index) * TWO_TO_32 + wordAt(block, 8 * index + 4);
}

/** RangeError for a count that the width can't hold: the caller has to ask maxRefcount first. */
export function writeRefcount(block: Uint8Array, index: number, refcountOrder: number, count: number): void {
  if (!(count >= 0 && count <= maxRefcount(refcountOrder))) {
    throw new RangeError(`a refcount of ${2 ** refcountOrder} bits can't be ${count}`);
  }
  if (refcountOrder < 3) {
    const bits = 1 << refcountOrder;
    const bit = index * bits;
    const at = Math.floor(bit / 8);
    const mask = ((1 << bits) - 1) << (bit % 8);
    block[at] = (byteAt(block, at) & ~mask) | (count << (bit % 8));
    return;
  }
  let rest = count;
  const widthBytes = 1 << (refcountOrder - 3);
  for (let at = (index + 1) * widthBytes - 1; at >= index * widthBytes; at -= 1) {
    block[at] = rest % 256;
    rest = Math.floor(rest / 256);
  }
}

/**
 * Decodes the first entries of a block into target, as many as asked for. A count that
 * 32 bits can't hold is given as 2^32 - 1. For scans of whole blocks: it takes the width once, not per entry.
 */
export function readRefcounts(
  block: Uint8Array,
  refcountOrder: number,
  target: Uint32Array,
  count: number,
): void {
  if (refcountOrder === 4) {
    for (let index = 0, at = 0; index < count; index += 1, at += 2) {
      target[index] = (byteAt(block, at) << 8) | byteAt(block, at + 1);
    }
    return;
  }
  for (let index = 0; index < count; index += 1) {
    target[index] = Math.min(readRefcount(block, index, refcountOrder), TWO_TO_32 - 1);
  }
}

/** Gives count entries from first on the same value. */
export function fillRefcounts(
  block: Uint8Array,
  first: number,
  count: number,
  refcountOrder: number,
  value: number,
): void {
  const end = first + count;
  let index = first;
  if (refcountOrder <= 3 && count > 16) {
    const perByte = 8 >> refcountOrder;
    for (; index % perByte !== 0; index += 1) writeRefcount(block, index, refcountOrder, value);
    const wholeBytes = Math.floor((end - index) / perByte);
    let byte = 0;
    for (let bit = 0; bit < 8; bit += 1 << refcountOrder) byte |= value << bit;
    block.fill(byte, index / perByte, index / perByte + wholeBytes);
    index += wholeBytes * perByte;
  }
  if (refcountOrder > 3 && count > 16) {
    const widthBytes = 1 << (refcountOrder - 3);
    const from = first * widthBytes;
    const to = end * widthBytes;
    writeRefcount(block, first, refcountOrder, value);
    // Doubling what is there copies at the speed of memory.
    for (let done = widthBytes; from + done < to; done *= 2) {
      block.copyWithin(from + done, from, Math.min(from + done, to - done));
    }
    index = end;
  }
  for (; index < end; index += 1) writeRefcount(block, index, refcountOrder, value);
}

/** The first entry of value 0 from first on and before end; end where there is none. */
export function findFreeEntry(block: Uint8Array, first: number, end: number, refcountOrder: number): number {
  let index = first;
  if (refcountOrder < 3) {
    for (; index < end; index += 1) if (readRefcount(block, index, refcountOrder) === 0) return index;
    return end;
  }
  const widthBytes = 1 << (refcountOrder - 3);
  const all = block.subarray(first * widthBytes, end * widthBytes);
  if (refcountOrder === 4 && Buffer.compare(all, WORDS_OF_ONE.subarray(0, all.length)) === 0) return end;
  for (let at = index * widthBytes; index < end; index += 1, at += widthBytes) {
    let isFree = true;
    // From the low byte down: a count in use almost always shows there.
    for (let part = at + widthBytes - 1; part >= at && isFree; part -= 1) isFree = block[part] === 0;
    if (isFree) return index;
  }
  return end;
}

/** The first entry that is not 0 from first on and before end; end where there is none. */
export function findUsedEntry(block: Uint8Array, first: number, end: number, refcountOrder: number): number {
  let index = first;
  if (refcountOrder >= 3) {
    const widthBytes = 1 << (refcountOrder - 3);
    const endByte = end * widthBytes;
    let at = first * widthBytes;
    while (at + ZEROS.length < endByte && isBlank(block, at, at + ZEROS.length)) at += ZEROS.length;
    if (endByte - at <= ZEROS.length && isBlank(block, at, endByte)) return end;
    while (at < endByte && block[at] === 0) at += 1;
    return Math.min(Math.floor(at / widthBytes), end);
  }
  for (; index < end; index += 1) if (readRefcount(block, index, refcountOrder) !== 0) return index;
  return end;
}

function isBlank(block: Uint8Array, from: number, to: number): boolean {
  return Buffer.compare(block.subarray(from, to), ZEROS.subarray(0, to - from)) === 0;
}

function byteAt(block: Uint8Array, at: number): number {
  const byte = block[at];
  if (byte === undefined) {
    throw new ImgtxError("E_INTERNAL", `refcount entry at byte ${at} of a block of ${block.length}`);
  }
  return byte;
}

function wordAt(block: Uint8Array, at: number): number {
  return (
    byteAt(block, at) * 2 ** 24 +
    ((byteAt(block, at + 1) << 16) | (byteAt(block, at + 2) << 8) | byteAt(block, at + 3))
  );
}

// Pages and sectors of an image, and what a redo log remembers of a sector that it replaces.
//
// A page is the unit of the log, a sector the unit of a disk: a write that the power cuts off leaves each sector old
// or new, and a page anything in between. So digests are of sectors, and what a log changes is told sector by sector.

import { hash } from "node:crypto";
import type { Branded } from "../../units/index.ts";
import { SECTOR_BYTES } from "../../units/index.ts";

/** Pages are counted from the start of an image. */
export type PageIndex = Branded<"PageIndex">;

/** A byte offset in a redo log, and not in the image. */
export type LogPosition = Branded<"LogPosition">;

export const PAGE_BYTES = 4096;
export const SECTORS_PER_PAGE = PAGE_BYTES / SECTOR_BYTES;

/** SHA-256, cut to 128 bits: it tells whether somebody has written there. */
const SECTOR_DIGEST_BYTES = 16;
export const PAGE_DIGEST_BYTES = SECTORS_PER_PAGE * SECTOR_DIGEST_BYTES;

/** The page that a byte of an image is in. */
export function pageOf(offset: number): PageIndex {
  return Math.floor(offset / PAGE_BYTES) as PageIndex;
}

/** The first page that begins there or later: the one after the last, of what ends there. */
export function pageFrom(offset: number): PageIndex {
  return Math.ceil(offset / PAGE_BYTES) as PageIndex;
}

/** Where a page begins in the image. */
export function startOfPage(page: PageIndex): number {
  return page * PAGE_BYTES;
}

const ZEROS = Buffer.alloc(SECTOR_BYTES);
const ZEROS_DIGEST = new Uint8Array(SECTOR_DIGEST_BYTES);
digestInto(ZEROS_DIGEST, 0, ZEROS);

export function isZeroSector(sector: Uint8Array): boolean {
  return ZEROS.compare(sector, 0, sector.length, 0, sector.length) === 0;
}

/** Puts the digest of a whole sector there: what a file does not have of it counts as zeros. */
function putDigest(target: Uint8Array, at: number, sector: Uint8Array): void {
  if (isZeroSector(sector)) target.set(ZEROS_DIGEST, at);
  else digestInto(target, at, sector);
}

/** The digests of all sectors of a page, one after the other. */
export function digestPage(page: Uint8Array): Uint8Array {
  const digests = new Uint8Array(PAGE_DIGEST_BYTES);
  for (let sector = 0; sector < SECTORS_PER_PAGE; sector += 1) {
    putDigest(digests, sector * SECTOR_DIGEST_BYTES, sectorOf(page, sector));
  }
  return digests;
}

export function sectorOf(pages: Uint8Array, sector: number): Uint8Array {
  return pages.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
}

/** Whether this is what the digest of that sector was taken of. */
export function hasDigest(content: Uint8Array, digests: Uint8Array, sector: number): boolean {
  const at = sector * SECTOR_DIGEST_BYTES;
  const digest = new Uint8Array(SECTOR_DIGEST_BYTES);
  putDigest(digest, 0, content);
  return digest.every((byte, index) => byte === digests[at + index]);
}

/** Which sectors of a page differ, a bit for each. */
export function compareSectors(before: Uint8Array, after: Uint8Array): number {
  if (Buffer.compare(before, after) === 0) return 0;
  let mask = 0;
  for (let sector = 0; sector < SECTORS_PER_PAGE; sector += 1) {
    if (Buffer.compare(sectorOf(before, sector), sectorOf(after, sector)) !== 0) mask |= 1 << sector;
  }
  return mask;
}

/** The same where only the digests of the sectors before are known. */
export function compareWithDigests(digests: Uint8Array, after: Uint8Array): number {
  let mask = 0;
  for (let sector = 0; sector < SECTORS_PER_PAGE; sector += 1) {
    if (!hasDigest(sectorOf(after, sector), digests, sector)) mask |= 1 << sector;
  }
  return mask;
}

export function countBits(mask: number): number {
  let count = 0;
  for (let rest = mask; rest !== 0; rest >>>= 1) count += rest & 1;
  return count;
}

/** By way of digits: a buffer for each of so many would keep the collector busy, and take twice as long. */
function digestInto(target: Uint8Array, at: number, bytes: Uint8Array): void {
  const digits = hash("sha256", bytes, "hex");
  for (let index = 0; index < SECTOR_DIGEST_BYTES; index += 1) {
    const [high, low] = [digits.charCodeAt(2 * index), digits.charCodeAt(2 * index + 1)];
    target[at + index] = (valueOf(high) << 4) | valueOf(low);
  }
}

/** Of a digit in lower case, by its code. */
function valueOf(digit: number): number {
  return digit < 58 ? digit - 48 : digit - 87;
}

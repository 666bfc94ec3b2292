// What a journal keeps of a redo log, and what a commit has to know of it before the mark: a few hundred bytes,
// whatever the change.

import { posix } from "node:path";
import type { LogEnd } from "./log-scan.ts";
import type { RedoLog } from "./redo-log.ts";
import { countBits, PAGE_BYTES, pageFrom, type PageIndex, SECTORS_PER_PAGE, startOfPage } from "./sectors.ts";
import { SECTOR_BYTES } from "../../units/index.ts";

/** Plain data. */
export interface SealedLog {
  /** Absolute path of the image that it changes. */
  readonly image: string;
  /** Its name. */
  readonly log: string;
  /** Where it ends, and the digest of all before: what comes after it is nobody's. */
  readonly end: LogEnd;
  /** Pages in it. */
  readonly pages: number;
  /** Sectors of the image that applying it may write. As 512 bytes each, the most space that it can need. */
  readonly changedSectors: number;
  /** Pages that applying it gives back. */
  readonly freedPages: number;
  readonly sizeBefore: number;
  readonly sizeAfter: number;
}

export function describeLog(log: RedoLog): SealedLog {
  const endPage = pageFrom(log.sizeBytes);
  let changedSectors = 0;
  for (const { page, changed } of log.map.pages(endPage)) {
    changedSectors += countBits(changed & sectorsInside(page, log.sizeBytes));
  }
  let freedPages = 0;
  for (const { first, end } of log.map.holes(endPage)) freedPages += end - first;
  return {
    image: log.identity.image,
    log: posix.basename(log.path),
    end: log.end,
    pages: log.map.pageCount,
    changedSectors,
    freedPages,
    sizeBefore: log.header.baseSizeBytes,
    sizeAfter: log.sizeBytes,
  };
}

/** The end of the last byte that applying it writes, to the page, or of the size that it gives: a process may not get as far. */
export function endOfWrites(log: RedoLog): number {
  const { sizeBytes } = log;
  if (sizeBytes > log.baseSizeBytes) return sizeBytes;
  let endBytes = 0;
  for (const { page, changed } of log.map.pages(pageFrom(sizeBytes))) {
    if (changed !== 0) endBytes = startOfPage(page) + PAGE_BYTES;
  }
  return Math.min(endBytes, sizeBytes);
}

/** The sectors of a page that a file of this size has, in whole or in part, a bit for each. */
export function sectorsInside(page: PageIndex, sizeBytes: number): number {
  const sectors = Math.ceil((sizeBytes - startOfPage(page)) / SECTOR_BYTES);
  return 2 ** Math.max(0, Math.min(SECTORS_PER_PAGE, sectors)) - 1;
}

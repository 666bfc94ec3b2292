// What an image holds where a log changes it: what the log replaces, what it makes, a sector that was written by half,
// or something else.

import { alignDown, SECTOR_BYTES } from "../../units/index.ts";
import type { StorageFile, ReusedBytes } from "../../storage/index.ts";
import { type Change, changedSectors, type ChangedPages, type FreedPages } from "./changes.ts";
import { type FenceBytes, setFence } from "./guard.ts";
import type { RedoLog } from "./redo-log.ts";
import { hasDigest, isZeroSector, PAGE_BYTES, pageOf, sectorOf, SECTORS_PER_PAGE } from "./sectors.ts";

/**
 * `both` where the log leaves it as it was. `raised`: as before, with the fence up. `torn`: after up to some byte, and
 * before, or raised, from there on, as a write leaves it that fails amid the sector. `neither`: somebody else wrote there.
 */
export type SectorState = "before" | "after" | "both" | "raised" | "torn" | "neither";

/** An image beside its log, and the fence under which that is applied. */
export interface ComparedImage {
  readonly log: RedoLog;
  readonly file: StorageFile;
  readonly fence: FenceBytes | undefined;
  /** To read what the file has of a change into. */
  readonly memory: ReusedBytes;
}

/** Told of a sector: what it is, and its offset in the image. */
export type SectorSink = (state: SectorState, offset: number) => void;

const PIECE_BYTES = 256 * 1024;

/** Tells of all sectors of a change, as the file has them. What the file does not have counts as zeros. */
export async function compareChange(image: ComparedImage, change: Change, tell: SectorSink): Promise<void> {
  if (change.kind === "pages") await comparePages(image, change, tell);
  else if (change.digests === undefined) await compareHole(image, change, tell);
  else await compareCheckedHole(image, change, change.digests, tell);
}

async function comparePages(
  { log, file, fence, memory }: ComparedImage,
  change: ChangedPages,
  tell: SectorSink,
): Promise<void> {
  const { start, contents, records, lengthBytes, knownBytes } = change;
  const present = await readPadded(file, start, memory.take(contents.length));
  for (const sector of changedSectors(change)) {
    const from = sector * SECTOR_BYTES;
    const to = Math.min(from + SECTOR_BYTES, lengthBytes);
    const isAfter = Buffer.compare(present.subarray(from, to), contents.subarray(from, to)) === 0;
    const digests = records[Math.floor(sector / SECTORS_PER_PAGE)]?.digests ?? new Uint8Array(0);
    const now = sectorOf(present, sector);
    // Room past the former end may hold anything until the data arrives.
    const wasThere = (bytes: Uint8Array): boolean =>
      from >= knownBytes || hasDigest(bytes, digests, sector % SECTORS_PER_PAGE);
    const state = stateFrom(wasThere(now), isAfter);
    if (state !== "neither") {
      tell(state, start + from);
      continue;
    }
    const lowered = fence && lowerFence(now, start + from, fence);
    if (lowered && wasThere(lowered)) {
      tell("raised", start + from);
      continue;
    }
    const before = await readReplaced(log, start + from);
    // Read when the page was first logged: what the log replaces is what the digest is of.
    const isKnown = before !== undefined && wasThere(before);
    if (isKnown && fence) setFence(before, start + from, fence);
    const isCutOff = isKnown && isTorn(now, sectorOf(contents, sector), before, to - from);
    tell(isCutOff ? "torn" : "neither", start + from);
  }
}

/** The sector as the image had it. Undefined where the log does not say. */
async function readReplaced(log: RedoLog, offset: number): Promise<Uint8Array | undefined> {
  const page = await log.readReplaced(pageOf(offset));
  return page?.subarray(offset % PAGE_BYTES, (offset % PAGE_BYTES) + SECTOR_BYTES);
}

function isTorn(now: Uint8Array, after: Uint8Array, before: Uint8Array, lengthBytes: number): boolean {
  let at = 0;
  while (at < lengthBytes && now[at] === after[at]) at += 1;
  return Buffer.compare(now.subarray(at, lengthBytes), before.subarray(at, lengthBytes)) === 0;
}

/** Under a fence what was there before is not known: whatever is left of it counts as that. */
async function compareHole(
  { file, memory }: ComparedImage,
  change: FreedPages,
  tell: SectorSink,
): Promise<void> {
  const end = change.start + change.lengthBytes;
  for (let at = change.start; at < end; ) {
    const data = await file.seekData(at);
    if (data === undefined || data >= end) return;
    const start = Math.max(change.start, alignDown(data, SECTOR_BYTES));
    const stop = Math.min(end, await file.seekHole(data), start + PIECE_BYTES);
    const present = await readPadded(file, start, memory.take(stop - start));
    for (let from = 0; from < present.length; from += SECTOR_BYTES) {
      const isZero = isZeroSector(present.subarray(from, from + SECTOR_BYTES));
      tell(isZero ? "both" : "before", start + from);
    }
    at = stop;
  }
}

async function compareCheckedHole(
  { file, memory }: ComparedImage,
  { start, lengthBytes }: FreedPages,
  digests: Uint8Array,
  tell: SectorSink,
): Promise<void> {
  const sectors = Math.ceil(lengthBytes / SECTOR_BYTES);
  const present = await readPadded(file, start, memory.take(sectors * SECTOR_BYTES));
  for (let sector = 0; sector < sectors; sector += 1) {
    const now = sectorOf(present, sector);
    const inside = now.subarray(0, lengthBytes - sector * SECTOR_BYTES);
    tell(stateFrom(hasDigest(now, digests, sector), isZeroSector(inside)), start + sector * SECTOR_BYTES);
  }
}

/** The sector without the fence; undefined where the fence has no part of it, or is not up. */
function lowerFence(
  now: Uint8Array,
  at: number,
  { offset, before, after }: FenceBytes,
): Uint8Array | undefined {
  const from = Math.max(at, offset);
  const to = Math.min(at + now.length, offset + after.length);
  if (from >= to) return undefined;
  if (Buffer.compare(now.subarray(from - at, to - at), after.subarray(from - offset, to - offset)) !== 0) {
    return undefined;
  }
  const lowered = now.slice();
  lowered.set(before.subarray(from - offset, to - offset), from - at);
  return lowered;
}

function stateFrom(isBefore: boolean, isAfter: boolean): SectorState {
  if (isBefore) return isAfter ? "both" : "before";
  return isAfter ? "after" : "neither";
}

async function readPadded(file: StorageFile, start: number, bytes: Uint8Array): Promise<Uint8Array> {
  bytes.fill(0, await file.read(bytes, start));
  return bytes;
}

// What a log changes, from the start of the image to its end, in pieces of bounded memory.
//
// Invariants
// - Each page comes once: as it is to be, or as a part of what is punched out.
// - The memory of a change is that of the next one, too.
// - Nothing past the image's size afterwards comes at all. A sector that is cut by that end counts as changed up to
//   there; the masks say nothing of sectors after it.

import { earliest, offsetBy, SECTOR_BYTES } from "../../units/index.ts";
import { ReusedBytes } from "../../storage/index.ts";
import { FRAME_PAGES_MAX, type PageRecord, RECORD_BYTES } from "./frames.ts";
import { type FenceBytes, setFence } from "./guard.ts";
import type { LoggedHole, LoggedPage } from "./page-map.ts";
import type { RedoLog } from "./redo-log.ts";
import { sectorsInside } from "./sealed-log.ts";
import {
  PAGE_BYTES,
  PAGE_DIGEST_BYTES,
  pageFrom,
  type PageIndex,
  SECTORS_PER_PAGE,
  startOfPage,
} from "./sectors.ts";

/** Pages side by side. */
export interface ChangedPages {
  readonly kind: "pages";
  readonly start: number;
  readonly contents: Uint8Array;
  readonly records: readonly PageRecord[];
  /** Bytes of it that the image has afterwards: fewer than contents where it ends inside. */
  readonly lengthBytes: number;
  /** Bytes of it that the image had before: what a file has after them is nobody's. */
  readonly knownBytes: number;
}

export interface FreedPages {
  readonly kind: "hole";
  readonly start: number;
  readonly lengthBytes: number;
  /** PAGE_DIGEST_BYTES for each page, of what it replaces. Undefined where the log does not say. */
  readonly digests: Uint8Array | undefined;
}

export type Change = ChangedPages | FreedPages;

/** A run of sectors that are to be written: its place in the image and in the contents of the change. */
export interface SectorRun {
  readonly start: number;
  readonly bytes: Uint8Array;
}

/** kept: a fence that stays over what the log leaves. */
export async function* changesOf(log: RedoLog, kept?: FenceBytes): AsyncGenerator<Change> {
  for await (const change of pagesOf(log)) {
    if (kept) setFence(change.contents, change.start, kept);
    yield change;
  }
  yield* holesOf(log);
}

async function* pagesOf(log: RedoLog): AsyncGenerator<ChangedPages> {
  const memory = { records: new ReusedBytes(), contents: new ReusedBytes() };
  let group: LoggedPage[] = [];
  for (const logged of log.map.pages(pageFrom(log.sizeBytes))) {
    if ((logged.changed & sectorsInside(logged.page, log.sizeBytes)) === 0) continue;
    if (group.length > 0 && !goesOn(group, logged)) {
      yield await readGroup(log, group, memory);
      group = [];
    }
    group.push(logged);
  }
  if (group.length > 0) yield await readGroup(log, group, memory);
}

/** Whether the page is the next one, in the image and in the log. */
function goesOn(group: readonly LoggedPage[], { page, position }: LoggedPage): boolean {
  const last = group.at(-1);
  if (last === undefined || group.length === FRAME_PAGES_MAX) return false;
  return last.page + 1 === page && last.position + RECORD_BYTES === position;
}

async function readGroup(
  log: RedoLog,
  group: readonly LoggedPage[],
  memory: { readonly records: ReusedBytes; readonly contents: ReusedBytes },
): Promise<ChangedPages> {
  const [first] = group;
  if (first === undefined) throw new RangeError("no pages");
  const records = await log.readRecords(first.position, group.length, memory.records);
  const start = startOfPage(first.page);
  const contents = memory.contents.take(group.length * PAGE_BYTES);
  for (const [index, { content }] of records.entries()) contents.set(content, index * PAGE_BYTES);
  const lengthBytes = Math.min(contents.length, log.sizeBytes - start);
  const knownBytes = Math.max(0, log.baseSizeBytes - start);
  return { kind: "pages", start, contents, records, lengthBytes, knownBytes };
}

/** Where there are digests, in pieces of FRAME_PAGES_MAX pages; else each in one piece. */
async function* holesOf(log: RedoLog): AsyncGenerator<FreedPages> {
  // Past the end that the image had there is nothing to give back.
  const endBytes = Math.min(log.sizeBytes, log.baseSizeBytes);
  for (const hole of log.map.holes(pageFrom(endBytes))) {
    const most = hole.digestsAt === 0 ? hole.end - hole.first : FRAME_PAGES_MAX;
    for (let page = hole.first; page < hole.end; page = offsetBy(page, most)) {
      const stop = earliest(hole.end, offsetBy(page, most));
      const digests = hole.digestsAt === 0 ? undefined : await readDigests(log, hole, page, stop);
      const start = startOfPage(page);
      yield { kind: "hole", start, lengthBytes: Math.min(startOfPage(stop), endBytes) - start, digests };
    }
  }
}

async function readDigests(
  log: RedoLog,
  hole: LoggedHole,
  page: PageIndex,
  end: PageIndex,
): Promise<Uint8Array> {
  return await log.readDigests(offsetBy(hole.digestsAt, (page - hole.first) * PAGE_DIGEST_BYTES), end - page);
}

/** The sectors of changed pages that are to be written, by their numbers from the start of the change. */
export function* changedSectors({ records, lengthBytes }: ChangedPages): Generator<number> {
  const sectors = Math.ceil(lengthBytes / SECTOR_BYTES);
  for (let sector = 0; sector < sectors; sector += 1) {
    const mask = records[Math.floor(sector / SECTORS_PER_PAGE)]?.changed ?? 0;
    if ((mask & (1 << (sector % SECTORS_PER_PAGE))) !== 0) yield sector;
  }
}

/** The same as runs of bytes, without the sectors before `skipped`. */
export function* sectorRuns(change: ChangedPages, skipped = 0): Generator<SectorRun> {
  let from = -1;
  let to = -1;
  for (const sector of changedSectors(change)) {
    if (sector < skipped) continue;
    if (sector !== to) {
      if (from !== to) yield runOf(change, from, to);
      from = sector;
    }
    to = sector + 1;
  }
  if (from !== to) yield runOf(change, from, to);
}

function runOf({ start, contents, lengthBytes }: ChangedPages, from: number, to: number): SectorRun {
  const bytes = contents.subarray(from * SECTOR_BYTES, Math.min(to * SECTOR_BYTES, lengthBytes));
  return { start: start + from * SECTOR_BYTES, bytes };
}

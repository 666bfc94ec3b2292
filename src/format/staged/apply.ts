// Carries a redo log out on its image, after the commit mark.
//
// Invariants
// - It begins at the start of the log each time, and may be cut off anywhere and called again: the image is the same in
//   the end. Which sectors are written, and whether the size is set, does not depend on what an earlier call has done.
// - The order: the file grows; all sectors but the fence's, and the holes; the file shrinks; the fence's sector. What
//   has to be there before the next is made durable in between (see the flushes). It shrinks under the fence, since
//   whoever opens the image afterwards may use the space at its end.
// - Under a fence that is down nothing is applied again: a guest may have written since. One that is kept tells of no
//   guest: under that all is applied again. Where the write that takes it down was cut off, that alone is done again.
// - A sector is checked in the same breath as it is written, and what a stranger wrote is left alone (guard.ts).

import { ImgtxError } from "../../errors/index.ts";
import { ReusedBytes, type ByteRange, type StorageFile } from "../../storage/index.ts";
import { type Change, changedSectors, changesOf, type FreedPages, sectorRuns } from "./changes.ts";
import { compareChange, type ComparedImage, type SectorState } from "./compare-sectors.ts";
import { assertGuard, type FenceBytes, type FenceGuard, type Guard } from "./guard.ts";
import type { RedoLog } from "./redo-log.ts";
import { isZeroSector } from "./sectors.ts";
import { type FenceState, judgeFence, judgeSize } from "./survey.ts";
import { SECTOR_BYTES } from "../../units/index.ts";

/** How much is read at a time of what may have to be punched again. */
const RENEWED_BYTES = 2 ** 20;

/**
 * Brings the image in the file, which is open for writing, to what the log says, durably. The caller keeps others from
 * it by locks, and has a fence up where the guard is one. E_CHANGED, and nothing further written, where the image is
 * neither as before nor as it shall be; E_INTERNAL where the guard does not fit the log. modifiedNs: the time of
 * modification that goes with what the log leaves; undefined: that of the writes.
 */
export async function applyLog(
  log: RedoLog,
  file: StorageFile,
  guard: Guard,
  modifiedNs?: string,
): Promise<void> {
  assertGuard(log, guard);
  const flushLast = async (purpose: string): Promise<void> => {
    if (modifiedNs !== undefined) await file.setModified(modifiedNs);
    await file.flush(purpose);
  };
  const at = guard.kind === "fence" ? await readFence(log, file, guard) : undefined;
  if (at === "lifted" || at === "written") throw changedAt(file, 0);
  if (at === "down") {
    await renewApplied(log, file);
    return;
  }
  if (at === "going down") {
    await writeFirstSector(log, file);
    await flushLast("redo log: fence lifted");
    return;
  }
  if ((await judgeSize(log, file)) === "neither") throw changedAt(file, log.sizeBytes);
  const { sizeBytes } = await file.stat();
  const { baseSizeBytes } = log;
  // Also where it has the size: that may be lost with a flush that failed, as what was written is.
  const grows = baseSizeBytes < log.sizeBytes && sizeBytes === log.sizeBytes;
  if (grows || sizeBytes < log.sizeBytes) await file.truncate(log.sizeBytes);
  let isInFirstSector = baseSizeBytes === log.sizeBytes;
  const kept = guard.kind === "fence" ? guard.kept : undefined;
  const compared = { log, file, fence: undefined, memory: new ReusedBytes() };
  for await (const change of changesOf(log, kept)) {
    isInFirstSector &&= isInSector(change);
    await applyChange(compared, change, guard);
  }
  const shrinks = baseSizeBytes > log.sizeBytes && sizeBytes === log.sizeBytes;
  if (shrinks || (sizeBytes > log.sizeBytes && baseSizeBytes !== log.sizeBytes)) {
    await file.truncate(log.sizeBytes);
  }
  if (guard.kind === "fence" && !guard.kept) {
    if (!isInFirstSector) await file.flush("redo log: applied");
    await writeFirstSector(log, file);
    await flushLast("redo log: fence lifted");
    return;
  }
  if (kept) await writeFirstSector(log, file, kept);
  await flushLast("redo log: applied");
}

/**
 * Writes once more what stands where the log was applied, durably: after a failed flush it may be in the page cache
 * alone, which calls it clean. Nobody else may have the image open. What was written since stays as it is, and so does
 * the time of modification.
 */
export async function renewApplied(log: RedoLog, file: StorageFile): Promise<void> {
  const { modifiedNs } = await file.stat();
  const memory = new ReusedBytes();
  for await (const change of changesOf(log)) {
    if (change.kind === "hole") {
      await punchAgain(file, change);
      continue;
    }
    for (const { start, bytes } of sectorRuns(change)) {
      const present = memory.take(bytes.length);
      const count = await file.read(present, start);
      if (count > 0) await file.write(present.subarray(0, count), start);
    }
  }
  const { sizeBytes } = await file.stat();
  if (sizeBytes === log.sizeBytes && sizeBytes !== log.baseSizeBytes) await file.truncate(sizeBytes);
  await file.setModified(modifiedNs);
  await file.flush("redo log: renewed");
}

/** What of it reads as zeros still: a block device has no holes that would tell, and a guest may have written to the rest. */
async function punchAgain(file: StorageFile, { start, lengthBytes }: FreedPages): Promise<void> {
  const end = start + lengthBytes;
  for (let offset = start; offset < end; ) {
    const data = Math.min((await file.seekData(offset)) ?? end, end);
    if (data > offset) await file.punchHole({ start: offset, lengthBytes: data - offset });
    offset = data;
    if (offset === end) break;
    const present = new Uint8Array(Math.min(end - offset, RENEWED_BYTES));
    await file.read(present, offset);
    for (const run of zeroSectors(present)) await file.punchHole({ ...run, start: offset + run.start });
    offset += present.length;
  }
}

function* zeroSectors(bytes: Uint8Array): Generator<ByteRange> {
  let start: number | undefined;
  for (let at = 0; at <= bytes.length; at += SECTOR_BYTES) {
    const isClear = at < bytes.length && isZeroSector(bytes.subarray(at, at + SECTOR_BYTES));
    if (isClear) start ??= at;
    else if (start !== undefined) {
      yield { start, lengthBytes: Math.min(at, bytes.length) - start };
      start = undefined;
    }
  }
}

/** Whether it changes nothing but the first sector. */
function isInSector(change: Change): boolean {
  return (
    change.kind === "pages" && change.start === 0 && [...changedSectors(change)].every((one) => one === 0)
  );
}

async function applyChange(compared: ComparedImage, change: Change, guard: Guard): Promise<void> {
  const { file } = compared;
  if (guard.kind !== "fence") {
    await compareChange(compared, change, (state, offset) => {
      if (state === "neither") throw changedAt(file, offset);
    });
  }
  if (change.kind === "hole") {
    await file.punchHole(change);
    return;
  }
  const skipped = guard.kind === "fence" && change.start === 0 ? 1 : 0;
  for (const { start, bytes } of sectorRuns(change, skipped)) await file.write(bytes, start);
}

async function readFence(log: RedoLog, file: StorageFile, guard: FenceGuard): Promise<FenceState> {
  let first: SectorState | undefined;
  for await (const change of changesOf(log, guard.kept)) {
    const compared = { log, file, fence: guard.fence, memory: new ReusedBytes() };
    await compareChange(compared, change, (state, offset) => {
      if (offset < SECTOR_BYTES) first = state;
    });
    break;
  }
  return judgeFence(first, guard);
}

async function writeFirstSector(log: RedoLog, file: StorageFile, kept?: FenceBytes): Promise<void> {
  for await (const change of changesOf(log, kept)) {
    if (change.kind === "pages") await file.write(change.contents.subarray(0, SECTOR_BYTES), 0);
    break;
  }
}

function changedAt(file: StorageFile, offset: number): ImgtxError {
  return new ImgtxError("E_CHANGED", "somebody has written to the image where imgtx was to change it", {
    image: file.path,
    offset,
    hint: "find out who wrote to it; what stands there was left as it is",
  });
}

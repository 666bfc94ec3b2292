// How far a log was applied to an image, by what the image holds: what recovery asks before it does anything.
//
// Invariant: nothing is written.

import { ReusedBytes, type StorageFile } from "../../storage/index.ts";
import { changesOf } from "./changes.ts";
import { compareChange, type SectorState } from "./compare-sectors.ts";
import type { FenceGuard, Guard } from "./guard.ts";
import type { RedoLog } from "./redo-log.ts";
import { SECTOR_BYTES } from "../../units/index.ts";

/**
 * - untouched: all is as before; a fence that is up does not count.
 * - partly: it is to be applied from its start.
 * - applied: all is as the log leaves it. It may be in the page cache alone, after a failed flush.
 * - used: it was applied, its fence is down, and somebody has written since. It is finished. So it is too
 *   where somebody has written to the first sector, as the fence lets nobody do: whether it is down is for the caller to
 *   see, who knows what a fence is.
 * - foreign: somebody else has written there. Nothing may be written over that. Under a fence that is up nobody else
 *   can have: what is neither old nor new there was written by half.
 */
export type Survey =
  | { readonly state: "untouched" | "partly" | "applied" | "used" }
  | { readonly state: "foreign"; readonly offset: number };

/** What the image in the file holds, by the log. */
export async function surveyImage(log: RedoLog, file: StorageFile, guard: Guard): Promise<Survey> {
  const fenced = guard.kind === "fence" ? guard : undefined;
  const seen = new Set<SectorState>();
  const compared = { log, file, fence: fenced?.fence, memory: new ReusedBytes() };
  let first: SectorState | undefined;
  let neither: number | undefined;
  for await (const change of changesOf(log, fenced?.kept)) {
    await compareChange(compared, change, (state, offset) => {
      if (offset < SECTOR_BYTES) first = state;
      else seen.add(state);
      if (state === "neither") neither ??= offset;
    });
    if (seen.has("neither")) break;
  }
  const size = await judgeSize(log, file);
  const foreign = size === "neither" ? log.sizeBytes : neither;
  const at = fenced && judgeFence(first, fenced);
  if (at === "going down") return { state: "partly" };
  const others = joined(seen, size);
  // What was written there before anything of the log was: somebody has lifted the fence.
  const isEarly = at === "written" && (fenced?.kept !== undefined || others === "untouched");
  if (at === "lifted" || isEarly) return { state: "foreign", offset: 0 };
  // The fence's sector is written last: what stands elsewhere was in place by then.
  if (at === "written" || (at === "down" && !(first === "both" && others === "untouched"))) {
    return { state: foreign === undefined && others === "applied" ? "applied" : "used" };
  }
  if (foreign !== undefined && (at !== "up" || size === "neither")) {
    return { state: "foreign", offset: foreign };
  }
  if (first !== undefined) seen.add(first);
  return { state: joined(seen, size) };
}

/**
 * Where an image is with its fence, by the first sector:
 * - up: nobody else can have opened it since before the log was applied. One that stays is up all the time.
 * - going down: the first sector was written by half, when all else was in place and durable.
 * - down: it is as the log leaves it.
 * - lifted: it is as before, without the fence, which imgtx lifts in no other way.
 * - written: somebody else has written to it.
 */
export type FenceState = "up" | "going down" | "down" | "lifted" | "written";

export function judgeFence(first: SectorState | undefined, { fence, kept }: FenceGuard): FenceState {
  if (first === "neither") return "written";
  // A first sector that the log leaves alone has the fence that the image has had since before.
  if (first === "both") return kept || !fence ? "up" : "down";
  if (first === "after") return kept ? "up" : "down";
  if (first === "torn") return kept ? "up" : "going down";
  return first === (fence ? "raised" : "before") ? "up" : "lifted";
}

export type SizeState = "before" | "after" | "both" | "between" | "neither";

/**
 * Of the file, by the log: a size between the two is what a power cut leaves of a file that grows. Where the log changes
 * none, a larger one is a guest's, who needed room, or a volume's that was extended.
 */
export async function judgeSize(log: RedoLog, file: StorageFile): Promise<SizeState> {
  const { sizeBytes } = await file.stat();
  const [before, after] = [log.baseSizeBytes, log.sizeBytes];
  if (before === after) return sizeBytes >= after ? "both" : "neither";
  if (sizeBytes === after) return "after";
  if (sizeBytes === before) return "before";
  return sizeBytes > Math.min(before, after) && sizeBytes < Math.max(before, after) ? "between" : "neither";
}

function joined(seen: ReadonlySet<SectorState>, size: SizeState): "untouched" | "partly" | "applied" {
  // Under a fence that is up, what is neither was written by half.
  if (seen.has("torn") || seen.has("neither")) return "partly";
  const isBefore = seen.has("before") || seen.has("raised") || size === "before" || size === "between";
  const isAfter = seen.has("after") || size === "after" || size === "between";
  if (isBefore) return isAfter ? "partly" : "untouched";
  return "applied";
}

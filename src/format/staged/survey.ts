// How far a log was applied to an image, by what the image holds: what recovery asks before it does anything.
//
// Invariant: nothing is written.

import type { StorageFile } from "../../storage/index.ts";
import { changesOf } from "./changes.ts";
import { compareChange, type SectorState } from "./compare-sectors.ts";
import type { FenceGuard, Guard } from "./guard.ts";
import type { RedoLog } from "./redo-log.ts";
import { SECTOR_BYTES } from "./sectors.ts";

/**
 * - untouched: all is as before; a fence that is up does not count.
 * - partly: it is to be applied from its start.
 * - applied: all is as the log leaves it. It may be in the page cache alone, after a failed flush.
 * - used: it was applied, its fence is down, and somebody has written since. It is finished. So it is too
 *   where somebody has written to the first sector, as the fence lets nobody do: whether it is down is for the caller to
 *   see, who knows what a fence is.
 * - foreign: somebody else has written there. Nothing may be written over that.
 */
export type Survey =
  | { readonly state: "untouched" | "partly" | "applied" | "used" }
  | { readonly state: "foreign"; readonly offset: number };

/** What the image in the file holds, by the log. */
export async function surveyImage(log: RedoLog, file: StorageFile, guard: Guard): Promise<Survey> {
  const fenced = guard.kind === "fence" ? guard : undefined;
  const seen = new Set<SectorState>();
  let first: SectorState | undefined;
  let foreign: number | undefined;
  for await (const change of changesOf(log, fenced?.kept)) {
    await compareChange(file, change, fenced?.fence, (state, offset) => {
      if (offset < SECTOR_BYTES) first = state;
      else seen.add(state);
      if (state === "neither") foreign ??= offset;
    });
    if (foreign !== undefined) break;
  }
  const size = await judgeSize(log, file);
  if (size === "neither") foreign ??= log.sizeBytes;
  const others = joined(seen, size);
  // The fence's sector is written last: what stands elsewhere was in place by then.
  if (fenced && !fenced.kept) {
    if (isDown(first) && !(first === "both" && others === "untouched")) {
      return { state: foreign === undefined && others === "applied" ? "applied" : "used" };
    }
    if (first === "neither") return { state: "used" };
  }
  if (fenced?.kept && !isDown(first) && !isUp(first, fenced)) foreign ??= 0;
  if (foreign !== undefined) return { state: "foreign", offset: foreign };
  if (first !== undefined) seen.add(first);
  return { state: joined(seen, size) };
}

/** Whether the first sector is as the log leaves it: where that keeps no fence, the fence has been taken down with it. */
export function isDown(first: SectorState | undefined): boolean {
  return first === "after" || first === "both";
}

/** Whether it has the fence under which the log is to be applied. */
export function isUp(first: SectorState | undefined, { fence }: FenceGuard): boolean {
  return first === (fence ? "raised" : "before");
}

export type SizeState = "before" | "after" | "both" | "between" | "neither";

/** Of the file, by the log: a size between the two is what a power cut leaves of a file that grows. */
export async function judgeSize(log: RedoLog, file: StorageFile): Promise<SizeState> {
  const { sizeBytes } = await file.stat();
  const [before, after] = [log.header.baseSizeBytes, log.sizeBytes];
  if (sizeBytes === after) return before === after ? "both" : "after";
  if (sizeBytes === before) return "before";
  return sizeBytes > Math.min(before, after) && sizeBytes < Math.max(before, after) ? "between" : "neither";
}

function joined(seen: ReadonlySet<SectorState>, size: SizeState): "untouched" | "partly" | "applied" {
  const isBefore = seen.has("before") || seen.has("raised") || size === "before" || size === "between";
  const isAfter = seen.has("after") || size === "after" || size === "between";
  if (isBefore) return isAfter ? "partly" : "untouched";
  return "applied";
}

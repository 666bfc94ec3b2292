// How images that were left look, held against what was known of them: what keeps a way back from them, and what nobody can
// tell.

import type { SeenFile } from "../../../device/index.ts";
import { describeContentChanges, describeDoubt, mayBeSameFile } from "../../../format/index.ts";
import type { Note } from "../../notes/notes.ts";

/** A sentence where it is not what it was. */
export function describeObstacle(was: SeenFile, now: SeenFile | undefined): string[] {
  const changes =
    now?.image === was.image
      ? describeContentChanges(was.fingerprint, now.fingerprint)
      : [`is ${now?.image ?? "nothing"} now`];
  return changes.length > 0 ? [`${was.image} has changed: ${changes.join(", ")}`] : [];
}

/**
 * Of one that has no obstacle. That it was closed while somebody wrote is no doubt: imgtx held its locks then. A sealed one
 * has nobody who writes to it: that the host was started anew is none either, but that its change time moved, and not its
 * time of modification, is one.
 */
export function findDoubts(was: SeenFile, now: SeenFile, isSealed: boolean): Note[] {
  const { image } = was;
  const after = now.fingerprint;
  const before = { ...was.fingerprint, settled: true };
  if (!mayBeSameFile(before, after)) return [{ code: "other file", image }];
  const isMoved = before.changedNs !== undefined && before.changedNs !== after.changedNs;
  if ((isSealed && !isMoved) || describeDoubt(before, after) === undefined) return [];
  return [{ code: "image in doubt", image, before, now: after }];
}

// Which layers of a device go when snapshots are deleted: pure, from the tree of its layers.
//
// Invariants
// - A layer goes only where nobody needs it for itself: no moment, no device, nothing that no record knows.
// - What imgtx did not make is never removed. It may be the lowest of what is merged, and get what stands on it.

import type { Layer, Layers } from "./layers.ts";

/** Layers that come to one: each stands on the one before, and nothing else does. */
export interface Run {
  /** The lowest first. At least one. */
  readonly layers: readonly Layer[];
  /** What stands on them, and stays. */
  readonly top: Layer;
  /** What stands on that. */
  readonly above: readonly Layer[];
}

export interface Division {
  /** The uppermost first: nothing stands on them any more. */
  readonly gone: readonly Layer[];
  /** The lowest first. */
  readonly runs: readonly Run[];
}

/** Whether only its place in chains keeps it. */
export function isFree({ isActive, moments, neededBy, isFreed, isMade }: Layer): boolean {
  return !isActive && moments.length === 0 && neededBy === undefined && (isFreed || isMade);
}

export function divideLayers(layers: Layers): Division {
  const above = new Map<string, Set<Layer>>([...layers.keys()].map((image) => [image, new Set<Layer>()]));
  for (const layer of layers.values()) if (layer.below !== null) above.get(layer.below)?.add(layer);
  const standingOn = (image: string): readonly Layer[] => [...(above.get(image) ?? [])];
  const gone = new Set<Layer>();
  const removeUnused = (layer: Layer | undefined): void => {
    if (!layer?.isMade || !isFree(layer) || standingOn(layer.image).length > 0) return;
    gone.add(layer);
    if (layer.below === null) return;
    above.get(layer.below)?.delete(layer);
    removeUnused(layers.get(layer.below));
  };
  for (const layer of layers.values()) if (!gone.has(layer)) removeUnused(layer);
  const mergesAbove = (layer: Layer): Layer | undefined => {
    const [only, ...others] = standingOn(layer.image);
    // What imgtx does not know any more may go on standing on it.
    if (!only || others.length > 0 || !isFree(layer) || isLeft(only, standingOn)) return undefined;
    return only;
  };
  const runs: Run[] = [];
  for (const layer of layers.values()) {
    if (gone.has(layer) || !mergesAbove(layer)) continue;
    const below = layer.below === null ? undefined : layers.get(layer.below);
    // One that imgtx did not make is the lowest of its run, or none.
    if (below && mergesAbove(below) === layer) continue;
    runs.push(runFrom(layer, mergesAbove, standingOn));
  }
  const depth = (image: string | null): number =>
    image === null ? 0 : 1 + depth(layers.get(image)?.below ?? null);
  return { gone: [...gone], runs: runs.sort((a, b) => depth(a.top.image) - depth(b.top.image)) };
}

/** Nobody's any more but its owner's, whose file stays. */
function isLeft(layer: Layer, standingOn: (image: string) => readonly Layer[]): boolean {
  return isFree(layer) && !layer.isMade && standingOn(layer.image).length === 0;
}

function runFrom(
  lowest: Layer,
  mergesAbove: (layer: Layer) => Layer | undefined,
  standingOn: (image: string) => readonly Layer[],
): Run {
  const layers = [lowest];
  for (let next = mergesAbove(lowest); next; ) {
    const top = next;
    next = top.isMade ? mergesAbove(top) : undefined;
    if (!next) return { layers, top, above: standingOn(top.image) };
    layers.push(top);
  }
  throw new Error("something stands on what is merged");
}

// What a check found: counts of what is wrong, figures about how the image is laid out, and a line for each
// finding, in the words of `qemu-img check`.
//
// Invariant: lines go out as they are found, and none is kept. A damaged image can have millions.

import type { ClusterIndex } from "../../../units/index.ts";
import type { ClusterCounts } from "./check-counts.ts";
/** Takes one line, without its line break. */
export type FindingSink = (line: string) => void;

/** What makes it unsafe to write to the image: a new cluster could be one that is in use. */
export type Danger =
  /** More refers to the cluster at the offset than its refcount says. */
  | { readonly kind: "uncounted"; readonly offset: number; readonly count: number }
  /** Something refers to bytes that the file does not have, from start to end. */
  | { readonly kind: "missing"; readonly start: number; readonly end: number }
  /** Flag: COPIED says "one reference", and there are others. Blocks: where refcounts are said to be, they can't be. */
  | { readonly kind: "flag" | "blocks" | "other"; readonly line: string };

export interface CheckWatch {
  /** Takes a leaked cluster, and by how much its refcount is too high. */
  readonly onLeak?: (cluster: ClusterIndex, surplus: number) => void;
  readonly onDanger?: (danger: Danger) => void;
  /** Takes a refcount that is not the number of references, and that number. No line tells it then, nor anything else. */
  readonly onCount?: (cluster: ClusterIndex, count: number, references: number) => void;
  /** Takes how often each cluster is referenced, when all are counted, and releases that. */
  readonly onCounted?: (counts: ClusterCounts) => void;
  /** Counts that all flags are judged by, in the place of those that the image stores; those are not judged then. */
  readonly corrected?: ClusterCounts | undefined;
  /** Whether the image is judged without its refcount table and blocks, as if they were to be made anew. */
  readonly leavesOutRefcounts?: boolean;
}

/** The counts and figures of `qemu-img check`, under the names that its JSON has. */
export interface CheckResult {
  /** What may have damaged data already, or may with the next write. */
  readonly corruptions: number;
  /** Clusters that are counted as used, and are not: lost space. */
  readonly leaks: number;
  /** What could not be judged. */
  readonly checkErrors: number;
  /** Where the last cluster in use ends, in bytes. */
  readonly imageEndOffset: number;
  /** Clusters of the virtual disk. */
  readonly totalClusters: number;
  /** Of the active layer; so are the next two. */
  readonly allocatedClusters: number;
  /** Clusters that do not follow on the one before them. */
  readonly fragmentedClusters: number;
  readonly compressedClusters: number;
}

/** qemu-img tells a finding each time that it comes by. A table that thousands of snapshots share is told less. */
const REPEATS_MAX = 64;

export class CheckFindings {
  corruptions = 0;
  leaks = 0;
  checkErrors = 0;
  readonly #sink: FindingSink;
  readonly #watch: CheckWatch;

  constructor(sink: FindingSink, watch: CheckWatch = {}) {
    this.#sink = sink;
    this.#watch = watch;
  }

  /**
   * times: how often the damaged entry is reached, since each is an error of its own. danger: null for what a
   * writer need not fear.
   */
  corrupt(line: string, times = 1, danger: Danger | null = { kind: "other", line }): void {
    this.corruptions += times;
    if (danger !== null) this.#watch.onDanger?.(danger);
    for (let told = 0; told < Math.min(times, REPEATS_MAX); told += 1) this.#sink(line);
  }

  /** surplus: by how much the cluster's refcount is too high. */
  leak(line: string, cluster: ClusterIndex, surplus: number): void {
    this.leaks += 1;
    this.#sink(line);
    this.#watch.onLeak?.(cluster, surplus);
  }

  /** A count that is wrong, for who takes these in the place of their lines. False where nobody does. */
  takes(cluster: ClusterIndex, count: number, references: number): boolean {
    const { onCount } = this.#watch;
    if (!onCount) return false;
    if (count < references) this.corruptions += 1;
    else this.leaks += 1;
    onCount(cluster, count, references);
    return true;
  }

  unjudged(line: string): void {
    this.checkErrors += 1;
    this.#watch.onDanger?.({ kind: "blocks", line });
    this.#sink(line);
  }
}

/** A 64-bit word in hexadecimal, from its halves, as C's %lx prints it. */
export function formatWord(hi: number, lo: number): string {
  const high = hi >>> 0;
  const low = (lo >>> 0).toString(16);
  return high === 0 ? low : `${high.toString(16)}${low.padStart(8, "0")}`;
}

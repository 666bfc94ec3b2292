// Runs: what one layer of a chain says about consecutive guest bytes. Layers append them in guest order, and
// neighbours that are one become one.
//
// Invariants
// - Runs are in order and without gaps or overlaps; each is stored in one way and, where it has a place, at
//   one stretch of the file.
// - A list is a batch: a layer stops to append when it is full, and says how far it came. Memory is bounded
//   whatever an image holds.

import type { GuestOffset, HostOffset } from "../../units/index.ts";
import type { ExtentKind } from "../image.ts";

export interface Run {
  readonly start: GuestOffset;
  lengthBytes: number;
  readonly kind: ExtentKind;
  /** In the layer's data file; for `compressed`, in its image file. */
  readonly hostOffset: HostOffset | undefined;
  /** Of `compressed`: up to how many bytes the compressed data takes. Else 0. */
  readonly storedBytes: number;
  /** Of `zero`: data by the layer's tables, that lies in a hole of the file. */
  readonly isHole: boolean;
}

/** Why runs are asked for. To read, compressed clusters are told apart, and holes of the file don't matter. */
export type RunPurpose = "read" | "describe";

const RUNS_MAX = 4096;

export class RunList {
  readonly runs: Run[] = [];
  readonly #capacity: number;
  #last: Run | undefined;

  constructor(capacity: number = RUNS_MAX) {
    this.#capacity = capacity;
  }

  /** What has begun may still be finished: one cluster with its subclusters. */
  get isFull(): boolean {
    return this.runs.length >= this.#capacity;
  }

  push(
    start: GuestOffset,
    lengthBytes: number,
    kind: ExtentKind,
    hostOffset: HostOffset | undefined,
    isHole = false,
  ): void {
    const last = this.#last;
    if (
      last !== undefined &&
      last.kind === kind &&
      last.isHole === isHole &&
      last.storedBytes === 0 &&
      (hostOffset === undefined
        ? last.hostOffset === undefined
        : last.hostOffset !== undefined && last.hostOffset + last.lengthBytes === hostOffset)
    ) {
      last.lengthBytes += lengthBytes;
      return;
    }
    this.#append({ start, lengthBytes, kind, hostOffset, storedBytes: 0, isHole });
  }

  /** One compressed cluster, or the part of it that was asked for. */
  pushCompressed(start: GuestOffset, lengthBytes: number, hostOffset: HostOffset, storedBytes: number): void {
    this.#append({ start, lengthBytes, kind: "compressed", hostOffset, storedBytes, isHole: false });
  }

  #append(run: Run): void {
    this.runs.push(run);
    this.#last = run;
  }
}

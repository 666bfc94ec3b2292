// One image of a chain, for reading: what it says about each guest byte, and the bytes that it has itself.
// composed-image.ts makes an Image of them; a writer puts a layer of its own on top.
//
// Invariant: a layer knows nothing of those below it. `unallocated` means: ask below.

import type { GuestOffset } from "../../units/index.ts";
import type { ImageLayer } from "../image.ts";
import type { Run, RunList, RunPurpose } from "./run-list.ts";

export interface LayerReader extends ImageLayer {
  /**
   * Appends the runs from start on, until end or until the list is full. Returns how far it came: beyond
   * start, and at most end. Both lie inside the virtual size.
   */
  findRuns(start: GuestOffset, end: GuestOffset, runs: RunList, purpose: RunPurpose): Promise<GuestOffset>;
  /**
   * Fills target, whose first byte is the guest byte targetStart, with compressed runs that were found with
   * the purpose "read" and lie inside it. Never called for a layer that finds none.
   */
  readCompressed(runs: readonly Run[], target: Uint8Array, targetStart: number): Promise<void>;
}

// A raw image as a layer of a chain: its guest bytes are the file's, and its holes are known zeros.
//
// Invariant: all of a raw image is allocated, so nothing shows through from below. Past the end of the file,
// up to the end of its last sector, it reads as zeros.

import type { StorageFile } from "../../storage/index.ts";
import { type GuestOffset, guestOffset, hostOffset } from "../../units/index.ts";
import type { ChainLink } from "../chain/chain-link.ts";
import type { ImageFormat } from "../image-format.ts";
import { HoleFinder } from "../read/hole-finder.ts";
import type { LayerReader } from "../read/layer-reader.ts";
import type { RunList, RunPurpose } from "../read/run-list.ts";

export class RawLayer implements LayerReader {
  readonly path: string;
  readonly format: ImageFormat = "raw";
  readonly virtualSizeBytes: number;
  readonly dataFile: StorageFile;

  constructor(link: Pick<ChainLink, "path" | "virtualSizeBytes" | "file">) {
    this.path = link.path;
    this.virtualSizeBytes = link.virtualSizeBytes;
    this.dataFile = link.file;
  }

  /** In a raw file guest and host offsets are the same. */
  async findRuns(
    start: GuestOffset,
    end: GuestOffset,
    runs: RunList,
    purpose: RunPurpose,
  ): Promise<GuestOffset> {
    if (purpose === "read") {
      runs.push(start, end - start, "data", hostOffset(start));
      return end;
    }
    const holes = new HoleFinder(this.dataFile);
    let at = start;
    while (at < end && !runs.isFull) {
      const found = await holes.at(at);
      const reached = found.end < end ? guestOffset(found.end) : end;
      runs.push(at, reached - at, found.isHole ? "zero" : "data", hostOffset(at));
      at = reached;
    }
    return at;
  }

  async readCompressed(): Promise<void> {
    return Promise.resolve();
  }
}

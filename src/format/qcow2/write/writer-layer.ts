// The image that is being written to as the top layer of its chain: what its tables in memory say.
//
// Invariant: reads see every change that was made, whether or not it has got to the disk.

import { placed } from "../../../errors/index.ts";
import { type GuestOffset, guestOffset, offsetBy } from "../../../units/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import type { ImageFormat } from "../../image-format.ts";
import type { LayerReader } from "../../read/layer-reader.ts";
import { CompressedReader } from "../read/qcow2-layer-compressed.ts";
import { judgeDataFilePlace } from "../read/qcow2-layer.ts";
import { L2Scanner } from "../read/qcow2-layer-scan.ts";
import type { Qcow2Link } from "../../chain/chain-link.ts";
import type { Run, RunList, RunPurpose } from "../../read/run-list.ts";
import type { WriterState } from "./writer-state.ts";

export class WriterLayer implements LayerReader {
  readonly path: string;
  readonly format: ImageFormat = "qcow2";
  readonly virtualSizeBytes: number;
  readonly dataFile: StorageFile;
  readonly #link: Qcow2Link;
  readonly #state: WriterState;
  readonly #scanner: L2Scanner;
  #compressed: CompressedReader;

  constructor(link: Qcow2Link, state: WriterState) {
    this.path = link.path;
    this.virtualSizeBytes = link.virtualSizeBytes;
    this.dataFile = state.files.dataFile;
    this.#link = link;
    this.#state = state;
    this.#compressed = new CompressedReader(link);
    this.#scanner = new L2Scanner(link.header, {
      data: (hostOffset, lengthBytes, guestOffset) => {
        if (link.header.hasExternalDataFile) judgeDataFilePlace(hostOffset, guestOffset);
        else state.judgePlace(hostOffset, lengthBytes);
      },
      compressed: (hostOffset, lengthBytes) => {
        state.judgePlace(hostOffset, lengthBytes);
      },
    });
  }

  async findRuns(
    start: GuestOffset,
    end: GuestOffset,
    runs: RunList,
    purpose: RunPurpose,
  ): Promise<GuestOffset> {
    let at = start;
    while (at < end && !runs.isFull) {
      const from = at;
      at = await this.#state.turnstile.run(() => this.#scanTable(from, end, runs, purpose));
    }
    return at;
  }

  async readCompressed(runs: readonly Run[], target: Uint8Array, targetStart: number): Promise<void> {
    await this.#compressed.read(runs, target, targetStart);
  }

  /** What was unpacked before may be another cluster's by now. */
  forgetCompressed(): void {
    this.#compressed = new CompressedReader(this.#link);
  }

  async #scanTable(
    at: GuestOffset,
    end: GuestOffset,
    runs: RunList,
    purpose: RunPurpose,
  ): Promise<GuestOffset> {
    const { tables } = this.#state;
    const l1Index = Math.floor(at / tables.spanBytes);
    const guestStart = guestOffset(l1Index * tables.spanBytes);
    const tableEnd = offsetBy(guestStart, tables.spanBytes);
    const stop = tableEnd < end ? tableEnd : end;
    const table = await this.#state.findTable(l1Index);
    if (table === undefined) {
      runs.push(at, stop - at, "unallocated", undefined);
      return stop;
    }
    const slice = { halves: table.halves, fileOffset: table.hostOffset, guestStart, start: at, end: stop };
    return placed({ image: this.path }, () => this.#scanner.scan(slice, runs, purpose));
  }
}

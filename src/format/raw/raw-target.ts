// A raw file as the target of a copy: guest offsets are the file's.

import { endOf, type GuestOffset, type GuestRange } from "../../units/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import type { Extent, ImageLayer, WritableImage } from "../image.ts";
import type { ImageFormat } from "../image-format.ts";
import { RunList } from "../read/run-list.ts";
import { RawLayer } from "./raw-layer.ts";

const ZEROS_BYTES = 1024 * 1024;
const EXTENTS_MAX = 4096;

export class RawTarget implements WritableImage {
  readonly path: string;
  readonly format: ImageFormat = "raw";
  readonly virtualSizeBytes: number;
  readonly layers: readonly ImageLayer[];
  readonly #file: StorageFile;
  readonly #layer: RawLayer;

  /** The file is the caller's to close; its size is settled. */
  constructor(path: string, file: StorageFile, virtualSizeBytes: number) {
    this.path = path;
    this.virtualSizeBytes = virtualSizeBytes;
    this.#file = file;
    this.#layer = new RawLayer({ path, virtualSizeBytes, file });
    this.layers = [this.#layer];
  }

  async findExtents(range: GuestRange): Promise<readonly Extent[]> {
    const runs = new RunList(EXTENTS_MAX);
    await this.#layer.findRuns(range.start, endOf(range), runs, "describe");
    return runs.runs.map(({ start, lengthBytes, kind, hostOffset }) => ({
      start,
      lengthBytes,
      kind,
      depth: 0,
      present: true,
      hostOffset,
      isData: kind === "data",
    }));
  }

  async read(target: Uint8Array, offset: GuestOffset): Promise<void> {
    const count = await this.#file.read(target, offset);
    if (count < target.length) target.fill(0, count);
  }

  async write(source: Uint8Array, offset: GuestOffset): Promise<void> {
    await this.#file.write(source, offset);
  }

  async writeZeroes(range: GuestRange, mayUnmap: boolean): Promise<void> {
    if (mayUnmap) {
      await this.#file.punchHole(range);
      return;
    }
    const zeros = new Uint8Array(Math.min(ZEROS_BYTES, range.lengthBytes));
    for (let done = 0; done < range.lengthBytes; done += zeros.length) {
      const piece = zeros.subarray(0, Math.min(zeros.length, range.lengthBytes - done));
      await this.#file.write(piece, range.start + done);
    }
  }

  async discard(range: GuestRange): Promise<void> {
    await this.#file.punchHole(range);
  }

  async writeCompressed(): Promise<void> {
    return Promise.reject(
      new ImgtxError("E_INTERNAL", "raw images have no compressed clusters", { image: this.path }),
    );
  }

  async flush(purpose: string): Promise<void> {
    await this.#file.flush(purpose);
  }

  async close(): Promise<void> {
    return Promise.resolve();
  }
}

// A block device that a simulated process has open: a file of fixed size, without holes, names and times of its own.
// Power cuts tear what is written to it at sectors, as they do for files.

import type { ByteRange, LeaseAnswer, StorageFile } from "../../../src/storage/index.ts";
import { copyIntoPlace } from "../../../src/storage/disk/copy-range.ts";
import { SimulatedFile } from "./simulated-file.ts";
import { problem } from "./simulated-stat.ts";

export class SimulatedDeviceFile extends SimulatedFile {
  override async write(source: Uint8Array, offset: number): Promise<void> {
    this.#assertFits(offset + source.length);
    await super.write(source, offset);
  }

  override async truncate(sizeBytes: number): Promise<void> {
    await this.process.turn();
    this.#assertFits(sizeBytes);
    if (sizeBytes < this.content().sizeBytes)
      throw problem("E_UNSUPPORTED", this.path, "a block device has the size that it has");
  }

  override async setAccess(): Promise<void> {
    throw problem("E_UNSUPPORTED", this.path, "it is a block device");
  }

  override async setModified(): Promise<boolean> {
    await this.process.turn();
    return true;
  }

  override async seekData(offset: number): Promise<number | undefined> {
    await this.process.turn();
    return offset < this.content().sizeBytes ? offset : undefined;
  }

  override async seekHole(offset: number): Promise<number> {
    await this.process.turn();
    return Math.max(offset, this.content().sizeBytes);
  }

  override async allocate({ start, lengthBytes }: ByteRange): Promise<void> {
    await this.process.turn();
    this.#assertFits(start + lengthBytes);
  }

  override async copyRangeFrom(
    source: StorageFile,
    sourceOffset: number,
    targetOffset: number,
    lengthBytes: number,
  ): Promise<void> {
    await this.allocate({ start: targetOffset, lengthBytes });
    await copyIntoPlace({ source, sourceOffset, target: this, targetOffset, lengthBytes });
  }

  override takeLease(): LeaseAnswer {
    return "unavailable";
  }

  #assertFits(end: number): void {
    if (end > this.content().sizeBytes) throw problem("E_NO_SPACE", this.path, "the device ends before that");
  }
}

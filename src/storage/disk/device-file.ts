// A block device, by its descriptor: a file of fixed size, without holes, names and times of its own.
//
// Invariants
// - Its size is never changed: to grow past its end is E_NO_SPACE, to be cut E_UNSUPPORTED. Nobody takes what stood there
//   before for zeros.
// - What is punched reads as zeros: the kernel clears it where the device can do that by itself, else zeros are written.
//   A discard alone promises no content, and is never relied on.
// - Coherent with a guest that goes past the page cache (O_DIRECT) on this host: both use one page cache of the device, by
//   whatever node, and the kernel writes back, or forgets, what the other side is about to read. What another host
//   wrote, or somebody to the disk below, is seen from the next open on: clean pages are dropped then.
// - A flush is the device's own: fsync sends it on to the disk.

import { fstatSync } from "node:fs";
import { ImgtxError } from "../../errors/index.ts";
import { alignDown, alignUp } from "../../units/index.ts";
import { describeBlockDevice, readSectorBytes } from "../kernel/block-device.ts";
import { CANT } from "./cant.ts";
import { copyIntoPlace } from "./copy-range.ts";
import type { NativeAccess } from "./native-access.ts";
import { NodeFile } from "./node-file.ts";
import type { ByteRange, LeaseAnswer, StorageFile } from "../storage.ts";
import { doneUnless, explainError } from "../system-error.ts";
import { writeZeros } from "./zero-ranges.ts";

export class DeviceFile extends NodeFile {
  readonly #native: NativeAccess;
  readonly #sectorBytes: number;
  #knownBytes: number;

  constructor(path: string, descriptor: number, native: NativeAccess) {
    super(path, descriptor, native);
    this.#native = native;
    this.#sectorBytes = readSectorBytes(fstatSync(descriptor, { bigint: true }).rdev);
    this.#knownBytes = this.#sizeBytes();
    this.forget({ start: 0, lengthBytes: this.#knownBytes });
  }

  override async truncate(sizeBytes: number): Promise<void> {
    this.#assertFits(sizeBytes);
    if (sizeBytes === this.#sizeBytes()) return;
    throw new ImgtxError(
      "E_UNSUPPORTED",
      `Could not resize '${this.path}': a block device has the size that it has`,
      {
        image: this.path,
        doing: "write",
      },
    );
  }

  override async write(source: Uint8Array, offset: number): Promise<void> {
    this.#assertFits(offset + source.length);
    await super.write(source, offset);
  }

  /** The node is not imgtx's: udev makes it anew, with the rights that its rules say. */
  override async setAccess(): Promise<void> {
    throw new ImgtxError("E_UNSUPPORTED", `Could not set the owner of '${this.path}': it is a block device`, {
      image: this.path,
    });
  }

  override async setAttribute(): Promise<boolean> {
    return false;
  }

  /** It keeps no times, and what is asked for is what it has. */
  override async setModified(): Promise<boolean> {
    return true;
  }

  override async seekData(offset: number): Promise<number | undefined> {
    return offset < this.#sizeBytes() ? offset : undefined;
  }

  override async seekHole(offset: number): Promise<number> {
    return Math.max(offset, this.#sizeBytes());
  }

  override async punchHole({ start, lengthBytes }: ByteRange): Promise<void> {
    const end = Math.min(start + lengthBytes, this.#sizeBytes());
    if (start >= end) return;
    // The kernel clears whole sectors; what is left of the first and the last one is written.
    const first = Math.min(alignUp(start, this.#sectorBytes), end);
    const last = Math.max(alignDown(end, this.#sectorBytes), first);
    await writeZeros(this, { start, lengthBytes: first - start });
    if (!this.#clear({ start: first, lengthBytes: last - first })) {
      await writeZeros(this, { start: first, lengthBytes: last - first });
    }
    await writeZeros(this, { start: last, lengthBytes: end - last });
  }

  #clear(range: ByteRange): boolean {
    if (range.lengthBytes === 0) return true;
    const native = this.#native.optional();
    if (native === undefined) return false;
    try {
      return (
        doneUnless(CANT.clear, () => native.punchHole(this.open(), range) ?? true) ||
        doneUnless(CANT.clear, () => native.zeroRange(this.open(), range) ?? true)
      );
    } catch (error) {
      throw explainError(error, "clear a range of", this.path, range.start);
    }
  }

  /** It has all its blocks. */
  override async allocate({ start, lengthBytes }: ByteRange): Promise<void> {
    this.#assertFits(start + lengthBytes);
  }

  override disableCopyOnWrite(): boolean {
    return false;
  }

  override setExtentSizeHint(): boolean {
    return false;
  }

  override extentSizeHint(): number {
    return 0;
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

  override async cloneFrom(): Promise<boolean> {
    return false;
  }

  /** The kernel has leases on regular files alone. */
  override takeLease(): LeaseAnswer {
    return "unavailable";
  }

  /** Most calls end before what was the end once: the size is asked for again only where they do not. */
  #assertFits(end: number): void {
    if (end <= this.#knownBytes) return;
    this.#knownBytes = this.#sizeBytes();
    if (end > this.#knownBytes) throw noRoom(this.path, end, this.#knownBytes);
  }

  #sizeBytes(): number {
    return describeBlockDevice(this.path, fstatSync(this.open(), { bigint: true }).rdev).sizeBytes;
  }
}

function noRoom(path: string, wantedBytes: number, presentBytes: number): ImgtxError {
  return new ImgtxError(
    "E_NO_SPACE",
    `Could not write to '${path}': the device ends at ${presentBytes}, and ${wantedBytes} bytes are needed`,
    {
      image: path,
      doing: "write",
      offset: presentBytes,
      hint: "make the volume larger (`lvextend` for LVM), then run the command again",
    },
  );
}

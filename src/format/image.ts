// Guest data of one disk, whatever its format and however deep its chain: read by offset, described by
// extents, and written. Copy, compare, map and measure know images by this alone.
//
// Invariants
// - Guest offsets and lengths are bytes, in the range of the virtual size; beyond it is E_INTERNAL.
// - What no image of the chain has reads as zeros, and so does what lies past the end of a shorter backing
//   image.
// - Reads change nothing. A writer flushes nothing by itself but what its own order of writes needs; what was
//   written is durable when flush returns.

import { ImgtxError } from "../errors/index.ts";
import type { ByteRange, StorageFile } from "../storage/index.ts";
import type { GuestOffset, GuestRange, HostOffset } from "../units/index.ts";
import type { ImageFormat } from "./image-format.ts";

/**
 * `data`: stored as it is. `zero`: known to read as zeros, by a mark or because it is a hole of a raw file.
 * `compressed`: stored in compressed clusters. `unallocated`: in no image of the chain; reads as zeros.
 */
export type ExtentKind = "data" | "zero" | "compressed" | "unallocated";

/** A run of guest bytes that is stored in one way, at one place. */
export interface Extent extends GuestRange {
  readonly kind: ExtentKind;
  /** Which layer decided: 0 is the image itself, 1 its backing image. For `unallocated`, the last one asked. */
  readonly depth: number;
  /** Whether some layer has it allocated. A hole of a raw layer and a zero mark are; `unallocated` never is. */
  readonly present: boolean;
  /**
   * Where its first byte lies in the layer's data: for `data`, and for a `zero` or an `unallocated` (one
   * subcluster of an allocated cluster) that has a place.
   */
  readonly hostOffset: HostOffset | undefined;
  /**
   * Whether the layer's tables say data: for `data` and `compressed`, and for a `zero` that is data in a hole
   * of the file, as preallocation makes it. qemu-img map prints it.
   */
  readonly isData: boolean;
}

/** One image of a chain. */
export interface ImageLayer {
  readonly path: string;
  readonly format: ImageFormat;
  readonly virtualSizeBytes: number;
  /** What host offsets are in: the image's own file, or its external data file. */
  readonly dataFile: StorageFile;
}

export interface Image {
  readonly path: string;
  readonly format: ImageFormat;
  readonly virtualSizeBytes: number;
  /** The image itself first, the base last. Never empty. */
  readonly layers: readonly ImageLayer[];
  /**
   * Extents from range.start on, in order and without gaps, each as long as it can be within the range. A
   * batch: they may end before the range does (the caller asks again from there), but never at its start.
   */
  findExtents(range: GuestRange): Promise<readonly Extent[]>;
  /** Fills target from the guest offset. Errors name the image of the chain and the offset in it. */
  read(target: Uint8Array, offset: GuestOffset): Promise<void>;
  /** The same; the place of what lies in an extent that was found is not looked for again. */
  readExtent?(extent: Extent, target: Uint8Array, offset: GuestOffset): Promise<void>;
  close(): Promise<void>;
}

/** Bytes of a file. */
export interface FileRange extends ByteRange {
  readonly file: StorageFile;
}

export interface WritableImage extends Image {
  write(source: Uint8Array, offset: GuestOffset): Promise<void>;
  /**
   * Takes bytes of a file over, inside the kernel where it can. False, and nothing written, where they are to be read and
   * written instead. Without it that is so of all.
   */
  takeOver?(range: FileRange, offset: GuestOffset): Promise<boolean>;
  /**
   * Makes the range read as zeros. mayUnmap lets whole clusters be given back where what is below reads as
   * zeros anyway; without it clusters keep their place.
   */
  writeZeroes(range: GuestRange, mayUnmap: boolean): Promise<void>;
  /** Gives whole clusters of the range back to the file; what reads there afterwards is QEMU's rule. */
  discard(range: GuestRange): Promise<void>;
  /** One whole cluster, compressed where that is shorter. E_INTERNAL for a format without compression. */
  writeCompressed(cluster: Uint8Array, offset: GuestOffset): Promise<void>;
  flush(purpose: string): Promise<void>;
}

/** E_INTERNAL. */
export function isOutsideDisk(
  { path: image, virtualSizeBytes }: Pick<Image, "path" | "virtualSizeBytes">,
  start: number,
  lengthBytes: number,
): ImgtxError {
  const text = `${lengthBytes} bytes at ${start} are not inside of a disk of ${virtualSizeBytes}`;
  return new ImgtxError("E_INTERNAL", text, { image });
}

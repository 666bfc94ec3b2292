// What a statement copies at the commit, as its plan has it, and what follows from that.

import type { ImageFormat, NewSnapshot } from "../../format/index.ts";

/** Content that the commit copies in place, after its mark: see commit/copies.ts. */
export interface CopyStep {
  /**
   * - sync: an overlay that the statement made over the image, and that nobody else knows.
   * - merge: images of a chain, into one below them.
   * - up: what the top of a chain would miss on another backing image, which its header names afterwards.
   * - fill: the content of a device, into an image that the statement has begun on a block device.
   */
  readonly kind: "sync" | "merge" | "up" | "fill";
  /** The uppermost image of what is copied, of qcow2 but for `up` and `fill`: what it has, and what stands between it and the other one. */
  readonly from: string;
  /** Its format. Of `fill` alone. */
  readonly fromFormat?: ImageFormat | undefined;
  /** The files that are copied, the uppermost first, with their data files. */
  readonly files: readonly string[];
  /** The image that gets it, and its format. */
  readonly into: string;
  readonly format: ImageFormat;
  /** Of `up` alone. */
  readonly up?: UpStep;
  /** Whether a redo log empties what is merged, which is read without it: it comes when all is copied. Left out: no. */
  readonly empties?: boolean;
}

/** An image, and the name that the header of what stands on it is to have. */
export interface NewBacking {
  readonly path: string;
  readonly format: ImageFormat;
  readonly name: string;
}

/** How the top of a chain gets another backing image. */
export interface UpStep {
  /** Null: it is to stand on none. */
  readonly onto: NewBacking | null;
  /**
   * Shows what `onto` will, where other copies bring that there: the image is compared with this, and its header changes
   * when all is copied. Left out: `onto`.
   */
  readonly until?: { readonly path: string; readonly format: ImageFormat } | undefined;
  readonly leavesOutEqual: boolean;
  readonly isCompressed: boolean;
  /** The redo log of its header, which is made when all is copied: copying changes the header, too. */
  readonly log: string;
}

/** A change of an image that earlier statements copy into, which has to come after that: see change-header.ts. */
export interface LateStep {
  readonly image: string;
  /** The redo log that is made when all is copied. That of the image's new backing image serves both. */
  readonly log: string;
  /** The internal snapshot that it gets. */
  readonly snapshot?: NewSnapshot | undefined;
  /** What its header names: an image that shows what the one before showed. */
  readonly backing?: NewBacking | undefined;
}

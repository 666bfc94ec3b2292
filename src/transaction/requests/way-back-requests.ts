// Requests about snapshots, and those that go back: to a snapshot, or by what commits did.

import type { OverlayOptions } from "../../format/index.ts";

/** One new overlay over a device's active layer. */
export interface SnapshotTarget {
  readonly device: string;
  /** Absolute path of the overlay. Undefined: named after the image and the snapshot, beside the image. */
  readonly file: string | undefined;
  readonly format: string;
}

export interface SnapshotRequest {
  readonly kind: "snapshot" | "snapshot-group";
  readonly targets: readonly SnapshotTarget[];
  /** Every device of the workspace, instead of targets, each with an overlay that gets its name from imgtx. */
  readonly isOfAll?: boolean | undefined;
  /** Of the snapshot, by which commands find it. Undefined: it has its number alone. */
  readonly name?: string | undefined;
  readonly message?: string | undefined;
  /** Store the backing file name relative to the overlay's folder; undefined: where both lie beside each other or in the workspace. */
  readonly relative: boolean | undefined;
  /** Take an existing target that is already an empty overlay over the active layer. It is checked, never wiped. */
  readonly reuse: boolean;
  /** Whether a target that is a block device may hold something, which is lost. Default: no. */
  readonly overwrite?: boolean;
  readonly overlay: OverlayOptions;
  /** Of each volume that is made for it. Default: what the disk takes when all of it is written to. */
  readonly volumeBytes?: number;
  /** A bitmap that each new active layer gets, which marks what is written from then on. */
  readonly bitmap?: string | undefined;
  /** Small files of the machine that the snapshot keeps beside: absolute paths. */
  readonly withFiles?: readonly string[];
}

export interface RollbackRequest {
  readonly kind: "rollback";
  /** None: all that the snapshot keeps. */
  readonly devices: readonly string[];
  /** A snapshot's name or number, or a time. Undefined: the newest snapshot of the devices. */
  readonly to: string | undefined;
  /** Whether what was active goes, instead of being kept as a snapshot of its own. */
  readonly isDiscarding: boolean;
  /** Absolute paths of new overlays. Those of other devices: named after image and snapshot, beside the image. */
  readonly overlays?: readonly { readonly device: string; readonly file: string }[];
  /** Of each volume that is made for one. Default: what the disk takes when all of it is written to. */
  readonly volumeBytes?: number;
  /** Absolute: the folder that gets the files which the snapshot keeps beside. */
  readonly filesTo?: string | undefined;
  /** Whether those may be written over files that are there, and overlays over what is on a block device. Default: no. */
  readonly overwrites?: boolean;
}

export interface UndoRequest {
  readonly kind: "undo" | "redo";
  /** Whether it is a redo. */
  readonly isForward: boolean;
  /** Leave behind what guests wrote since, and go to images of which nobody can tell that they are what they were. */
  readonly force: boolean;
}

export interface SnapshotDeleteRequest {
  readonly kind: "snapshot-delete";
  /** Names or numbers, at least one. */
  readonly snapshots: readonly string[];
  /** Whose moments go. None: those of all devices that the snapshots keep. */
  readonly devices: readonly string[];
  /** Whether the images stay as they are, whatever they are: nothing is merged or removed. */
  readonly keepsImages: boolean;
  /** Whether layers go also where the history lacks generations, whose images may stand on them. Default: they stay. */
  readonly force?: boolean;
}

// What a caller may ask of the engine, and what it answers. Plain data on both sides: the command line
// makes requests and draws outcomes, and knows nothing of journals.

import type { MirrorSync, Workspace } from "../../device/index.ts";
import type { ErrorCode } from "../../errors/index.ts";
import type {
  Amendment,
  CreateOptions,
  ImageFormat,
  Preallocation,
  RepairScope,
} from "../../format/index.ts";
import type {
  DeviceAddRequest,
  DeviceRemoveRequest,
  DeviceRenameRequest,
  DeviceProvisionRequest,
  DeviceTrustRequest,
  RelocateRequest,
} from "./device-requests.ts";
import type {
  RollbackRequest,
  SnapshotDeleteRequest,
  SnapshotRequest,
  UndoRequest,
} from "./way-back-requests.ts";

export interface ReopenRequest {
  readonly kind: "reopen";
  readonly device: string;
  readonly file: string;
  /** Undefined: recognised by its magic; never guessed as raw. */
  readonly format: string | undefined;
  /** Allow an image of another virtual size. */
  readonly force: boolean;
  /** Make the file: a qcow2 image whose data file is the raw disk that the device is on. */
  readonly asShell?: boolean;
}

/** One copy of a device, made or brought in sync. */
export interface MirrorTarget {
  readonly device: string;
  /** Absolute path of the copy. Undefined: the mirror that the device has. */
  readonly file: string | undefined;
  /** Undefined: the device's own, or qcow2 where it stands on a backing image. */
  readonly format: string | undefined;
  /** Undefined: full, or what the mirror has. */
  readonly sync: MirrorSync | undefined;
  readonly compressed: boolean;
  /** How a new image is laid out, as for `img create`. */
  readonly options: CreateOptions;
  /** Store the backing file name relative to the copy's folder. */
  readonly relative: boolean;
  /** Fill an existing image of the right size, which is compared and brought in sync. */
  readonly reuse: boolean;
  /** Whether a copy that is a block device may hold something, which is lost. Default: no. */
  readonly overwrite?: boolean;
  /** Keep a persistent bitmap in the source, which marks what is written from now on. */
  readonly bitmap: boolean;
  /** Read both back at the end and compare them. */
  readonly verify: boolean;
}

export interface MirrorRequest {
  readonly kind: "mirror";
  /** Copied side by side. */
  readonly targets: readonly MirrorTarget[];
}

/** Forgets the mirrors of devices; their files stay. */
export interface MirrorCancelRequest {
  readonly kind: "mirror-cancel";
  readonly devices: readonly string[];
}

/** A new overlay as the device's active layer, and its twin in another place, where the chain is to move. */
export interface MigrateRequest {
  readonly kind: "migrate";
  readonly device: string;
  /** Absolute path of the twin. */
  readonly dest: string;
  readonly destFormat: string;
  /** Absolute path of the overlay. */
  readonly newSource: string;
  readonly sourceFormat: string;
  /** Store the overlay's backing file name relative to its folder. The twin's is in any case. */
  readonly relative: boolean;
  /** Whether targets that are block devices may hold something, which is lost. Default: no. */
  readonly overwrite?: boolean;
}

export interface FreezeRequest {
  readonly kind: "freeze";
  readonly devices: readonly string[];
  /** Refuse images that have no place for a fence. */
  readonly strict: boolean;
}

export interface UnfreezeRequest {
  readonly kind: "unfreeze";
  readonly devices: readonly string[];
  /** Lift a fence that the device table does not know of. */
  readonly force: boolean;
}

export interface ResizeRequest {
  readonly kind: "resize";
  readonly device: string;
  /** Of the disk; what is added to it where it is relative. */
  readonly sizeBytes: number;
  readonly isRelative: boolean;
  /** Whether it may become smaller. */
  readonly shrink: boolean;
  /** Whether data may be cut off. */
  readonly force: boolean;
  /** Of what a larger disk has more. */
  readonly preallocation?: Preallocation | undefined;
}

/** Layers of each device's chain, from one down to above another, into that other one. */
export interface MergeRequest {
  readonly kind: "merge";
  readonly devices: readonly string[];
  /** Absolute, and of one device, both. Undefined: the active layer; the image right below. */
  readonly from: string | undefined;
  readonly into: string | undefined;
  /** Whether the merged layers stay. */
  readonly keep: boolean;
  /** Whether overlays of others that stand on them get first what they would lose. Default: they are a reason to refuse. */
  readonly rebaseSiblings?: boolean;
  /** Whether the history may lack generations, whose images may stand on them. Default: no. */
  readonly force?: boolean;
  /** Whether the one layer that is merged, and stays, is emptied: alone in its transaction. Default: no. */
  readonly empties?: boolean;
}

/** What devices' active layers stand on, up to a base, comes up into them. */
export interface PullRequest {
  readonly kind: "pull";
  readonly devices: readonly string[];
  /** Absolute; an image of the chain that stays below. Undefined: none does. */
  readonly base: string | undefined;
}

/** A device's active layer gets another backing image. */
export interface RebaseRequest {
  readonly kind: "rebase";
  readonly device: string;
  /** Absolute. */
  readonly onto: string;
  /** Undefined: recognised by its magic; never guessed as raw. */
  readonly format: string | undefined;
  /** Change the name alone, whatever the device shows then. */
  readonly isUnsafe: boolean;
  /** Unsafe: the name to store where nothing is there yet. Undefined: that is refused. */
  readonly nameIfMissing?: string | undefined;
  /** Compress what is copied. */
  readonly isCompressed: boolean;
  /** Store the backing file name relative to the layer's folder. Undefined: as the present one is. */
  readonly isRelative: boolean | undefined;
}

export interface InternalSnapshotRequest {
  readonly kind: "internal-snapshot-create" | "internal-snapshot-apply" | "internal-snapshot-delete";
  readonly devices: readonly string[];
  /** The name of the new one; of one that is there its name, or its id. */
  readonly snapshot: string;
  /** Make a new one though another has its name. */
  readonly mayRepeat?: boolean;
}

/** Where a bitmap is whose marks another one gets: in an image file, a device's active layer, or the same image. */
export interface BitmapSource {
  readonly bitmap: string;
  /** Absolute. */
  readonly file?: string | undefined;
  /** Of the file; undefined: recognised by its magic. */
  readonly format?: string | undefined;
  readonly device?: string | undefined;
}

export interface BitmapRequest {
  readonly kind:
    | "bitmap-add"
    | "bitmap-remove"
    | "bitmap-clear"
    | "bitmap-enable"
    | "bitmap-disable"
    | "bitmap-merge";
  readonly devices: readonly string[];
  readonly bitmap: string;
  /** Of a new one; undefined: what QEMU takes. */
  readonly granularityBytes?: number | undefined;
  /** Whether a new one marks nothing until it is enabled. */
  readonly isDisabled: boolean;
  /** For merging, at least one. */
  readonly sources: readonly BitmapSource[];
}

export interface AmendRequest {
  readonly kind: "amend";
  readonly devices: readonly string[];
  readonly amendment: Amendment;
  readonly sizeBytes?: number | undefined;
  /** What it has to have already. */
  readonly backingFileName?: string | undefined;
  readonly backingFormat?: string | undefined;
}

export interface RepairRequest {
  readonly kind: "repair";
  readonly devices: readonly string[];
  readonly scope: RepairScope;
  /** Absolute; for one device: a new file that takes the repair back after its commit. */
  readonly keepUndo?: string | undefined;
}

/** Takes a repair back. */
export interface RepairUndoRequest {
  readonly kind: "repair-undo";
  readonly device: string;
  /** Absolute: what keepUndo made. */
  readonly file: string;
}

/** Always refuses, in prepare, after the actions before it were prepared. Tests of rollback need it. */
export interface RefuseRequest {
  readonly kind: "refuse";
  readonly device: string | undefined;
}

export type ActionRequest =
  | SnapshotRequest
  | ReopenRequest
  | DeviceAddRequest
  | DeviceRemoveRequest
  | DeviceRenameRequest
  | DeviceProvisionRequest
  | DeviceTrustRequest
  | RelocateRequest
  | RollbackRequest
  | SnapshotDeleteRequest
  | UndoRequest
  | MirrorRequest
  | MirrorCancelRequest
  | MigrateRequest
  | FreezeRequest
  | UnfreezeRequest
  | ResizeRequest
  | MergeRequest
  | PullRequest
  | RebaseRequest
  | InternalSnapshotRequest
  | BitmapRequest
  | AmendRequest
  | RepairRequest
  | RepairUndoRequest
  | RefuseRequest;

export type ActionKind = ActionRequest["kind"];

/** A file that an action makes or changes, as `--dry-run` and `txn status` show it. */
export interface PlannedFile {
  readonly path: string;
  readonly change: "create" | "reuse" | "fence" | "unfence" | "change" | "merge" | "remove";
}

/** One action on one device, as results print it. A snapshot-group of three disks gives three of these. */
export interface ActionReport {
  readonly kind: ActionKind;
  readonly device: string | null;
  /** The active layer before and after; null where the device was or is not in the table. */
  readonly before: string | null;
  readonly after: string | null;
  readonly format: ImageFormat | null;
  readonly files: readonly PlannedFile[];
  /** Things an operator should know, one sentence each. */
  readonly notes: readonly string[];
  /** Snapshots that keep no state of the device any more; without a number: one of the same transaction. */
  readonly snapshotsGivenUp: readonly { readonly number: number | null; readonly name: string | null }[];
  /** Layers that come to one at the commit: the file that has them then, and the guest bytes that are copied, at most. */
  readonly layersMerged: readonly {
    readonly into: string;
    readonly direction: "up" | "down";
    readonly lengthBytes: number;
  }[];
  /** Guest bytes that this command has copied; null: none, and not copied to begin with. */
  readonly copiedBytes: number | null;
  /** How much of a mirror, at most, was not what it should have been, though nothing shows a change; null: nothing. */
  readonly rottedBytes: number | null;
}

/** `--txn-id`: an id, and the SHA-256 of what is asked for by it, in hex. */
export interface Once {
  readonly id: string;
  readonly digest: string;
}

/** A file that undo left as it is, and why, as a clause. */
export interface KeptFile {
  readonly path: string;
  readonly why: string;
}

/** What recovery found and did for one journal, or for a lagging view. */
export interface RecoveryNote {
  readonly transaction: string | null;
  readonly did:
    | "finished"
    | "undone"
    | "aborted"
    | "retired"
    | "view"
    | "kept"
    | "mended"
    | "noted"
    | "reported"
    | "waiting";
  /** One line for stderr, without a line break. */
  readonly text: string;
  /** Of `waiting` alone. */
  readonly obstacle?: Obstacle;
  /** What it says of others' writes, which whoever ends it does not find again: a line each, in the text as well. */
  readonly found?: readonly string[];
}

/** What keeps recovery from ending a transaction. Its journal stays, and holds its devices. */
export interface Obstacle {
  /** Null: the journal is damaged, and does not tell them. Then no device can be changed. */
  readonly devices: readonly string[] | null;
  /** Committed, and to be finished; else to be taken back. */
  readonly isCommitted: boolean;
  readonly code: ErrorCode;
  /** The file that it is about. */
  readonly place: { readonly image?: string; readonly offset?: number };
  /** A clause: `m.raw is in use by pid 12 (qemu-nbd)`. */
  readonly why: string;
  /** The command that ends it, and what to do before. */
  readonly hint: string;
}

export interface LockWait {
  /** How long to wait for locks; 0 fails at once, Infinity waits for good. */
  readonly waitMs: number;
  /** Called once when a wait begins, with what it waits for. */
  readonly onWait: (what: string) => void;
  /** Told of each file that an undo left as it is. */
  readonly onKept?: ((file: KeptFile) => void) | undefined;
  /** Aborted by the first Ctrl-C: a wait ends, and what was prepared is undone. Not looked at after the commit mark. */
  readonly signal?: AbortSignal | undefined;
}

/** Told how far a part of the work is, which is named: comparing a device with its mirror, copying it, … */
export type OnProgress = (part: string, doneBytes: number, totalBytes: number) => void;

export interface RunOptions extends LockWait {
  /**
   * The transaction to join (`--txn`, IMGTX_TXN). Undefined: that which was begun where the command comes from, else
   * one of its own; `none`: one of its own.
   */
  readonly transaction: string | undefined;
  /** Never join an open transaction: device add and remove, where nobody named one. */
  readonly standalone: boolean;
  readonly dryRun: boolean;
  readonly onProgress?: OnProgress | undefined;
  /** Told which of several requests is worked on, counted from 0; undefined: none, what follows is about all. */
  readonly onRequest?: ((index: number | undefined) => void) | undefined;
  /** Told what an operator has to know of what others did meanwhile, a line each. */
  readonly onNotice?: ((line: string) => void) | undefined;
  /** Told of what this command finished first, because its devices were held. */
  readonly onRecovered?: ((note: RecoveryNote) => void) | undefined;
  /** Called with the bytes that copies are about to write; resolves when they may. Undefined: at once. */
  readonly throttle?: ((lengthBytes: number) => Promise<void>) | undefined;
  /** How often a long copy keeps how far it has come, in milliseconds. Default: 5000. */
  readonly markEveryMs?: number | undefined;
  /** The id that the requests are given, so that they are applied once. Undefined: none. */
  readonly requestId?: string | undefined;
  /** Folders trusted for raw backing images and data files, for this command. */
  readonly allowPaths: readonly string[];
  /** Whether what the command names may be a block device. Default: only where the workspace has one already. */
  readonly allowsDevices?: boolean;
}

/** One command's look at one workspace, after recovery. */
export interface Session {
  readonly workspace: Workspace;
  /** Canonical path of the workspace. */
  readonly root: string;
  /** What relative names of external data files are relative to, as for QEMU. */
  readonly currentFolder: string;
  /** What recovery found and did before this command. */
  readonly recovered: readonly RecoveryNote[];
}

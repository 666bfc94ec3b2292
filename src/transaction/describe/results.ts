// What a caller is told of devices, transactions and generations: plain data, which the command line draws.

import type { MirrorSync } from "../../device/index.ts";
import type { DeviceMove } from "../../device/index.ts";
import type { ImageFormat } from "../../format/index.ts";
import type { ActionReport, KeptFile } from "../requests/request.ts";

export interface ChainElement {
  readonly image: string;
  readonly format: ImageFormat;
  /** What it takes on the disk, with its data file. Left out: nobody looked. */
  readonly allocatedBytes?: number;
  /** Of the disk that it shows. Left out: nobody looked. */
  readonly virtualSizeBytes?: number;
}

/** A program that has an image of a device's chain open, or its mirror. */
export interface HolderDescription {
  readonly image: string;
  /** 0: the kernel itself, or a process that is hidden. */
  readonly pid: number;
  readonly program: string;
  readonly role: "writer" | "reader" | "unknown";
}

export interface MirrorStanding {
  /** How much of the device it does not have, at most; null: only comparing both tells. */
  readonly behindBytes: number | null;
  /** Why it can't be opened, as a sentence; null: it can. */
  readonly problem: string | null;
  readonly isMissing: boolean;
}

/** A device as `device list` and `device show` give it (DEVICE in the contract). */
export interface DeviceDescription {
  readonly name: string;
  readonly image: string;
  readonly format: ImageFormat;
  /** Null where the chain can't be opened; then problem says why. */
  readonly virtualSizeBytes: number | null;
  /** Active layer first. */
  readonly chain: readonly ChainElement[];
  readonly frozen: boolean;
  /** Null where it is not frozen. */
  readonly frozenSince: string | null;
  readonly frozenBy: string | null;
  /** Images of its chain that have a fence, whoever set it. */
  readonly fences: readonly string[];
  readonly mirror: {
    readonly image: string;
    readonly format: ImageFormat;
    readonly sync: MirrorSync;
    /** When it was last brought in sync, ISO 8601, UTC; null: not yet, or that is not known. */
    readonly syncedAt: string | null;
    /** How it stands to the device. Undefined: nobody looked. */
    readonly standing?: MirrorStanding;
  } | null;
  /** A mirror whose making was cut off, and how far it had come. Undefined: nobody looked. */
  readonly unfinishedCopy?: { readonly image: string; readonly copiedBytes: number } | null;
  /** The snapshots that keep a state of it, newest first. Left out: nobody looked. */
  readonly snapshots?: readonly Pick<SnapshotDescription, "number" | "name" | "created">[];
  /** The command that makes and removes its volumes. Left out: none. */
  readonly provision?: readonly string[];
  /** Who has its images open. Left out: nobody looked. */
  readonly holders?: readonly HolderDescription[];
  /** The path by which other programs open it; null where the view has to leave it out. */
  readonly view: string | null;
  /** Id of the open transaction that holds it. */
  readonly transaction: string | null;
  /** Why its chain can't be opened; null: it can. */
  readonly problem: string | null;
  readonly state: DeviceState;
  /** All that is not as it should be, a sentence each, with what ends it. */
  readonly problems: readonly string[];
}

/**
 * waiting: a transaction holds it that recovery can't end; missing: an image of its chain is not there; broken: its
 * chain can't be opened; fenced: it has a fence that no freeze of it knows; changed: somebody has lifted its fence;
 * mirror-missing, mirror-broken: it is sound, and its mirror is not.
 */
export type DeviceState =
  | "ok"
  | "waiting"
  | "missing"
  | "broken"
  | "fenced"
  | "changed"
  | "mirror-missing"
  | "mirror-broken";

/** What a command that changes something did. */
export interface Outcome {
  /** Whether the device table moved, or (inside an open transaction) the transaction did. */
  readonly changed: boolean;
  readonly dryRun: boolean;
  /** Null for a dry run that joined no transaction. */
  readonly transaction: string | null;
  /** Of the open transaction that the command joined; null for one of its own, and for one that it ended. */
  readonly joined: { readonly name: string | null; readonly started: string } | null;
  /** Whether the actions await a `txn commit`. */
  readonly pending: boolean;
  /** The present generation, after this command. */
  readonly generation: number;
  /** The snapshots that the command took; none while they await a commit. */
  readonly snapshots: readonly { readonly number: number; readonly name: string | null }[];
  readonly actions: readonly ActionReport[];
  /** The devices that the actions touched, as they would be or are afterwards. */
  readonly devices: readonly DeviceDescription[];
  /** What was to be taken back, and was not: it is not, or not any more, what imgtx made. */
  readonly kept: readonly KeptFile[];
  /** When an earlier command did all of it, by the same id: then this one did nothing. ISO 8601, UTC. */
  readonly applied?: string;
}

/** `hidden`: another user's, and not for the caller to read. */
export type TransactionStanding = "open" | "committed" | "aborted" | "damaged" | "hidden";

export interface TransactionDescription {
  readonly id: string;
  readonly name: string | null;
  readonly state: TransactionStanding;
  /** ISO 8601, UTC; null where its journal can't be read. */
  readonly started: string | null;
  /** As whom it was begun, and in brackets who had logged in, where that is somebody else; null as above. */
  readonly user: string | null;
  /** Whether it was begun where this command comes from: then commands of here join it unasked. Null: not known. */
  readonly here: boolean | null;
  /** That of a `txn exec`, which commands join by naming it alone. */
  readonly owned: boolean;
  readonly onError: "abort" | "keep";
  readonly devices: readonly string[];
  readonly actions: readonly ActionReport[];
  readonly savepoints: readonly string[];
  /** Whether a live process works on it at this moment. */
  readonly busy: boolean;
  /** What keeps recovery from ending it, and what to do about that; null: nothing does. */
  readonly problem: string | null;
}

/** What a snapshot keeps of one device. */
export interface SealedDescription {
  readonly device: string;
  /** The sealed image. */
  readonly image: string;
  readonly format: ImageFormat;
  /** Null where it is not there. */
  readonly allocatedSizeBytes: number | null;
  /** How many images it is made of; null where that is not known. */
  readonly depth: number | null;
  /** Whether it, and all that it stands on, is what it was. */
  readonly intact: boolean;
  /** Why it is not, a sentence each. */
  readonly problems: readonly string[];
}

export interface BesideDescription {
  readonly name: string;
  readonly sizeBytes: number;
  /** In hex, as sha256sum prints it. */
  readonly sha256: string;
  /** Why it can't be given back; null: it can, as far as its size tells. */
  readonly problem: string | null;
}

export interface SnapshotDescription {
  readonly number: number;
  readonly name: string | null;
  readonly message: string | null;
  /** ISO 8601, UTC. Null where its record can't be read. */
  readonly created: string | null;
  readonly devices: readonly SealedDescription[];
  /** Small files of the machine that it keeps beside. */
  readonly files: readonly BesideDescription[];
  /** Why its record can't be read; null: it can. */
  readonly problem: string | null;
}

/** The generations, newest first, and the number of the present one. */
export interface HistoryDescription {
  readonly generation: number;
  readonly generations: readonly GenerationDescription[];
}

/** One of them, with the commit that made it. */
export interface GenerationDescription {
  readonly generation: number;
  /** ISO 8601, UTC. Null where nothing tells any more. */
  readonly committed: string | null;
  readonly transaction: string | null;
  /** The transaction's, if it was given one. */
  readonly name: string | null;
  /** What made it: `snapshot vda vdb`. */
  readonly summary: string;
  /** The same as data. None where an imgtx before this one made it. */
  readonly actions: readonly {
    readonly kind: string;
    readonly devices: readonly string[];
    /** The snapshot that a rollback went to. */
    readonly snapshot: { readonly number: number; readonly name: string | null } | null;
    /** The generation that an undo or a redo went to. */
    readonly generation: number | null;
    /** Snapshots that it deleted, or gave up, of some of the devices or of all that they kept. */
    readonly givenUp: readonly { readonly number: number; readonly name: string | null }[];
  }[];
  /** The devices that it moved to other images, or whose mirrors are others since. */
  readonly devices: readonly DeviceMove[];
  readonly present: boolean;
  /** Whether undo goes to it: at once, or after as many as stand before it. */
  readonly undo: boolean;
  readonly redo: boolean;
  /** Whether an undo goes to it that is forced past a generation that the history lacks, at once or after others. */
  readonly undoForced: boolean;
  /** Why it can't be read, and can't be gone back to. */
  readonly problem: string | null;
}

// The records of a journal. What a sequence of them means is in fold.ts.
//
// A transaction is a list of statements; each is planned, prepared, done, and perhaps undone:
//
//   begin  (provision*  plan  prepared  done)*  savepoint*  (undo undone)*  renewing*  fencing*  (commit (copied | staged | applied)*) | abort
//
// Invariants
// - `plan` is durable before the statement makes its first file.
// - `provision` is durable before the command is called that makes volumes for the next statement.
// - `prepared` names each new file by inode and birth time, and is durable before the file gets its final
//   name. So whatever stands at that name is known to be ours or not, and undoing never removes a
//   stranger's file.
// - `plan` names each redo log before it is made; `prepared` says where it ends, and is appended when it is durable.
// - `fencing` has the bytes of each fence, and is durable before the first is raised. What has no such record has
//   nothing to take back in images that were there before.
// - `renewing` stands before the `undo` that it is about: who dies in between leaves what no commit takes for whole.
// - `undo` and `abort` are durable before the first file goes. `commit` is the commit point: before it
//   everything can be undone, after it the only way is forward.
// - `staged` is appended when a redo log that is made after the mark is durable: the copy that it waited for is done.
// - `applied` is appended when the image is durably what its redo log makes of it, and before a guest may open it.

import { posix } from "node:path";
import type {
  DeviceEntry,
  FenceEntry,
  FileMark,
  GivenUp,
  Renaming,
  Worker,
  Workspace,
} from "../../device/index.ts";
import {
  type DeviceReads,
  type Fingerprint,
  isRedoLogName,
  redoLogName,
  type Preallocated,
  type SealedLog,
  type StagingOptions,
} from "../../format/index.ts";
import type { Origin } from "../../storage/index.ts";
import type { Note } from "../notes/notes.ts";
import type { CopyStep, LateStep } from "./copy-steps.ts";
import type { PlannedSnapshot, PlannedStanding } from "./planned-snapshot.ts";
import type { PlannedVolume, ProvisionRecord } from "./planned-volume.ts";
import type { ActionKind, ActionReport, Once } from "../requests/request.ts";

export const JOURNAL_VERSION = 6;

export interface BeginRecord {
  readonly type: "begin";
  readonly version: number;
  readonly id: string;
  readonly name: string | null;
  readonly onError: "abort" | "keep";
  /** The transaction of a single command: without a commit mark it never was. */
  readonly implicit: boolean;
  /** A `txn exec`: aborted when the process that runs it has gone. */
  readonly owned: boolean;
  /** The process that runs the `txn exec`. Null for all others, and not known of version 1. */
  readonly owner: Worker | null;
  /**
   * The process that wrote this file, which all do that add a record; null where it is not known, as of one that is
   * not written yet.
   */
  readonly worker: Worker | null;
  /** The file that the journal was written to; null where it is not known, as of one that is not written yet. */
  readonly mark: FileMark | null;
  /**
   * How many records the file had when it got its name: those were durable by then. Null where it is not known, as of one
   * that is not written yet.
   */
  readonly whole: number | null;
  /** ISO 8601, UTC. For messages, like pid, user and boot: nothing is decided by them. */
  readonly started: string;
  readonly pid: number;
  readonly user: string;
  readonly boot: string;
  /** Who joins without naming it: commands that come from there. Null: none, and not known of version 1. */
  readonly origin: Origin | null;
}

/** The first record of a new transaction. */
export function beginRecordOf(
  { storage }: Workspace,
  choice: Pick<BeginRecord, "id" | "name" | "onError" | "implicit" | "owned" | "owner">,
): BeginRecord {
  const { host } = storage;
  return {
    type: "begin",
    version: JOURNAL_VERSION,
    ...choice,
    worker: null,
    mark: null,
    whole: null,
    started: new Date(host.now()).toISOString(),
    pid: host.pid,
    user: host.userName,
    boot: host.bootId,
    origin: choice.implicit ? null : host.origin,
  };
}

/** A file that a statement makes: under the staging name first, then moved to path. What the commit uses up stays there. */
export interface NewFile {
  readonly path: string;
  readonly staging: string;
}

/** An image that must be at commit what it was when the statement was planned. */
export interface WatchedImage {
  readonly device: string | null;
  readonly image: string;
  readonly fingerprint: Fingerprint;
}

export interface TableChange {
  readonly device: string;
  /** Null: the device leaves the table. The fingerprints of new files are filled in from `prepared`. */
  readonly after: DeviceEntry | null;
}

/** Bytes of an image without a fence and with it. Base64; both are equally long. */
export interface StoredFence {
  readonly offset: number;
  readonly before: string;
  readonly after: string;
}

/** A fence of an image, from just before the commit mark on: see leaving-fences.ts. */
export interface CommitFence {
  readonly image: string;
  /** Written before the mark. Null: the image has had a fence since before. */
  readonly raised: StoredFence | null;
  /**
   * The time of modification that goes with the bytes before, in nanoseconds since 1970. Null: that of the writes.
   */
  readonly modifiedNs: string | null;
  /** The one that stays. Null: none does; it is lifted with the image's redo log, or when the table has moved. */
  readonly kept: (StoredFence & Pick<FenceEntry, "unfencedSha256">) | null;
  /** The one that is up between the image's redo log and the end of the copy into it. Left out: there are not both. */
  readonly between?: StoredFence;
}

/** An image that the statement changes in place, and the redo log that the change goes into: see redo.ts. */
export interface StagedImagePlan {
  readonly image: string;
  readonly log: string;
  /** Whether it is applied when all is copied, and not before. Left out: no. */
  readonly isLast?: boolean;
}

/** A redo log as far as a statement wrote it, durably: a place in it, and what applying it takes. */
export interface PreparedRedo extends Omit<SealedLog, "log">, StagedImagePlan {
  readonly guardedBy: StagingOptions["guardedBy"];
  /** Whether the image had a fence when the log was begun. */
  readonly isFenced: boolean;
  /** The time of modification that goes with what the log leaves. Null: that of the writes. */
  readonly modifiedNs: string | null;
  /** Whether applying it may lose what was written to the image since the mark. Left out: no. */
  readonly discards?: boolean;
  /** What of the file gets its blocks before the log is applied. Left out: nothing. */
  readonly preallocated?: readonly Preallocated[];
}

/** What results say of an action, once its notes are words. */
export interface PlannedReport
  extends Omit<ActionReport, "notes" | "copiedBytes" | "rottedBytes" | "snapshotsGivenUp" | "layersMerged"> {
  readonly notes: readonly Note[];
}

export interface PlanRecord {
  readonly type: "plan";
  readonly statement: number;
  readonly kind: ActionKind;
  readonly devices: readonly string[];
  readonly reports: readonly PlannedReport[];
  readonly newFiles: readonly NewFile[];
  readonly changes: readonly TableChange[];
  readonly allowPaths: readonly string[];
  readonly watched: readonly WatchedImage[];
  /** Whether the commit may do it anew, where its source has changed by then. */
  readonly renewable: boolean;
  /** Watched images that earlier statements copied, and that count as this statement found them. */
  readonly renews: readonly string[];
  readonly redo: readonly StagedImagePlan[];
  readonly copies: readonly CopyStep[];
  readonly late: readonly LateStep[];
  /** Files that go when the table has moved, where they are still what the plan read and nobody needs them. */
  readonly removes: readonly string[];
  /** What it keeps of the devices that it moves on. Left out: nothing. */
  readonly snapshot?: PlannedSnapshot | undefined;
  /** What its devices give up of snapshots that keep them. Left out: nothing. */
  readonly givesUp?: readonly GivenUp[] | undefined;
  /** Devices that get other names, in order. Left out: none. */
  readonly renames?: readonly Renaming[] | undefined;
  /** Where an undo or a redo goes to. Left out: it goes on. */
  readonly standing?: PlannedStanding | undefined;
  /** Where its command was: relative names of data files are looked for there. Left out: not known. */
  readonly currentFolder?: string | undefined;
  /** The folders of its new files and of images that it changes: how it is told that their disk is there. */
  readonly folders: readonly PlannedFolder[];
}

export interface PlannedFolder {
  readonly path: string;
  readonly mark: FileMark;
}

/** What a file looks like. */
export interface NamedFile {
  readonly path: string;
  readonly fingerprint: Fingerprint;
}

/** A new file; of an imgtx before this one, also an image that the statement has fenced. */
export interface PreparedFile extends NamedFile {
  /** Of the whole content; null where it is large, or not known. */
  readonly contentSha256: string | null;
}

export interface PreparedRecord {
  readonly type: "prepared";
  readonly statement: number;
  readonly files: readonly PreparedFile[];
  readonly redo: readonly PreparedRedo[];
  /** What the statement read of block devices, and the commit rests on. Left out: nothing, or it holds them until then. */
  readonly reads?: readonly DeviceReads[];
}

/** Where a copy has come to when all of it is there, durably. */
export const ALL_COPIED = Number.MAX_SAFE_INTEGER;

/**
 * How far copies have come: guest data below the offset is in the file of that path, durably. Before the commit mark a new
 * image of the last statement, after it one that a statement copies into.
 */
export interface CopiedRecord {
  readonly type: "copied";
  readonly statement: number;
  readonly path: string;
  readonly offset: number;
}

/** Its process died during a long copy: the files are kept, and the devices are free. */
export interface ParkedRecord {
  readonly type: "parked";
  readonly statement: number;
}

/** The copy goes on. */
export interface ResumedRecord {
  readonly type: "resumed";
  readonly statement: number;
}

export interface DoneRecord {
  readonly type: "done";
  readonly statement: number;
  /** What new images look like with their names, which has moved their change times. */
  readonly named?: readonly NamedFile[];
}

interface SavepointRecord {
  readonly type: "savepoint";
  readonly name: string;
}

interface UndoRecord {
  readonly type: "undo";
  /** Every statement from this number on. */
  readonly from: number;
}

/** A commit takes back what comes from this statement on, to do it once more. null: nothing is missing of it any more. */
interface RenewingRecord {
  readonly type: "renewing";
  readonly from: number | null;
}

interface UndoneRecord {
  readonly type: "undone";
  readonly from: number;
}

/** The commit is about to raise these fences. None: they are lifted, since it came to nothing. */
export interface FencingRecord {
  readonly type: "fencing";
  readonly fences: readonly CommitFence[];
}

export interface CommitRecord {
  readonly type: "commit";
  /**
   * The generation that the table was at. The one that this commit makes is any after it: its number is given when
   * the table moves, and it is told by the transaction's id.
   */
  readonly madeOn: number;
  readonly committed: string;
  readonly summary: string;
  /** The id that it was given, so that it is applied once, and the digest of what was asked for. Absent: none. */
  readonly once?: Once | undefined;
  /** Images read amid a moment in which a write would not show, and found as they were read after it. Absent: none. */
  readonly settled?: readonly string[] | undefined;
}

/**
 * After the mark: the image is durably what its redo log makes of it, and is not looked at any more for that: it has no
 * place for a fence, or is copied into then.
 */
export interface AppliedRecord {
  readonly type: "applied";
  readonly image: string;
}

/** After the mark: the redo log that comes when all is copied into its image is made, durably. */
export interface StagedRecord {
  readonly type: "staged";
  readonly statement: number;
  readonly redo: PreparedRedo;
}

interface AbortRecord {
  readonly type: "abort";
}

export type JournalRecord =
  | BeginRecord
  | ProvisionRecord
  | PlanRecord
  | CopiedRecord
  | ParkedRecord
  | ResumedRecord
  | PreparedRecord
  | DoneRecord
  | SavepointRecord
  | UndoRecord
  | RenewingRecord
  | UndoneRecord
  | FencingRecord
  | CommitRecord
  | StagedRecord
  | AppliedRecord
  | AbortRecord;

export interface Statement {
  readonly plan: PlanRecord;
  /** How far each new file has come, by its path. */
  readonly marks: ReadonlyMap<string, number>;
  readonly parked: boolean;
  readonly prepared: PreparedRecord | undefined;
  readonly done: boolean;
  /** Undone and its files gone: it counts no more. */
  readonly undone: boolean;
  /** An undo has begun. */
  readonly undoing: boolean;
}

export interface TransactionState {
  readonly begin: BeginRecord;
  readonly statements: readonly Statement[];
  /** Made, or about to be, for a statement that is not undone. */
  readonly volumes: readonly (PlannedVolume & { readonly statement: number })[];
  readonly savepoints: readonly { readonly name: string; readonly nextStatement: number }[];
  /** From this statement on a commit took back what it has not done once more yet. */
  readonly shortFrom: number | null;
  /** Of the commit, which may be up. */
  readonly fences: readonly CommitFence[];
  readonly commit: CommitRecord | undefined;
  /** Redo logs that were made after the mark. */
  readonly staged: readonly PreparedRedo[];
  /** Images without a fence that are changed, durably: what they hold from then on is their guests'. */
  readonly applied: ReadonlySet<string>;
  readonly aborting: boolean;
}

/** Stands for the fingerprint of a file that is not made yet. */
export const NOT_MADE_YET: Fingerprint = {
  sizeBytes: 0,
  modifiedNs: "0",
  inode: "0",
  bornNs: "0",
  headerSha256: null,
};

/** Where a statement's new file is made before it gets its final name: beside it. */
export function stagingPath(path: string, id: string, statement: number, index: number): string {
  return posix.join(posix.dirname(path), `.imgtx-${id}-${statement}-${index}`);
}

/** The nth redo log of a transaction, beside the image that it changes; that of a block device beside the journal. */
export function redoLogPath(folder: string, id: string, number: number): string {
  return posix.join(folder, redoLogName(id, number));
}

/** journal: the path of the transaction's. */
export function isRedoLogOf(id: string, journal: string, { image, log }: StagedImagePlan): boolean {
  const folders = [image, journal].map((path) => posix.dirname(path));
  return folders.includes(posix.dirname(log)) && isRedoLogName(id, posix.basename(log));
}

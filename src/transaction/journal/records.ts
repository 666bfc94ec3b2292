// The records of a journal, and what a sequence of them means.
//
// A transaction is a list of statements; each is planned, prepared, done, and perhaps undone:
//
//   begin  (plan  prepared  done)*  savepoint*  (undo undone)*  commit | abort
//
// Invariants
// - `plan` is durable before the statement makes its first file.
// - `prepared` names each new file by inode and birth time, and is durable before the file gets its final
//   name. So whatever stands at that name is known to be ours or not, and undoing never removes a
//   stranger's file.
// - A `prepare` patch is written behind `plan`, which has the bytes before it; `prepared` names the file with
//   its new fingerprint.
// - `undo` and `abort` are durable before the first file goes. `commit` is the commit point: before it
//   everything can be undone, behind it the only way is forward.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import { type DeviceEntry, withFingerprints, type Workspace } from "../../device/index.ts";
import type { Fingerprint, ImageFormat } from "../../format/index.ts";
import type { ActionKind, ActionReport } from "../request.ts";

export const JOURNAL_VERSION = 1;

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
  /** ISO 8601, UTC. For messages, like pid, user and boot: nothing is decided by them. */
  readonly started: string;
  readonly pid: number;
  readonly user: string;
  readonly boot: string;
}

/** The first record of a new transaction. */
export function beginRecordOf(
  { storage }: Workspace,
  choice: Pick<BeginRecord, "id" | "name" | "onError" | "implicit" | "owned">,
): BeginRecord {
  const { host } = storage;
  return {
    type: "begin",
    version: JOURNAL_VERSION,
    ...choice,
    started: new Date(host.now()).toISOString(),
    pid: host.pid,
    user: host.userName,
    boot: host.bootId,
  };
}

/** A file that a statement makes: under the staging name first, then moved to path, or merged into what is there. */
export interface NewFile {
  readonly path: string;
  readonly staging: string;
  /** Null: a new image. Else an overlay, and the format of the image at path that the commit merges it into. */
  readonly mergesAs: ImageFormat | null;
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

/** Bytes of an existing image that the statement changes in place: see patches.ts. */
export interface ImagePatch {
  readonly image: string;
  readonly offset: number;
  /** Base64. Before is shorter than after only where that reaches behind the end of the file. */
  readonly before: string;
  readonly after: string;
  /**
   * The time of modification, in nanoseconds since 1970, that goes with the bytes which stay: for `prepare` the
   * one before, for `commit` the one afterwards. Null: whatever the write leaves.
   */
  readonly modifiedNs: string | null;
  /** Before the commit mark, and taken back by undo, or behind it. */
  readonly when: "prepare" | "commit";
}

export interface PlanRecord {
  readonly type: "plan";
  readonly statement: number;
  readonly kind: ActionKind;
  readonly devices: readonly string[];
  readonly reports: readonly ActionReport[];
  readonly newFiles: readonly NewFile[];
  readonly changes: readonly TableChange[];
  readonly allowPaths: readonly string[];
  readonly watched: readonly WatchedImage[];
  /** Whether the commit may do it anew, where its source has changed by then. */
  readonly renewable: boolean;
  /** Watched images that earlier statements copied, and that count as this statement found them. */
  readonly renews: readonly string[];
  readonly patches: readonly ImagePatch[];
}

/** A new file, or one that a `prepare` patch has changed. */
export interface PreparedFile {
  readonly path: string;
  readonly fingerprint: Fingerprint;
}

interface PreparedRecord {
  readonly type: "prepared";
  readonly statement: number;
  readonly files: readonly PreparedFile[];
}

/** How far copies have come: guest data below the offset is in the file of that path, durably. */
interface CopiedRecord {
  readonly type: "copied";
  readonly statement: number;
  readonly path: string;
  readonly offset: number;
}

/** Its process died amid a long copy: the files are kept, the devices are free. */
interface ParkedRecord {
  readonly type: "parked";
  readonly statement: number;
}

/** The copy goes on. */
interface ResumedRecord {
  readonly type: "resumed";
  readonly statement: number;
}

interface DoneRecord {
  readonly type: "done";
  readonly statement: number;
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

interface UndoneRecord {
  readonly type: "undone";
  readonly from: number;
}

export interface CommitRecord {
  readonly type: "commit";
  /** The generation that this commit makes. */
  readonly generation: number;
  readonly committed: string;
  readonly summary: string;
}

interface AbortRecord {
  readonly type: "abort";
}

export type JournalRecord =
  | BeginRecord
  | PlanRecord
  | CopiedRecord
  | ParkedRecord
  | ResumedRecord
  | PreparedRecord
  | DoneRecord
  | SavepointRecord
  | UndoRecord
  | UndoneRecord
  | CommitRecord
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
  readonly savepoints: readonly { readonly name: string; readonly nextStatement: number }[];
  readonly commit: CommitRecord | undefined;
  readonly aborting: boolean;
}

/** Where a statement's new file is made before it gets its final name: beside it. */
export function stagingPath(path: string, id: string, statement: number, index: number): string {
  return posix.join(posix.dirname(path), `.imgtx-${id}-${statement}-${index}`);
}

/** What a journal's records add up to. E_JOURNAL where they stand in an order that imgtx never writes. */
export function foldRecords(records: readonly JournalRecord[], file: string): TransactionState | undefined {
  const [begin, ...rest] = records;
  if (!begin) return undefined;
  if (begin.type !== "begin") throw outOfOrder(file, begin.type);
  let state: TransactionState = { begin, statements: [], savepoints: [], commit: undefined, aborting: false };
  for (const record of rest) state = applyRecord(state, record, file);
  return state;
}

/** The state behind one more record. */
export function applyRecord(state: TransactionState, record: JournalRecord, file: string): TransactionState {
  if (state.commit || state.aborting) throw outOfOrder(file, record.type);
  switch (record.type) {
    case "begin":
      throw outOfOrder(file, record.type);
    case "plan": {
      if (record.statement !== state.statements.length) throw outOfOrder(file, record.type);
      assertStagingNames(state.begin.id, record, file);
      assertPatches(record, file);
      const fresh: Statement = {
        plan: record,
        marks: new Map(),
        parked: false,
        prepared: undefined,
        done: false,
        undone: false,
        undoing: false,
      };
      return { ...state, statements: [...state.statements, fresh] };
    }
    case "copied": {
      const marks = new Map(state.statements.at(-1)?.marks).set(record.path, record.offset);
      return changeStatement(state, record, file, { marks });
    }
    case "parked":
      return changeStatement(state, record, file, { parked: true });
    case "resumed":
      return changeStatement(state, record, file, { parked: false });
    case "prepared":
      return changeStatement(state, record, file, { prepared: record });
    case "done":
      return changeStatement(state, record, file, { done: true });
    case "savepoint":
      return {
        ...state,
        savepoints: [...state.savepoints, { name: record.name, nextStatement: state.statements.length }],
      };
    case "undo":
      return changeFrom(state, record.from, { undoing: true });
    case "undone":
      return changeFrom(state, record.from, { undoing: true, undone: true });
    case "commit":
      return { ...state, commit: record };
    case "abort":
      return { ...state, aborting: true };
  }
}

/** The statements that count: neither undone nor on the way there. */
export function liveStatements(state: TransactionState): readonly Statement[] {
  return state.statements.filter((statement) => !statement.undoing);
}

/** An image as the transaction knows it last: as it was read, or as it made or patched it. */
export interface SeenImage extends WatchedImage {
  readonly isNew: boolean;
}

export function lastSeen(state: TransactionState): ReadonlyMap<string, SeenImage> {
  const seen = new Map<string, SeenImage>();
  for (const { plan, prepared } of liveStatements(state)) {
    for (const watched of plan.watched) {
      const isFirst = !seen.has(watched.image);
      if (isFirst || plan.renews.includes(watched.image)) {
        seen.set(watched.image, { ...watched, isNew: false });
      }
    }
    const deviceOf = new Map(plan.changes.map(({ device, after }) => [after?.image, device]));
    for (const { path, fingerprint } of prepared?.files ?? []) {
      const device = seen.get(path)?.device ?? deviceOf.get(path) ?? null;
      const isNew = plan.newFiles.some((file) => file.path === path);
      seen.set(path, { device, image: path, fingerprint, isNew });
    }
  }
  return seen;
}

/** Whether a copy was cut off that can be gone on with: its files are kept until then, and hold no device. */
export function isParked(state: TransactionState): boolean {
  return !state.aborting && state.statements.at(-1)?.parked === true;
}

/** Devices that the transaction holds. */
export function heldDevices(state: TransactionState): string[] {
  const held = state.statements.filter(({ undone, parked }) => !undone && !parked);
  return [...new Set(held.flatMap((statement) => statement.plan.devices))].sort();
}

/** The table changes of the live statements in order, with the fingerprints of the files they made. */
export function changesOf(state: TransactionState): TableChange[] {
  return liveStatements(state).flatMap(({ plan, prepared }) => {
    const read = new Map(plan.watched.map(({ image, fingerprint }) => [image, fingerprint]));
    const made = new Map(
      prepared?.files.map(({ path, fingerprint }) => [path, { before: read.get(path), now: fingerprint }]),
    );
    return plan.changes.map(({ device, after }) => ({
      device,
      after: after && withFingerprints(after, made),
    }));
  });
}

/** Undoing removes a staging file by its name alone, so no other name may stand there: forged. */
function assertStagingNames(id: string, { statement, newFiles }: PlanRecord, file: string): void {
  const odd = newFiles.find(
    ({ path, staging }, index) => staging !== stagingPath(path, id, statement, index),
  );
  if (odd === undefined) return;
  throw new ImgtxError(
    "E_JOURNAL",
    `the journal would make a file as '${odd.staging}', which imgtx never does`,
    {
      image: file,
      hint: "imgtx did not write this journal: look where it comes from, and move it away",
    },
  );
}

/** A patch is held to the file that was watched, and one that is taken back leaves the length as it was: else forged. */
function assertPatches({ patches, watched }: PlanRecord, file: string): void {
  const odd = patches.find(
    ({ image, before, after, when }) =>
      watched.every((one) => one.image !== image) || !fits(countBytes(before), countBytes(after), when),
  );
  if (odd === undefined) return;
  throw new ImgtxError("E_JOURNAL", `the journal would patch '${odd.image}' as imgtx never does`, {
    image: file,
    hint: "imgtx did not write this journal: look where it comes from, and move it away",
  });
}

function fits(beforeBytes: number, afterBytes: number, when: ImagePatch["when"]): boolean {
  return when === "prepare" ? beforeBytes === afterBytes : beforeBytes <= afterBytes;
}

function countBytes(base64: string): number {
  return Buffer.byteLength(base64, "base64");
}

function changeStatement(
  state: TransactionState,
  record: CopiedRecord | ParkedRecord | ResumedRecord | PreparedRecord | DoneRecord,
  file: string,
  change: Partial<Statement>,
): TransactionState {
  const index = state.statements.length - 1;
  const last = state.statements[index];
  if (!last || record.statement !== index || last.done || last.undoing) throw outOfOrder(file, record.type);
  // A parked copy goes on or is taken back, and nothing else.
  if (last.parked !== (record.type === "resumed")) throw outOfOrder(file, record.type);
  return { ...state, statements: [...state.statements.slice(0, index), { ...last, ...change }] };
}

function changeFrom(state: TransactionState, from: number, change: Partial<Statement>): TransactionState {
  return {
    ...state,
    statements: state.statements.map((statement, index) =>
      index >= from ? { ...statement, ...change } : statement,
    ),
    savepoints: state.savepoints.filter((savepoint) => savepoint.nextStatement <= from),
  };
}

function outOfOrder(file: string, type: string): ImgtxError {
  return new ImgtxError("E_JOURNAL", `a '${type}' record stands where none can be`, {
    image: file,
    hint: "keep the journal and its images as they are, and put back a copy of the journal",
  });
}

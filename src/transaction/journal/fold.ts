// What a sequence of records means: the state of a transaction, and the orders that imgtx never writes.
//
// Invariants, asserted of what is read and of what is about to be written
// - A statement makes or changes a file once, and changes devices that it holds.
// - Everything that a transaction makes is made, durably, before its commit mark.

import { ImgtxError } from "../../errors/index.ts";
import { lateLogsOf, liveStatements, redoOf, withSettled } from "./queries.ts";
import {
  ALL_COPIED,
  type AppliedRecord,
  type CopiedRecord,
  type DoneRecord,
  type FencingRecord,
  type JournalRecord,
  type ParkedRecord,
  type PlanRecord,
  type PreparedRecord,
  type ResumedRecord,
  isRedoLogOf,
  type StagedImagePlan,
  type StagedRecord,
  stagingPath,
  type Statement,
  type TransactionState,
} from "./records.ts";
import type { ProvisionRecord } from "./planned-volume.ts";
import { isStoredFence } from "./stored-fence.ts";

/** What a journal's records add up to. E_JOURNAL where they stand in an order that imgtx never writes. */
export function foldRecords(records: readonly JournalRecord[], file: string): TransactionState | undefined {
  let state: TransactionState | undefined;
  for (const record of records) state = applyRecord(state, record, file);
  return state;
}

const NOTHING_YET = {
  statements: [],
  volumes: [],
  savepoints: [],
  shortFrom: null,
  fences: [],
  commit: undefined,
  staged: [],
  applied: new Set<string>(),
  aborting: false,
};

const NOT_BEGUN = {
  marks: new Map<string, number>(),
  parked: false,
  prepared: undefined,
  done: false,
  undone: false,
  undoing: false,
};

/** The state after one more record, or the first one. */
export function applyRecord(
  state: TransactionState | undefined,
  record: JournalRecord,
  file: string,
): TransactionState {
  if (!state) {
    if (record.type !== "begin") throw outOfOrder(file, record.type);
    return { begin: record, ...NOTHING_YET };
  }
  if (state.commit) return applyAfterMark(state, record, file);
  if (state.aborting) throw outOfOrder(file, record.type);
  switch (record.type) {
    case "begin":
    case "staged":
    case "applied":
      throw outOfOrder(file, record.type);
    case "provision":
      return withVolumes(state, record, file);
    case "plan": {
      if (record.statement !== state.statements.length) throw outOfOrder(file, record.type);
      assertStagingNames(state.begin.id, record, file);
      assertRedoLogs(state.begin.id, record, file);
      assertCopies(state, record, file);
      assertApart(record, file);
      return { ...state, statements: [...state.statements, { ...NOT_BEGUN, plan: record }] };
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
      assertRedoPlanned(state, record, file);
      return changeStatement(state, record, file, { prepared: record });
    case "done":
      return changeStatement(state, record, file, { done: true, ...withNames(state, record) });
    case "savepoint":
      return withSavepoint(state, record.name);
    case "undo":
      return changeFrom(state, record.from, { undoing: true });
    case "renewing":
      return { ...state, shortFrom: record.from };
    case "undone":
      return withoutVolumes(changeFrom(state, record.from, { undoing: true, undone: true }), record.from);
    case "fencing":
      assertFences(state, record, file);
      return { ...state, fences: record.fences };
    case "commit":
      if (state.shortFrom !== null || !state.statements.every((one) => isMade(state, one)))
        throw outOfOrder(file, record.type);
      return { ...withSettled(state, record), commit: record };
    case "abort":
      return { ...state, aborting: true };
  }
}

/** For the next statement. */
function withVolumes(
  state: TransactionState,
  { statement, volumes, type }: ProvisionRecord,
  file: string,
): TransactionState {
  if (statement !== state.statements.length) throw outOfOrder(file, type);
  return { ...state, volumes: [...state.volumes, ...volumes.map((one) => ({ ...one, statement }))] };
}

function withoutVolumes(state: TransactionState, from: number): TransactionState {
  return { ...state, volumes: state.volumes.filter(({ statement }) => statement < from) };
}

function withSavepoint(state: TransactionState, name: string): TransactionState {
  return { ...state, savepoints: [...state.savepoints, { name, nextStatement: state.statements.length }] };
}

/** How far the commit has come. */
function applyAfterMark(state: TransactionState, record: JournalRecord, file: string): TransactionState {
  if (record.type === "copied") return keepProgress(state, record, file);
  if (record.type === "staged") return keepStaged(state, record, file);
  if (record.type === "applied") return keepApplied(state, record, file);
  throw outOfOrder(file, record.type);
}

/** Of an image that the statement copies into. */
function keepProgress(
  state: TransactionState,
  { statement, path, offset, type }: CopiedRecord,
  file: string,
): TransactionState {
  const copying = state.statements[statement];
  if (!copying || copying.undoing || copying.plan.copies.every(({ into }) => into !== path)) {
    throw outOfOrder(file, type);
  }
  const marks = new Map(copying.marks).set(path, offset);
  return { ...state, statements: state.statements.with(statement, { ...copying, marks }) };
}

/** Once, of an image that was copied into, all of it. */
function keepStaged(
  state: TransactionState,
  { statement, redo, type }: StagedRecord,
  file: string,
): TransactionState {
  const { marks, undoing } = state.statements[statement] ?? {};
  const isPlanned = liveStatements(state).some(({ plan }) =>
    lateLogsOf(plan).some(({ image, log }) => image === redo.image && log === redo.log),
  );
  const isAll = marks?.get(redo.image) === ALL_COPIED;
  const isKnown = state.staged.some(({ log }) => log === redo.log);
  if (!isPlanned || !isAll || undoing !== false || isKnown) throw outOfOrder(file, type);
  // What was applied before it was another log.
  const applied = new Set([...state.applied].filter((image) => image !== redo.image));
  return { ...state, staged: [...state.staged, redo], applied };
}

/** Once, of an image that has a redo log. */
function keepApplied(
  state: TransactionState,
  { image, type }: AppliedRecord,
  file: string,
): TransactionState {
  const { applied } = state;
  if (applied.has(image) || !redoOf(state).has(image)) throw outOfOrder(file, type);
  return { ...state, applied: new Set([...applied, image]) };
}

/** What was prepared, as it looks with its names. */
function withNames({ statements }: TransactionState, { named = [] }: DoneRecord): Partial<Statement> {
  const prepared = statements.at(-1)?.prepared;
  if (!prepared || named.length === 0) return {};
  const looks = new Map(named.map(({ path, fingerprint }) => [path, fingerprint]));
  const files = prepared.files.map((one) => ({
    ...one,
    fingerprint: looks.get(one.path) ?? one.fingerprint,
  }));
  return { prepared: { ...prepared, files } };
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

/** The same of redo logs: each lies beside the image that it changes, which is held to what was watched, or beside the journal. */
function assertRedoLogs(id: string, plan: PlanRecord, file: string): void {
  const odd = [...plan.redo, ...lateLogsOf(plan)].find(
    (redo) => !isRedoLogOf(id, file, redo) || plan.watched.every(({ image }) => image !== redo.image),
  );
  if (odd === undefined) return;
  throw new ImgtxError(
    "E_JOURNAL",
    `the journal would use '${odd.log}' as a redo log, which imgtx never does`,
    {
      image: file,
      hint: "imgtx did not write this journal: look where it comes from, and move it away",
    },
  );
}

/** Copied is only between files that the transaction knows: else forged. */
function assertCopies({ statements }: TransactionState, plan: PlanRecord, file: string): void {
  const plans = plan.copies.length === 0 ? [] : [...statements.map((one) => one.plan), plan];
  const known = new Set(
    plans.flatMap(({ watched, newFiles }) => [
      ...watched.map(({ image }) => image),
      ...newFiles.map(({ path }) => path),
    ]),
  );
  const odd = plan.copies.find(
    ({ kind, from, fromFormat, into, files, up }) =>
      files.includes(into) ||
      ![from, into, ...files, up?.onto?.path ?? into, up?.until?.path ?? into].every((one) =>
        known.has(one),
      ) ||
      (kind === "up") !== (up !== undefined) ||
      (kind === "fill") !== (fromFormat !== undefined),
  );
  if (odd === undefined) {
    assertRemovals(plan, file);
    return;
  }
  throw new ImgtxError("E_JOURNAL", `the journal would copy into '${odd.into}' as imgtx never does`, {
    image: file,
    hint: "imgtx did not write this journal: look where it comes from, and move it away",
  });
}

/** What goes is what the statement copies elsewhere, or what a device or its snapshots leave, and nothing else: else forged. */
function assertRemovals({ copies, removes, reports, changes, givesUp = [] }: PlanRecord, file: string): void {
  const copied = new Set(copies.flatMap(({ kind, files }) => (kind === "merge" ? files : [])));
  const used = new Set(changes.flatMap(({ after }) => after?.chain.map(({ image }) => image) ?? []));
  const left = new Set(
    reports.flatMap(({ before }) => (before === null || used.has(before) ? [] : [before])),
  );
  const givenUp = new Set(givesUp.flatMap(({ images }) => images));
  const odd = removes.find((one) => !copied.has(one) && !left.has(one) && !givenUp.has(one));
  if (odd === undefined) return;
  throw new ImgtxError("E_JOURNAL", `the journal would remove '${odd}', which imgtx never does`, {
    image: file,
    hint: "imgtx did not write this journal: look where it comes from, and move it away",
  });
}

function assertRedoPlanned(state: TransactionState, record: PreparedRecord, file: string): void {
  const planned = state.statements.at(-1)?.plan.redo ?? [];
  const isPlanned = ({ image, log }: StagedImagePlan): boolean =>
    planned.some((one) => one.image === image && one.log === log);
  if (!record.redo.every(isPlanned)) throw outOfOrder(file, record.type);
}

/** What is raised and lifted in an image that was watched is a fence, and nothing else: else forged. */
function assertFences({ statements }: TransactionState, { fences }: FencingRecord, file: string): void {
  const watched = new Set(statements.flatMap(({ plan }) => plan.watched.map(({ image }) => image)));
  const odd = fences.find(
    ({ image, raised, kept, between }) =>
      !watched.has(image) || ![raised, kept, between].every((one) => !one || isStoredFence(one)),
  );
  if (odd === undefined) return;
  throw new ImgtxError("E_JOURNAL", `the journal would write to '${odd.image}' as imgtx never does`, {
    image: file,
    hint: "imgtx did not write this journal: look where it comes from, and move it away",
  });
}

/** What is done twice, or to a device that somebody else may hold, can't be taken back. */
function assertApart({ redo, newFiles, changes, devices, snapshot }: PlanRecord, file: string): void {
  const [held, changed] = [new Set(devices), new Set(changes.map(({ device }) => device))];
  const problem =
    findTwice([...newFiles, ...redo].map((one) => ("path" in one ? one.path : one.image))) ??
    changes.find(({ device }) => !held.has(device))?.device ??
    snapshot?.devices.find((device) => !changed.has(device));
  if (problem === undefined) return;
  throw new ImgtxError("E_JOURNAL", `the journal would change '${problem}' as imgtx never does`, {
    image: file,
    hint: "imgtx did not write this journal: look where it comes from, and move it away",
  });
}

function findTwice(names: readonly string[]): string | undefined {
  const known = new Set<string>();
  for (const name of names) {
    if (known.has(name)) return name;
    known.add(name);
  }
  return undefined;
}

/** Whether all of it is there that the commit relies on, or it is taken back. */
function isMade({ begin }: TransactionState, one: Statement): boolean {
  if (one.undone) return true;
  const makes = one.plan.newFiles.length + one.plan.redo.length > 0;
  return (
    !one.undoing && !one.parked && (one.prepared !== undefined || !makes) && (one.done || begin.implicit)
  );
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

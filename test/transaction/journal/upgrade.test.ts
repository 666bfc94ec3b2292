// Journals that an earlier version wrote: read as what they say, and no more.

import { describe, expect, test } from "vitest";
import { foldRecords } from "../../../src/transaction/journal/fold.ts";
import {
  type CommitFence,
  JOURNAL_VERSION,
  type PreparedRecord,
  type TransactionState,
} from "../../../src/transaction/journal/records.ts";
import { parseJournal } from "../../../src/transaction/journal/record-line.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import {
  BEGIN,
  encodeJournal,
  FINGERPRINT,
  planRecord,
  preparedRecord,
} from "../../helpers/transaction/journals.ts";

const COPIED = { type: "copied", statement: 0, path: "a0.qcow2", offset: 65_536 };
const PATCHING = { type: "patching", statement: 0 };
const PREPARED = { ...preparedRecord(0), files: [] };
const DONE = { type: "done", statement: 0 };
const PARKED = { type: "parked", statement: 0 };
const RESUMED = { type: "resumed", statement: 0 };
const COMMIT = { type: "commit", madeOn: 3, committed: "2026-01-02T03:04:05.678Z", summary: "" };

const before = "AAAAAAAAAAA=";
const after = "QAAAAAAAAAA=";
const fence = { image: "c.qcow2", offset: 72, before, after, modifiedNs: "17", when: "prepare" };
const lift = { ...fence, before: after, after: before, when: "commit" };
const bits = { ...fence, offset: 65_536, when: "commit" };

/** A plan of an earlier version. */
function patched(...patches: readonly object[]): object {
  const watched = [{ device: "vdc", image: "c.qcow2", fingerprint: FINGERPRINT }];
  return { ...planRecord(0), watched, patches };
}

function stateOf(version: number, ...records: readonly object[]): TransactionState | undefined {
  const lines = encodeJournal([{ ...BEGIN, version }, ...records]);
  return foldRecords(parseJournal(lines, "t.journal").records, "t.journal");
}

/** The bytes that are taken back, or lifted when the table has moved. */
function fencesOf(state: TransactionState | undefined): CommitFence["raised"][] | undefined {
  return state?.fences.map(({ raised }) => raised);
}

const RAISED = [{ offset: 72, before, after }];

describe("a fence that an earlier imgtx wrote before its mark", () => {
  test.each<[string, number, readonly object[]]>([
    ["version 1 never said when it began to", 1, [patched(fence)]],
    ["a copy of version 1 that was cut off may have ended", 1, [patched(fence), COPIED]],
    ["one of version 1 that went on may have, too", 1, [patched(fence), COPIED, PARKED, RESUMED]],
    ["version 3 said so", 3, [patched(fence), PATCHING]],
    ["an open transaction has it", 3, [patched(fence), PATCHING, PREPARED, DONE]],
    [
      "an undo may not have come to it",
      3,
      [patched(fence), PATCHING, PREPARED, DONE, { type: "undo", from: 0 }],
    ],
  ])("is taken back with the whole transaction: %s", (_, version, records) => {
    const state = stateOf(version, ...records);
    expect(fencesOf(state)).toEqual(RAISED);
    expect(state?.aborting).toBe(true);
  });

  test.each<[string, number, readonly object[]]>([
    ["one that was never announced", 3, [patched(fence)]],
    ["one of a parked copy: what looks so is somebody else's", 1, [patched(fence), COPIED, PARKED]],
    ["one that was undone", 3, [patched(fence), PATCHING, { type: "undone", from: 0 }]],
    ["one that its commit keeps", 3, [patched(fence), PATCHING, PREPARED, DONE, COMMIT]],
  ])("is nobody's business any more: %s", (_, version, records) => {
    expect(fencesOf(stateOf(version, ...records))).toEqual([]);
  });

  test("leaves a parked copy to go on, and what was undone to the rest of its transaction", () => {
    expect(stateOf(2, patched(fence, bits), COPIED, PARKED)?.aborting).toBe(false);
    expect(stateOf(3, patched(fence), PATCHING, { type: "undone", from: 0 })?.aborting).toBe(false);
  });
});

describe("a fence that an earlier imgtx was to lift after its mark", () => {
  test("is lifted when the table has moved, with its time, beside those of images that are left", () => {
    const left = { type: "fencing", patches: [{ ...fence, image: "c.qcow2", modifiedNs: null }] };
    const state = stateOf(3, patched(lift), PREPARED, DONE, left, COMMIT);
    expect(state?.fences).toEqual([
      { image: "c.qcow2", raised: RAISED[0], modifiedNs: null, kept: null },
      { image: "c.qcow2", raised: RAISED[0], modifiedNs: "17", kept: null },
    ]);
    expect(state?.commit).toMatchObject({ madeOn: 3 });
  });

  test("stays without a mark, and its transaction is taken back", () => {
    const state = stateOf(3, patched(lift), DONE);
    expect(fencesOf(state)).toEqual([]);
    expect(state?.aborting).toBe(true);
  });
});

describe("a bitmap that an earlier imgtx wrote as bytes", () => {
  test.each<[string, readonly object[]]>([
    ["committed", [patched(fence, bits), PATCHING, PREPARED, DONE, COMMIT]],
    ["begun", [patched(fence, bits), PATCHING]],
  ])("is refused by name once it may be in the image: %s", async (_, records) => {
    const failure = await failureOf(() => stateOf(2, ...records));
    expect(failure).toMatchObject({
      code: "E_UNSUPPORTED",
      image: "t.journal",
      hint: "finish the transaction with the imgtx that began it",
    });
    expect(failure.message).toContain("version 2");
  });
});

test("what an earlier imgtx did not say is filled in, and the journal goes on as one of the present version", () => {
  const { redo: _plan, copies: _copies, ...plan } = planRecord(0);
  const { redo: _prepared, ...prepared } = preparedRecord(0) as PreparedRecord;
  const lines = encodeJournal([{ ...BEGIN, version: 2 }, { ...plan, patches: [] }, prepared]);
  const { records } = parseJournal(lines, "t.journal");
  expect(records).toEqual([{ ...BEGIN, version: JOURNAL_VERSION }, planRecord(0), preparedRecord(0)]);
  expect(parseJournal(encodeJournal(records), "t.journal").records).toEqual(records);
});

test("an overlay that version 3 merges into an image is copied into it", () => {
  const { copies: _copies, ...plan } = planRecord(0);
  const staging = `.imgtx-${BEGIN.id}-0-0`;
  const old = { ...plan, newFiles: [{ path: "m.raw", staging, mergesAs: "raw" }], patches: [] };
  const lines = encodeJournal([{ ...BEGIN, version: 3 }, old]);
  const [, read] = parseJournal(lines, "t.journal").records;
  const copies = [{ kind: "sync", from: staging, files: [staging], into: "m.raw", format: "raw" }];
  expect(read).toEqual({ ...plan, newFiles: [{ path: staging, staging }], copies });
});

test("sentences that version 4 noted are shown as they stand", () => {
  const report = { kind: "snapshot", device: "vda", before: null, after: null, format: null, files: [] };
  const old = { ...planRecord(0), reports: [{ ...report, notes: ["it stays frozen"] }] };
  const lines = encodeJournal([{ ...BEGIN, version: 4 }, old]);
  const [, read] = parseJournal(lines, "t.journal").records;
  expect(read).toMatchObject({ reports: [{ notes: [{ code: "said", text: "it stays frozen" }] }] });
});

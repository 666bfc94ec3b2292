// Journals that an earlier version wrote: read as what they say, and no more.

import { describe, expect, test } from "vitest";
import { foldRecords } from "../../../src/transaction/journal/fold.ts";
import {
  JOURNAL_VERSION,
  type JournalRecord,
  type PreparedRecord,
} from "../../../src/transaction/journal/records.ts";
import { parseJournal } from "../../../src/transaction/journal/record-line.ts";
import { upgradeRecords } from "../../../src/transaction/journal/upgrade.ts";
import {
  BEGIN,
  encodeJournal,
  FINGERPRINT,
  planRecord,
  preparedRecord,
} from "../../helpers/transaction/journals.ts";

const OLD: JournalRecord = { ...BEGIN, version: 1 };
const COPIED: JournalRecord = { type: "copied", statement: 0, path: "a0.qcow2", offset: 65_536 };
const PARKED: JournalRecord = { type: "parked", statement: 0 };
const RESUMED: JournalRecord = { type: "resumed", statement: 0 };

const patch = {
  image: "c.qcow2",
  offset: 72,
  before: "AAAAAAAAAAA=",
  after: "QAAAAAAAAAA=",
  modifiedNs: null,
};
const PATCHED: JournalRecord = {
  ...planRecord(0),
  watched: [{ device: "vdc", image: "c.qcow2", fingerprint: FINGERPRINT }],
  patches: [{ ...patch, when: "prepare" }],
};
const LIFTED: JournalRecord = { ...PATCHED, patches: [{ ...patch, when: "commit" }] };

function patchingOf(...records: readonly JournalRecord[]): boolean | undefined {
  return foldRecords(upgradeRecords([OLD, ...records]), "t.journal")?.statements.at(-1)?.patching;
}

describe("of version 1, which never said when it began to patch", () => {
  test.each<[string, boolean, readonly JournalRecord[]]>([
    ["a statement with patches may have begun", true, [PATCHED]],
    ["a copy that was cut off may have ended", true, [PATCHED, COPIED]],
    ["a prepared one has", true, [PATCHED, preparedRecord(0)]],
    ["a parked copy has not: what looks so is somebody else's", false, [PATCHED, COPIED, PARKED]],
    ["one that went on may have", true, [PATCHED, COPIED, PARKED, RESUMED, COPIED]],
    ["one that was parked again has not", false, [PATCHED, COPIED, PARKED, RESUMED, COPIED, PARKED]],
    ["a statement without patches has nothing to begin", false, [planRecord(0), preparedRecord(0)]],
    ["nor has one whose patches wait for the commit", false, [LIFTED]],
  ])("%s", (_, patching, records) => {
    expect(patchingOf(...records)).toBe(patching);
  });

  test("becomes the present version, record by record", () => {
    const records = upgradeRecords([OLD, PATCHED, preparedRecord(0), { type: "done", statement: 0 }]);
    expect(records.map(({ type }) => type)).toEqual(["begin", "plan", "patching", "prepared", "done"]);
    expect(records[0]).toEqual({ ...BEGIN, version: JOURNAL_VERSION });
    expect(upgradeRecords(records)).toEqual(records);
  });
});

describe("of version 2, which changed images in place by patches alone", () => {
  test("has no redo logs, and goes on as the present version", () => {
    const { redo: _plan, ...plan } = planRecord(0);
    const { redo: _prepared, ...prepared } = preparedRecord(0) as PreparedRecord;
    const lines = encodeJournal([{ ...BEGIN, version: 2 }, plan, prepared]);
    const records = upgradeRecords(parseJournal(lines, "t.journal").records);
    expect(records).toEqual([{ ...BEGIN, version: JOURNAL_VERSION }, planRecord(0), preparedRecord(0)]);
  });
});

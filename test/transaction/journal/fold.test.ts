// What a sequence of records means, and which sequences imgtx never writes.

import { describe, expect, test } from "vitest";
import { applyRecord, foldRecords } from "../../../src/transaction/journal/fold.ts";
import { changesOf, heldDevices, liveStatements } from "../../../src/transaction/journal/queries.ts";
import type { CommitFence, JournalRecord, PreparedRedo } from "../../../src/transaction/journal/records.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { device } from "../../helpers/device/tables.ts";
import { BEGIN, FINGERPRINT, planRecord, preparedRecord } from "../../helpers/transaction/journals.ts";

const done = (statement: number): JournalRecord => ({ type: "done", statement });
const undo = (from: number): JournalRecord => ({ type: "undo", from });
const undone = (from: number): JournalRecord => ({ type: "undone", from });
const savepoint = (name: string): JournalRecord => ({ type: "savepoint", name });
const COMMIT: JournalRecord = {
  type: "commit",
  madeOn: 3,
  committed: "2026-01-02T03:04:05.678Z",
  summary: "s",
};
const ABORT: JournalRecord = { type: "abort" };

function fold(...records: readonly JournalRecord[]) {
  const state = foldRecords([BEGIN, ...records], "t.journal");
  if (!state) throw new Error("the journal is not empty");
  return state;
}

const numbers = (state: ReturnType<typeof fold>) => liveStatements(state).map(({ plan }) => plan.statement);

describe("records add up to a transaction", () => {
  test("with no records to no transaction", () => {
    expect(foldRecords([], "t.journal")).toBeUndefined();
  });

  test("in which a statement counts from its plan on, until its undoing begins", () => {
    expect(numbers(fold(planRecord(0)))).toEqual([0]);
    expect(numbers(fold(planRecord(0), preparedRecord(0), done(0), planRecord(1)))).toEqual([0, 1]);
    expect(numbers(fold(planRecord(0), done(0), undo(0)))).toEqual([]);
    expect(numbers(fold(planRecord(0), done(0), undo(0), undone(0), planRecord(1)))).toEqual([1]);
  });

  test("which holds its devices until the undoing has ended", () => {
    expect(heldDevices(fold(planRecord(0), done(0), undo(0)))).toEqual(["vda"]);
    expect(heldDevices(fold(planRecord(0), done(0), undo(0), undone(0)))).toEqual([]);
  });

  test("with what its commit found settled, of each image that it names and of no other", () => {
    const unsettled = { ...FINGERPRINT, settled: false };
    const watched = ["/w/a", "/w/b"].map((image) => ({ device: "vda", image, fingerprint: unsettled }));
    const { image, format, chain } = device("vda", "/w/new");
    const below = { ...chain[0], image: "/w/a", format, name: "a", fingerprint: unsettled, dataFile: null };
    const after = { ...device("vda", image), chain: [...chain, below] };
    const plan = { ...planRecord(0), watched, changes: [{ device: "vda", after }] };
    const { statements } = fold(plan, preparedRecord(0), done(0), { ...COMMIT, settled: ["/w/a"] });
    expect(statements[0]?.plan.watched.map(({ fingerprint }) => fingerprint.settled)).toEqual([true, false]);
    expect(statements[0]?.plan.changes[0]?.after?.chain[1]?.fingerprint.settled).toBe(true);
  });

  test("with the savepoints that the undoing did not pass", () => {
    const state = fold(
      savepoint("a"),
      planRecord(0),
      done(0),
      savepoint("b"),
      planRecord(1),
      done(1),
      savepoint("b"),
    );
    expect(state.savepoints.map(({ name, nextStatement }) => `${name} ${nextStatement}`)).toEqual([
      "a 0",
      "b 1",
      "b 2",
    ]);
    const back = applyRecord(applyRecord(state, undo(1), ""), undone(1), "");
    expect(back.savepoints.map(({ name }) => name)).toEqual(["a", "b"]);
  });

  test("with the fingerprints of the files that were made", () => {
    const plan = { ...planRecord(0), changes: [{ device: "vda", after: device("vda", "a0.qcow2") }] };
    const made = { ...FINGERPRINT, inode: "99" };
    const prepared: JournalRecord = {
      type: "prepared",
      redo: [],
      statement: 0,
      files: [{ path: "a0.qcow2", fingerprint: made, contentSha256: null }],
    };
    expect(changesOf(fold(plan, prepared, done(0)))[0]?.after?.chain[0]?.fingerprint).toEqual(made);
  });
});

describe("records in an order that imgtx never writes are refused", () => {
  test.each<[string, readonly JournalRecord[]]>([
    ["a second begin", [BEGIN]],
    ["a plan with a number left out", [planRecord(1)]],
    ["a plan with a number again", [planRecord(0), done(0), planRecord(0)]],
    ["prepared without a plan", [preparedRecord(0)]],
    ["prepared for another statement", [planRecord(0), done(0), planRecord(1), preparedRecord(0)]],
    ["prepared after done", [planRecord(0), done(0), preparedRecord(0)]],
    ["done without a plan", [done(0)]],
    ["done twice", [planRecord(0), done(0), done(0)]],
    ["done after undo", [planRecord(0), undo(0), done(0)]],
    ["a plan after the commit", [COMMIT, planRecord(0)]],
    ["a commit of what is planned and not made", [planRecord(0), COMMIT]],
    ["a commit of what is made and not done", [planRecord(0), preparedRecord(0), COMMIT]],
    ["a commit amid an undo", [planRecord(0), preparedRecord(0), done(0), undo(0), COMMIT]],
    ["a commit that lacks what another took back", [{ type: "renewing", from: 0 }, COMMIT]],
    ["a second commit", [COMMIT, COMMIT]],
    ["an abort after the commit", [COMMIT, ABORT]],
    ["a commit after the abort", [ABORT, COMMIT]],
  ])("%s", async (_, records) => {
    expect(await failureOf(() => fold(...records))).toMatchObject({ code: "E_JOURNAL", image: "t.journal" });
  });

  test("a journal that does not begin", async () => {
    expect((await failureOf(() => foldRecords([planRecord(0)], "t.journal"))).code).toBe("E_JOURNAL");
  });

  test.each([
    ["another file", "/home/somebody/.ssh/key"],
    ["another transaction's", ".imgtx-zzzzzzzzzz-0-0"],
    ["another folder's", "sub/.imgtx-abcdefghij-0-0"],
  ])(
    "a plan that would make its file under the name of %s, which an undo would remove",
    async (_, staging) => {
      const plan = { ...planRecord(0), newFiles: [{ path: "a0.qcow2", staging }] };
      expect((await failureOf(() => fold(plan))).code).toBe("E_JOURNAL");
    },
  );
});

describe("a copy step", () => {
  const [into, from, format] = ["/i/m.qcow2", "/i/top.qcow2", "qcow2" as const];
  const kind = "sync" as const;
  const watched = [into, from].map((image) => ({ device: "vda", image, fingerprint: FINGERPRINT }));
  const plan = { ...planRecord(0), watched, copies: [{ kind, from, files: [from], into, format }] };
  const prepared = preparedRecord(0);
  const copied: JournalRecord = { type: "copied", statement: 0, path: into, offset: 65_536 };

  test("tells after the mark how far it has come, and of nothing but itself", async () => {
    expect(fold(plan, prepared, done(0), COMMIT, copied).statements[0]?.marks.get(into)).toBe(65_536);
    for (const odd of [
      { ...copied, path: from },
      { ...copied, statement: 1 },
    ]) {
      expect((await failureOf(() => fold(plan, prepared, done(0), COMMIT, odd))).code).toBe("E_JOURNAL");
    }
  });

  test.each([
    [
      "from a file that the transaction does not know",
      { kind, from: "/etc/shadow", files: [], into, format },
    ],
    ["of such a file", { kind, from, files: ["/etc/shadow"], into, format }],
    ["into one", { kind, from, files: [from], into: "/etc/shadow", format }],
    ["into itself", { kind, from, files: [from], into: from, format }],
  ])("%s is refused", async (_, copy) => {
    expect((await failureOf(() => fold({ ...plan, copies: [copy] }))).code).toBe("E_JOURNAL");
  });
});

describe("a redo log that was applied", () => {
  const [image, log] = ["/i/a.raw", `/i/.imgtx-${BEGIN.id}-0.redo`];
  const plan: JournalRecord = {
    ...planRecord(0),
    watched: [{ device: "vda", image, fingerprint: FINGERPRINT }],
    redo: [{ image, log }],
  };
  const redoOf = (guardedBy: "digests" | "fence"): PreparedRedo => ({
    image,
    log,
    end: { position: 0, digest: "" },
    pages: 1,
    changedSectors: 1,
    freedPages: 0,
    sizeBefore: 512,
    sizeAfter: 512,
    guardedBy,
    isFenced: false,
    modifiedNs: null,
  });
  const applied: JournalRecord = { type: "applied", image };
  const upTo = (guardedBy: "digests" | "fence", ...more: readonly JournalRecord[]) =>
    fold(plan, { type: "prepared", statement: 0, files: [], redo: [redoOf(guardedBy)] }, done(0), ...more);

  test("is told once, and after the mark", async () => {
    expect(upTo("digests", COMMIT, applied).applied).toEqual(new Set([image]));
    expect(upTo("fence", COMMIT, applied).applied).toEqual(new Set([image]));
    for (const odd of [
      () => upTo("digests", applied),
      () => upTo("digests", COMMIT, applied, applied),
      () => upTo("digests", COMMIT, { ...applied, image: "/i/b.raw" }),
    ]) {
      expect((await failureOf(odd)).code).toBe("E_JOURNAL");
    }
  });
});

describe("a plan that imgtx never makes is refused", () => {
  const watched = [{ device: "vda", image: "a0.qcow2", fingerprint: FINGERPRINT }];
  const newFile = (index: number) => ({
    path: "a0.qcow2",
    staging: `.imgtx-abcdefghij-0-${index}`,
    mergesAs: null,
  });
  const change = { image: "a0.qcow2", log: ".imgtx-abcdefghij-0.redo" };

  test.each([
    ["makes a file twice", { newFiles: [newFile(0), newFile(1)] }],
    ["changes an image twice", { newFiles: [], redo: [change, change] }],
    ["changes an image that it makes", { redo: [change] }],
    ["changes a device that it does not hold", { changes: [{ device: "vdb", after: null }] }],
  ])("one that %s", async (_, more) => {
    const failure = await failureOf(() => fold({ ...planRecord(0), watched, ...more }));
    expect(failure.message).toMatch(/would change '.*' as imgtx never does/);
  });
});

describe("a fence that imgtx never raises is refused", () => {
  const plan = {
    ...planRecord(0),
    watched: [{ device: "vda", image: "/i/a.qcow2", fingerprint: FINGERPRINT }],
  };
  const fence = { offset: 72, before: "AAAAAAAAAAA=", after: "QAAAAAAAAAA=" };
  const fencing = (odd: Partial<CommitFence>): JournalRecord => ({
    type: "fencing",
    fences: [{ image: "/i/a.qcow2", raised: fence, modifiedNs: "1", kept: null, ...odd }],
  });

  test("and one that it raises is taken, and taken back", () => {
    expect(fold(plan, fencing({})).fences).toHaveLength(1);
    expect(fold(plan, fencing({}), { type: "fencing", fences: [] }).fences).toEqual([]);
  });

  test.each<[string, Partial<CommitFence>]>([
    ["of an image that nobody watches", { image: "/etc/passwd" }],
    ["that changes a length", { raised: { ...fence, before: "AAA=" } }],
    ["that is no fence", { raised: { ...fence, after: "QAAAAAAAAAE=" } }],
    ["that lies elsewhere", { raised: { ...fence, offset: 65_536 } }],
    ["that stays, and is no fence", { kept: { ...fence, after: "AQI=", unfencedSha256: "" } }],
  ])("one %s", async (_, odd) => {
    const failure = await failureOf(() => fold(plan, fencing(odd)));
    expect(failure).toMatchObject({ code: "E_JOURNAL", image: "t.journal" });
    expect(failure.message).toContain(odd.image ?? "/i/a.qcow2");
  });
});

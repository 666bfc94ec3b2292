// What this process writes is held to what it would read: a bug ends before a byte of it is on the disk.

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { readTable } from "../../../src/device/index.ts";
import { finishCommit, HOLDS_LOCK } from "../../../src/transaction/commit/finish.ts";
import { Journal } from "../../../src/transaction/journal/index.ts";
import type { JournalRecord } from "../../../src/transaction/journal/records.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { planRecord } from "../../helpers/transaction/journals.ts";
import { makeWorkbench } from "../../helpers/transaction/workbench.ts";

const COMMIT: JournalRecord = { type: "commit", madeOn: 1, committed: "", summary: "" };

/** The journal of an open transaction that holds a snapshot of vda. */
async function openJournal() {
  const bench = await makeWorkbench();
  const id = await bench.begin();
  await bench.snapshot({ vda: "a1.qcow2" });
  const { workspace } = await bench.session();
  const journal = await Journal.open(workspace, id);
  if (!journal) throw new Error("the journal is there");
  return { bench, workspace, journal, read: () => readFileSync(journal.path) };
}

test.each<[string, JournalRecord]>([
  ["stands where none can be", { type: "done", statement: 0 }],
  ["has a number that is none", { type: "commit", madeOn: Number.NaN, committed: "", summary: "" }],
  ["plans a file under a name that is not its own", planRecord(1, "/elsewhere/")],
])("a record that %s is not written, and the transaction goes on", async (_, record) => {
  const { bench, journal, read } = await openJournal();
  const before = read();
  const failure = await failureOf(async () => await journal.append(record, "test"));
  expect(failure).toMatchObject({ code: "E_INTERNAL", image: journal.path, changed: false });
  expect(read()).toEqual(before);
  await journal.close();
  await bench.commit();
  expect(await bench.images()).toMatchObject({ vda: "a1.qcow2" });
});

test("no commit mark is written over a statement that is not made", async () => {
  const { journal, read } = await openJournal();
  const { begin } = journal.state;
  await journal.append({ ...planRecord(1), newFiles: [fileOf(begin.id)] }, "plan");
  const before = read();
  const failure = await failureOf(async () => await journal.appendForGood(COMMIT, "commit mark"));
  expect(failure).toMatchObject({ code: "E_INTERNAL", changed: false });
  expect(read()).toEqual(before);
  await journal.close();
});

test("no table moves without a commit mark", async () => {
  const { bench, workspace, journal } = await openJournal();
  const before = await readTable(workspace);
  const finish = async () =>
    await finishCommit(workspace, journal, {
      isLocked: false,
      underLock: HOLDS_LOCK,
      onNotice: undefined,
    });
  expect(await failureOf(finish)).toMatchObject({ code: "E_INTERNAL", image: journal.path });
  await journal.close();
  expect(await readTable((await bench.session()).workspace)).toEqual(before);
});

function fileOf(id: string) {
  return { path: "/i/a.qcow2", staging: `/i/.imgtx-${id}-1-0`, mergesAs: null };
}

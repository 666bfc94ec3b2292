// A journal as a file: its name, its lock, whom it is trusted from, and what happens when the disk fails.

import {
  chmodSync,
  chownSync,
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { Journal, readJournals } from "../../../src/transaction/journal/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { failAt, killAt, watchStorage } from "../../helpers/storage/watched-storage.ts";
import {
  BEGIN,
  encodeJournal,
  encodeLines,
  ID,
  journalPath,
  makeJournalFolder,
  planRecord,
  preparedRecord,
} from "../../helpers/transaction/journals.ts";

const COMMIT = {
  type: "commit",
  madeOn: 3,
  committed: "2026-01-02T03:04:05.678Z",
  summary: "s",
} as const;
const BROKEN = new ImgtxError("E_IO", "the disk is broken");

/** The records in the file, as another process reads them. */
async function typesIn(workspace: ReturnType<typeof makeJournalFolder>): Promise<string[]> {
  const lines = readFileSync(journalPath(workspace), "utf8").split("\n").slice(0, -1);
  return lines.map((line) => (JSON.parse(line.slice(line.indexOf("{"))) as { type: string }).type);
}

describe("a journal's file", () => {
  test("has its name only with its first records in it, and nobody else may read it", async () => {
    const workspace = makeJournalFolder();
    const seen: string[][] = [];
    const storage = watchStorage(workspace.storage, ({ name }) => {
      if (name === "file.flush") seen.push(readdirSync(`${workspace.root}/.imgtx/journal`));
    });
    const journal = await Journal.create({ ...workspace, storage }, BEGIN, [
      planRecord(0, `${workspace.root}/`),
    ]);
    expect(seen).toEqual([[`${ID}.new`]]);
    expect(await typesIn(workspace)).toEqual(["begin", "plan"]);
    expect(statSync(journalPath(workspace)).mode & 0o777).toBe(0o600);
    await journal.close();
  });

  test("keeps paths relative to the workspace, and gives them back absolute after a move", async () => {
    const workspace = makeJournalFolder();
    const notes = [{ code: "image left", image: `${workspace.root}/a.raw` } as const];
    const report = { kind: "reopen", device: "vda", before: null, after: null, format: null } as const;
    const plan = { ...planRecord(0, `${workspace.root}/`), reports: [{ ...report, files: [], notes }] };
    const journal = await Journal.create(workspace, BEGIN, [plan]);
    await journal.append(preparedRecord(0, `${workspace.root}/`), "test");
    await journal.close();
    expect(readFileSync(journalPath(workspace), "utf8")).not.toContain(workspace.root);
    const moved = { ...workspace, root: `${workspace.root}-moved` };
    renameSync(workspace.root, moved.root);
    try {
      const again = await Journal.open(moved, ID);
      expect(again?.state.statements[0]?.plan.newFiles[0]?.path).toBe(`${moved.root}/a0.qcow2`);
      expect(again?.state.statements[0]?.prepared?.files[0]?.path).toBe(`${moved.root}/a0.qcow2`);
      expect(again?.state.statements[0]?.plan.reports[0]?.notes).toMatchObject([
        { image: `${moved.root}/a.raw` },
      ]);
      await again?.close();
    } finally {
      renameSync(moved.root, workspace.root);
    }
  });

  test("can be opened by one process at a time, and by the next when that one is gone", async () => {
    const workspace = makeJournalFolder();
    const journal = await Journal.create(workspace, BEGIN, []);
    expect((await failureOf(async () => await Journal.open(workspace, ID))).code).toBe("E_BUSY");
    expect(await readJournals(workspace)).toMatchObject([{ id: ID, busy: true }]);
    await journal.close();
    expect(await readJournals(workspace)).toMatchObject([{ id: ID, busy: false }]);
    await (await Journal.open(workspace, ID))?.close();
  });

  test("stays locked while it is written anew", async () => {
    const workspace = makeJournalFolder();
    const journal = await Journal.create(workspace, BEGIN, []);
    await journal.secure();
    expect((await failureOf(async () => await Journal.open(workspace, ID))).code).toBe("E_BUSY");
    await journal.close();
  });

  test("that ends between a look at its name and the opening of it is no journal", async () => {
    const workspace = makeJournalFolder();
    await (await Journal.create(workspace, BEGIN, [])).close();
    const storage = watchStorage(workspace.storage, ({ name }) => {
      if (name === "openFile") rmSync(journalPath(workspace));
    });
    expect(await Journal.open({ ...workspace, storage }, ID)).toBeUndefined();
    expect(storage.openFiles.size).toBe(0);
  });

  test("that is replaced while one waits for it is opened as the new one", async () => {
    const workspace = makeJournalFolder();
    const journal = await Journal.create(workspace, BEGIN, []);
    const waiting = Journal.open(workspace, ID, { waitMs: 5000, onWait: () => undefined });
    await journal.append({ type: "savepoint", name: "one" }, "test");
    await journal.secure();
    await journal.append({ type: "savepoint", name: "two" }, "test");
    await journal.close();
    const opened = await waiting;
    expect(opened?.state.savepoints.map(({ name }) => name)).toEqual(["one", "two"]);
    await opened?.close();
  });
});

describe("a journal is not trusted", () => {
  async function problemOf(workspace: ReturnType<typeof makeJournalFolder>) {
    const [snapshot] = await readJournals(workspace);
    return snapshot?.state;
  }

  test.each([
    ["others may write it", (path: string) => chmodSync(path, 0o602)],
    ["its group may write it", (path: string) => chmodSync(path, 0o620)],
    ["it is damaged", (path: string) => writeFileSync(path, `x${readFileSync(path, "utf8").slice(1)}`)],
    ["it is empty", (path: string) => writeFileSync(path, "")],
    [
      "it holds another transaction",
      (path: string) => writeFileSync(path, encodeJournal([{ ...BEGIN, id: "zzzzzzzzzz" }])),
    ],
  ])("when %s", async (_, spoil) => {
    const workspace = makeJournalFolder();
    const journal = await Journal.create(workspace, BEGIN, []);
    await journal.append({ type: "savepoint", name: "one" }, "test");
    await journal.close();
    spoil(journalPath(workspace));
    expect(await problemOf(workspace)).toMatchObject({ code: "E_JOURNAL", image: journalPath(workspace) });
    expect((await failureOf(async () => await Journal.open(workspace, ID))).code).toBe("E_JOURNAL");
  });

  test("when it is a symbolic link", async () => {
    const workspace = makeJournalFolder();
    await (await Journal.create(workspace, BEGIN, [])).close();
    renameSync(journalPath(workspace), `${workspace.root}/elsewhere`);
    symlinkSync(`${workspace.root}/elsewhere`, journalPath(workspace));
    // No journal of imgtx's: it is left alone, and noted.
    expect(await problemOf(workspace)).toBeUndefined();
    expect((await failureOf(async () => await Journal.open(workspace, ID))).image).toBe(
      journalPath(workspace),
    );
  });

  oracle("root").test("when it belongs to another user", async () => {
    const workspace = makeJournalFolder();
    await (await Journal.create(workspace, BEGIN, [])).close();
    chownSync(journalPath(workspace), 65_534, 65_534);
    expect(await problemOf(workspace)).toMatchObject({ code: "E_JOURNAL" });
  });
});

describe("when the disk fails, a journal", () => {
  async function makeFailing(purpose: string) {
    const workspace = makeJournalFolder();
    let failures = 0;
    const storage = failAt(
      workspace.storage,
      (call) => call.purpose === purpose && (failures += 1) === 1,
      BROKEN,
    );
    const journal = await Journal.create({ ...workspace, storage }, BEGIN, []);
    return { workspace, journal };
  }

  test("appends nothing to a file whose flush failed: the next record goes into a new one", async () => {
    const { workspace, journal } = await makeFailing("first");
    const { ino } = statSync(journalPath(workspace));
    const record = { type: "savepoint", name: "one" } as const;
    expect((await failureOf(async () => await journal.append(record, "first"))).code).toBe("E_IO");
    expect(journal.state.savepoints).toEqual([]);
    await journal.append({ type: "savepoint", name: "two" }, "second");
    expect(statSync(journalPath(workspace)).ino).not.toBe(ino);
    await journal.close();
    const again = await Journal.open(workspace, ID);
    expect(again?.state.savepoints.map(({ name }) => name)).toEqual(["two"]);
    await again?.close();
  });

  test("with a torn tail is written anew before the next record", async () => {
    const workspace = makeJournalFolder();
    const lines = encodeLines([BEGIN, planRecord(0), preparedRecord(0)]);
    writeFileSync(journalPath(workspace), Buffer.concat([lines[0]!, lines[1]!, lines[2]!.subarray(0, 50)]), {
      mode: 0o600,
    });
    const journal = await Journal.open(workspace, ID);
    await journal?.append({ type: "undone", from: 0 }, "test");
    await journal?.close();
    expect(await typesIn(workspace)).toEqual(["begin", "plan", "undone"]);
  });

  test("rescues a commit mark whose flush failed by writing all anew", async () => {
    const { workspace, journal } = await makeFailing("commit mark");
    const { ino } = statSync(journalPath(workspace));
    await journal.appendForGood(COMMIT, "commit mark");
    expect(journal.state.commit).toEqual(COMMIT);
    expect(statSync(journalPath(workspace)).ino).not.toBe(ino);
    expect(await typesIn(workspace)).toEqual(["begin", "commit"]);
    await journal.close();
  });

  test("says that a commit mark is in doubt when the rescue fails as well", async () => {
    const workspace = makeJournalFolder();
    let isBroken = false;
    const storage = failAt(workspace.storage, ({ name }) => isBroken && name === "file.flush", BROKEN);
    const journal = await Journal.create({ ...workspace, storage }, BEGIN, []);
    isBroken = true;
    const failure = await failureOf(async () => await journal.appendForGood(COMMIT, "commit mark"));
    expect(failure).toMatchObject({ code: "E_UNFINISHED", changed: true });
    await journal.close();
  });

  test("says that a commit mark is in doubt when the name of its new file is not durable", async () => {
    const workspace = makeJournalFolder();
    const lines = encodeLines([BEGIN, planRecord(0)]);
    writeFileSync(journalPath(workspace), Buffer.concat([lines[0]!, lines[1]!.subarray(0, 9)]), {
      mode: 0o600,
    });
    const storage = failAt(workspace.storage, ({ purpose }) => purpose === "journal name", BROKEN);
    const torn = await Journal.open({ ...workspace, storage }, ID);
    const failure = await failureOf(async () => await torn?.appendForGood(COMMIT, "commit mark"));
    expect(failure.code).toBe("E_UNFINISHED");
    expect(await typesIn(workspace)).toEqual(["begin", "commit"]);
    await torn?.close();
  });

  test("takes back a commit mark that could not even be written", async () => {
    const workspace = makeJournalFolder();
    let isFull = false;
    const full = new ImgtxError("E_NO_SPACE", "full");
    const storage = failAt(workspace.storage, ({ name }) => isFull && name === "file.write", full);
    const journal = await Journal.create({ ...workspace, storage }, BEGIN, []);
    isFull = true;
    expect(await failureOf(async () => await journal.appendForGood(COMMIT, "commit mark"))).toBe(full);
    expect(journal.state.commit).toBeUndefined();
    expect(await typesIn(workspace)).toEqual(["begin"]);
    await journal.close();
  });

  test("whose name could not be made durable is taken back, durably: the name may be on the disk all the same", async () => {
    const workspace = makeJournalFolder();
    const calls: string[] = [];
    const storage = watchStorage(workspace.storage, ({ name, purpose }) => {
      calls.push(purpose ?? name);
      if (purpose === "journal name") throw BROKEN;
    });
    await expect(Journal.create({ ...workspace, storage }, BEGIN, [])).rejects.toBe(BROKEN);
    expect(readdirSync(`${workspace.root}/.imgtx/journal`)).toEqual([]);
    expect(calls.slice(-2)).toEqual(["removeFile", "journal taken back"]);
  });

  test("that never got its name leaves a file that the next command clears away, and no lock", async () => {
    const workspace = makeJournalFolder();
    const storage = killAt(workspace.storage, ({ name }) => name === "rename");
    await expect(Journal.create({ ...workspace, storage }, BEGIN, [])).rejects.toThrow("killed");
    expect(existsSync(journalPath(workspace))).toBe(false);
    expect(storage.openFiles.size).toBe(0);
    const journal = await Journal.create(workspace, BEGIN, []);
    await journal.close();
    expect(readdirSync(`${workspace.root}/.imgtx/journal`)).toEqual([`${ID}.journal`]);
  });
});

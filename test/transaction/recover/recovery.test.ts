// What the next command makes of a dead one, one example of each note. The crash rigs go through all
// instants; here one can read what happens at a few.

import { chmodSync, existsSync, linkSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { beginTransaction, openSession } from "../../../src/transaction/index.ts";
import { snapshotTree, snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import {
  type Call,
  failAt,
  Killed,
  isShowing,
  killAt,
  watchStorage,
} from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, NO_WAIT, type Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const GROUP = { vda: "a1.qcow2", vdb: "b1.qcow2" };

/** Runs a command that is killed before the call. */
async function die(
  bench: Workbench,
  at: (call: Call) => boolean,
  command: (dying: Workbench) => Promise<unknown>,
): Promise<void> {
  // After the commit mark every failure is told as "not finished", a death as well: it is the cause then.
  await expect(command(bench.through(killAt(bench.storage, at)))).rejects.toSatisfy(
    (error) => error instanceof Killed || (error instanceof Error && error.cause instanceof Killed),
  );
}

const atFlush =
  (purpose: string) =>
  (call: Call): boolean =>
    call.purpose === purpose;
const atRename =
  (end: string) =>
  (call: Call): boolean =>
    call.name.startsWith("rename") && call.path.endsWith(end);

function journals(bench: Workbench): string[] {
  return readdirSync(bench.at(".imgtx/journal"));
}

/** Recovery says this, once; another look finds nothing and writes nothing. */
async function expectRecovered(bench: Workbench, did: string, words: RegExp): Promise<void> {
  const { recovered } = await bench.session();
  expect(recovered.map((note) => note.did)).toEqual([did]);
  expect(recovered[0]?.text).toMatch(words);
  expect(recovered[0]?.text).not.toContain("\n");
  const settled = snapshotTree(bench.root);
  expect((await bench.session()).recovered).toEqual([]);
  expect(snapshotTree(bench.root)).toEqual(settled);
}

describe("a command that was killed", () => {
  test.each<[string, (call: Call) => boolean]>([
    ["while it filled its files", (call) => call.name === "file.write" && call.path.endsWith("-0-1")],
    ["before its files were durable", atFlush("new image")],
    ["before it knew its files by inode", atFlush("prepared")],
    ["before the first file had its name", atRename("a1.qcow2")],
    ["between the names of two files", atRename("b1.qcow2")],
    ["before the names were durable", atFlush("new image's name")],
    ["before its commit mark", atFlush("next table")],
  ])("%s is undone: 'aborted'", async (_, at) => {
    const bench = await makeWorkbench();
    const before = snapshotWorkspace(bench.root);
    await die(bench, at, async (dying) => await dying.snapshot(GROUP));
    await expectRecovered(
      bench,
      "aborted",
      /undid transaction \w+ \(snapshot-group vda vdb\).*no disk was changed/,
    );
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    expect(journals(bench)).toEqual([]);
  });

  test.each<[string, (call: Call) => boolean]>([
    ["before the history had its name", atRename("/000003.json")],
    ["between the history and the table", atRename("/table.json")],
    ["before the table's name was durable", atFlush("next table's name")],
    ["before the view was shown", isShowing],
    ["before its journal was gone", (call) => call.name === "removeFile" && call.path.endsWith(".journal")],
  ])("%s, after its commit mark, is finished: 'finished'", async (_, at) => {
    const bench = await makeWorkbench();
    await die(bench, at, async (dying) => await dying.snapshot(GROUP));
    await expectRecovered(
      bench,
      "finished",
      /finished transaction \w+ \(snapshot-group vda vdb\).*generation 4/,
    );
    expect(await bench.images()).toEqual({ vda: "a1.qcow2", vdb: "b1.qcow2", vdc: "c.qcow2" });
    expect(journals(bench)).toEqual([]);
  });

  test("amid a statement of an open transaction loses that statement: 'undone'", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    const before = snapshotWorkspace(bench.root);
    await die(
      bench,
      atRename("b1.qcow2"),
      async (dying) => await dying.snapshot({ vda: "a2.qcow2", vdb: "b1.qcow2" }),
    );
    await expectRecovered(
      bench,
      "undone",
      /undid the interrupted 'snapshot-group' in transaction \w+, which stays open/,
    );
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    await bench.commit();
    expect(await bench.images()).toEqual({ vda: "a1.qcow2", vdb: "b.raw", vdc: "c.qcow2" });
  });

  test("amid a statement of a transaction that aborts on errors ends it: 'aborted'", async () => {
    const bench = await makeWorkbench();
    const before = snapshotWorkspace(bench.root);
    await bench.begin(undefined, "abort");
    await bench.snapshot({ vda: "a1.qcow2" });
    await die(bench, atFlush("new image"), async (dying) => await dying.snapshot({ vdb: "b1.qcow2" }));
    await expectRecovered(bench, "aborted", /aborted transaction/);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test.each([
    ["amid an abort", async (dying: Workbench) => await dying.abort()],
    ["amid a rollback to a savepoint", async (dying: Workbench) => await dying.rollbackTo("here")],
  ])("%s goes on with it", async (_, command) => {
    const bench = await makeWorkbench();
    const before = snapshotWorkspace(bench.root);
    await bench.begin();
    await bench.savepoint("here");
    await bench.snapshot(GROUP);
    await die(bench, (call) => call.name === "removeFile" && call.path.endsWith("b1.qcow2"), command);
    expect((await bench.session()).recovered).toHaveLength(1);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("as the owner of a txn exec takes the transaction with it: 'aborted'", async () => {
    const bench = await makeWorkbench();
    const before = snapshotWorkspace(bench.root);
    const choice = { name: undefined, onError: "keep", owned: true } as const;
    const { description, ...owner } = await beginTransaction(await bench.session(), choice, NO_WAIT);
    await bench.snapshot(GROUP, {}, { transaction: description.id });
    expect((await bench.session()).recovered).toEqual([]);
    await owner.release();
    await expectRecovered(bench, "aborted", /undid transaction/);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });
});

describe("a journal that comes back", () => {
  /** The journal as it was when the command was about to remove it: the same file, as after a power cut. */
  async function keepJournal(bench: Workbench, command: (watched: Workbench) => Promise<unknown>) {
    let kept: { path: string; bytes: Uint8Array } | undefined;
    const held = `${makeFolder()}/held`;
    const storage = watchStorage(bench.storage, ({ name, path }) => {
      if (name !== "removeFile" || !path.endsWith(".journal")) return;
      kept = { path, bytes: readFileSync(path) };
      linkSync(path, held);
    });
    await command(bench.through(storage));
    if (!kept) throw new Error("no journal was removed");
    const { path, bytes } = kept;
    const restore = (content: Uint8Array): void => {
      writeFileSync(held, content);
      linkSync(held, path);
    };
    return { bytes, restore };
  }

  test("with its commit mark changes nothing more, however far the table has gone", async () => {
    const bench = await makeWorkbench();
    const { bytes, restore } = await keepJournal(bench, async (watched) => await watched.snapshot(GROUP));
    await bench.snapshot({ vda: "a2.qcow2" });
    const before = snapshotWorkspace(bench.root);
    restore(bytes);
    await expectRecovered(bench, "finished", /generation 5/);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("without it, though its generation is in the history, takes nothing away: 'retired'", async () => {
    const bench = await makeWorkbench();
    const { bytes, restore } = await keepJournal(bench, async (watched) => await watched.snapshot(GROUP));
    await bench.snapshot({ vda: "a2.qcow2" });
    const before = snapshotWorkspace(bench.root);
    restore(bytes.subarray(0, bytes.length - 3));
    await expectRecovered(bench, "retired", /cleared away the journal/);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("beside a table that was put back from an older copy is left alone, and nothing is touched", async () => {
    const bench = await makeWorkbench();
    const table = readFileSync(bench.at(".imgtx/table.json"));
    await bench.snapshot({ vda: "a1.qcow2" });
    const { bytes, restore } = await keepJournal(
      bench,
      async (watched) => await watched.snapshot({ vdb: "b1.qcow2" }),
    );
    restore(bytes);
    writeFileSync(bench.at(".imgtx/table.json"), table);
    const before = snapshotTree(bench.root, [".imgtx/journal"]);
    const place = { ...NO_WAIT, startFolder: bench.root, workspace: undefined, createHere: false };
    const looked = await openSession(bench.storage, { ...place, caller: "reader" });
    expect(looked.recovered).toMatchObject([{ did: "reported" }]);
    expect(await failureOf(async () => await bench.snapshot({ vdb: "b2.qcow2" }))).toMatchObject({
      code: "E_REFUSED",
    });
    expect(snapshotTree(bench.root, [".imgtx/journal"])).toEqual(before);
  });
});

describe("a disk that fails", () => {
  const BROKEN = new ImgtxError("E_IO", "Could not flush: Input/output error");

  test("after the commit mark gives its own status, and the next command finishes", async () => {
    const bench = await makeWorkbench();
    const failing = bench.through(failAt(bench.storage, atFlush("next table's name"), BROKEN));
    const failure = await failureOf(async () => await failing.snapshot(GROUP));
    expect(failure).toMatchObject({ code: "E_UNFINISHED", exitCode: 16, changed: true });
    await expectRecovered(bench, "finished", /generation 4/);
    expect((await bench.images())["vda"]).toBe("a1.qcow2");
  });

  test("at the commit mark once is worked around, and the command succeeds", async () => {
    const bench = await makeWorkbench();
    const failing = bench.through(failAt(bench.storage, atFlush("commit mark"), BROKEN));
    expect(await failing.snapshot(GROUP)).toMatchObject({ changed: true, generation: 4 });
    expect(journals(bench)).toEqual([]);
  });

  test("at the commit mark for good leaves the outcome to the next command, which decides once", async () => {
    const bench = await makeWorkbench();
    let isBroken = false;
    const storage = watchStorage(bench.storage, (call) => {
      isBroken ||= call.purpose === "commit mark";
      if (isBroken && (call.name === "file.flush" || call.name === "flushFolder")) throw BROKEN;
    });
    const failure = await failureOf(async () => await bench.through(storage).snapshot(GROUP));
    expect(failure).toMatchObject({ code: "E_UNFINISHED", exitCode: 16 });
    await expectRecovered(bench, "finished", /generation 4/);
    expect((await bench.images())["vda"]).toBe("a1.qcow2");
  });

  test("beside the commit mark, in the history, is worked around, and the command succeeds", async () => {
    const bench = await makeWorkbench();
    let failures = 0;
    const failing = bench.through(
      failAt(
        bench.storage,
        (call) => call.purpose === "earlier generation's name" && (failures += 1) === 1,
        BROKEN,
      ),
    );
    expect(await failing.snapshot(GROUP)).toMatchObject({ changed: true, generation: 4 });
    expect(journals(bench)).toEqual([]);
  });

  test.each([
    "journal content",
    "new image",
    "prepared",
    "new image's name",
    "earlier generation",
    "next table",
  ])("at the flush of the %s rolls everything back", async (purpose) => {
    const bench = await makeWorkbench();
    const before = snapshotWorkspace(bench.root);
    const failing = bench.through(failAt(bench.storage, atFlush(purpose), BROKEN));
    expect(await failureOf(async () => await failing.snapshot(GROUP))).toMatchObject({
      code: "E_IO",
      changed: false,
    });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    expect((await bench.session()).recovered).toEqual([]);
  });

  test("when a savepoint is made leaves no savepoint behind, though its journal was written anew", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot(GROUP);
    const before = await bench.open();
    let failures = 0;
    const once = (call: Call) => call.purpose === "journal name" && (failures += 1) === 1;
    const failing = bench.through(failAt(bench.storage, once, BROKEN));
    await expect(failing.savepoint("here")).rejects.toBe(BROKEN);
    expect(await bench.open()).toEqual(before);
  });

  test("at the last record of a statement does not leave a statement without its files", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    const before = snapshotWorkspace(bench.root);
    let isBroken = false;
    const storage = watchStorage(bench.storage, (call, kill) => {
      if (isBroken && call.name === "flushFolder" && call.purpose === "removed images") kill();
      if (call.purpose !== "done") return;
      isBroken = true;
      throw BROKEN;
    });
    await expect(bench.through(storage).snapshot(GROUP)).rejects.toThrow();
    await bench.session();
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    expect(await bench.open()).toMatchObject([{ devices: [], actions: [] }]);
  });
});

test("a staging file that somebody removed is no hindrance", async () => {
  const bench = await makeWorkbench();
  const before = snapshotWorkspace(bench.root);
  await die(bench, atFlush("prepared"), async (dying) => await dying.snapshot(GROUP));
  for (const name of readdirSync(bench.root).filter((each) => each.startsWith(".imgtx-")))
    rmSync(bench.at(name));
  expect((await bench.session()).recovered).toHaveLength(1);
  expect(snapshotWorkspace(bench.root)).toEqual(before);
});

test("a command that can't finish another's commit for want of space says that it waits", async () => {
  const bench = await makeWorkbench();
  await die(bench, atRename("/table.json"), async (dying) => await dying.snapshot(GROUP));
  const full = new ImgtxError("E_NO_SPACE", "No space left on device");
  const storage = failAt(bench.storage, ({ name }) => name === "createFile", full);
  const [note] = (await bench.through(storage).session()).recovered;
  expect(note).toMatchObject({
    did: "waiting",
    obstacle: { code: "E_NO_SPACE", isCommitted: true, devices: ["vda", "vdb"] },
  });
  expect(note?.text).toMatch(
    /^transaction \w+ \(snapshot-group vda vdb\) is committed, and can't be finished yet: No space/,
  );
  expect((await bench.through(storage).devices()).map(({ name }) => name)).toEqual(["vda", "vdb", "vdc"]);
  expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
});

test("a folder that can't be written to any more is said, and nothing is given up", async () => {
  const bench = await makeWorkbench();
  await die(bench, atRename("b1.qcow2"), async (dying) => await dying.snapshot(GROUP));
  const readOnly = new ImgtxError("E_READ_ONLY", "Read-only file system", { image: bench.at(".imgtx/lock") });
  const frozen = failAt(
    bench.storage,
    ({ name, path }) => name === "openFile" && path.endsWith("/lock"),
    readOnly,
  );
  const before = snapshotTree(bench.root);
  const { recovered } = await bench.through(frozen).session();
  expect(recovered).toMatchObject([{ did: "reported", transaction: null }]);
  expect(recovered[0]?.text).toContain("nothing was changed");
  expect(snapshotTree(bench.root)).toEqual(before);
  expect(existsSync(bench.at("a1.qcow2"))).toBe(true);
  chmodSync(bench.root, 0o755);
  expect((await bench.session()).recovered).toMatchObject([{ did: "aborted" }]);
});

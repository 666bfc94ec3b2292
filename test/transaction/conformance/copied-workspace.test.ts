// A workspace knows itself: what cp or a backup made of it is read, and nothing in it is finished or undone.

import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { adoptWorkspace, openSession } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { type Call, killAt, Killed, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, NO_WAIT, Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const FORGET = { ...NO_WAIT, moved: false, dryRun: false };

/** A workspace in a folder of its own, whose image and overlays lie beside it. */
async function makeBeside(): Promise<{ bench: Workbench; at: (name: string) => string }> {
  const folder = makeFolder();
  mkdirSync(`${folder}/ws`);
  const bench = new Workbench(`${folder}/ws`);
  bench.makeQcow2(`${folder}/a.qcow2`, 2);
  await bench.add("vda", `${folder}/a.qcow2`);
  return { bench, at: (name) => `${folder}/${name}` };
}

function copy(source: string, target: string): void {
  execFileSync("cp", ["-a", source, target]);
}

/** What a command that reads is told. One that changes something is refused instead, by the same reason. */
async function seenByReaders(bench: Workbench) {
  const place = { ...NO_WAIT, startFolder: bench.root, workspace: undefined, createHere: false };
  return (await openSession(bench.storage, { ...place, caller: "reader" })).recovered;
}

/** A disk that gives no stable inode numbers, as exFAT and FUSE. */
function forgetful(): Storage {
  const storage = makeNodeStorage();
  const traits = { keepsInodes: false, keepsModes: true, sharesLocks: true };
  return { ...storage, describeFileSystem: async () => traits };
}

/** Rewrites the table as an imgtx wrote it that knew no marks. */
function removeMark(root: string): void {
  rewriteTable(root, ({ mark: _mark, workspaceId: _id, ...older }) => older);
}

/** The same as one that kept nothing of the table's folder. */
function removeFolderMark(root: string): void {
  rewriteTable(root, (table) => {
    const { folder: _folder, ...mark } = table["mark"] as Record<string, unknown>;
    return { ...table, mark };
  });
}

function rewriteTable(root: string, change: (table: Record<string, unknown>) => object): void {
  const file = `${root}/.imgtx/table.json`;
  const { table } = JSON.parse(readFileSync(file, "utf8")) as { table: Record<string, unknown> };
  const content = JSON.stringify(change(table));
  const sha256 = createHash("sha256").update(content).digest("hex");
  writeFileSync(file, `{"sha256":"${sha256}","table":${content}}\n`);
}

describe("a copy of a workspace with an open transaction", () => {
  test("is read, says what it is, and takes nothing from the original", async () => {
    const { bench, at } = await makeBeside();
    await bench.begin();
    await bench.snapshot({ vda: at("a1.qcow2") });
    copy(bench.root, at("backup"));
    await bench.commit();

    const backup = new Workbench(at("backup"));
    const notes = await seenByReaders(backup);
    expect(notes).toMatchObject([{ did: "reported", transaction: null }]);
    expect(notes[0]?.text).toContain(`imgtx init --adopt ${at("backup")}`);
    // Said once: by the refusal, to who would change something.
    expect((await backup.session()).recovered).toEqual([]);
    expect((await failureOf(async () => await backup.begin())).hint).toContain("imgtx init --adopt");
    expect(await new Workbench(at("backup")).images()).toEqual({ vda: "../a.qcow2" });
    expect(existsSync(at("a1.qcow2"))).toBe(true);
    expect(await bench.images()).toEqual({ vda: "../a1.qcow2" });
    expect((await bench.session()).recovered).toEqual([]);
  });

  test.each([
    ["snapshot", (one: Workbench, at: (name: string) => string) => one.snapshot({ vda: at("x.qcow2") })],
    ["begin", (one: Workbench) => one.begin()],
    ["commit", (one: Workbench) => one.commit()],
    ["abort", (one: Workbench) => one.abort()],
    ["savepoint", (one: Workbench) => one.savepoint("here")],
    ["device remove", (one: Workbench) => one.remove("vda")],
  ] as const)("refuses %s, and no file of it or of the original changes", async (_, change) => {
    const { bench, at } = await makeBeside();
    await bench.begin();
    await bench.snapshot({ vda: at("a1.qcow2") });
    copy(bench.root, at("backup"));
    const before = readdirSync(at("backup/.imgtx"), { recursive: true });
    const failure = await failureOf(async () => await change(new Workbench(at("backup")), at));
    expect(failure).toMatchObject({ code: "E_REFUSED", changed: false });
    expect(failure.hint).toContain("imgtx init --adopt");
    expect(readdirSync(at("backup/.imgtx"), { recursive: true })).toEqual(before);
    expect(existsSync(at("a1.qcow2"))).toBe(true);
  });

  test("put back over the workspace is a copy too", async () => {
    const { bench, at } = await makeBeside();
    await bench.begin();
    await bench.snapshot({ vda: at("a1.qcow2") });
    copy(`${bench.root}/.imgtx`, at("backup"));
    await bench.commit();
    rmSync(`${bench.root}/.imgtx`, { recursive: true });
    copy(at("backup"), `${bench.root}/.imgtx`);
    expect(await failureOf(async () => await bench.abort())).toMatchObject({ code: "E_REFUSED" });
    expect(await seenByReaders(bench)).toMatchObject([{ did: "reported" }]);
    expect(existsSync(at("a1.qcow2"))).toBe(true);
  });
});

describe("a copy by hard links", () => {
  const link = (source: string, target: string) => execFileSync("cp", ["-al", source, target]);
  const refused = { code: "E_REFUSED", changed: false };

  test("is a copy, and the original is not", async () => {
    const { bench, at } = await makeBeside();
    link(bench.root, at("linked"));
    const linked = new Workbench(at("linked"));
    expect(await seenByReaders(linked)).toMatchObject([{ did: "reported" }]);
    expect(await failureOf(async () => await linked.snapshot({ vda: at("x.qcow2") }))).toMatchObject(refused);
    await bench.snapshot({ vda: at("a1.qcow2") });
    expect(await failureOf(async () => await linked.snapshot({ vda: at("x.qcow2") }))).toMatchObject(refused);
  });

  test.each([
    ["has moved away", (from: string, to: string) => renameSync(from, to)],
    [
      "has gone on and moved away",
      async (from: string, to: string, bench: Workbench) => {
        await bench.snapshot({ vda: `${from}/../a1.qcow2` });
        renameSync(from, to);
      },
    ],
  ] as const)("is a copy where the original %s", async (_, move) => {
    const { bench, at } = await makeBeside();
    link(bench.root, at("linked"));
    await move(bench.root, at("moved"), bench);
    const linked = new Workbench(at("linked"));
    expect(await failureOf(async () => await linked.snapshot({ vda: at("x.qcow2") }))).toMatchObject(refused);
    await new Workbench(at("moved")).snapshot({ vda: at("y.qcow2") });
  });

  test("by an imgtx that kept no folder is told by the original beside it", async () => {
    const { bench, at } = await makeBeside();
    removeFolderMark(bench.root);
    link(bench.root, at("linked"));
    const linked = new Workbench(at("linked"));
    expect(await failureOf(async () => await linked.snapshot({ vda: at("x.qcow2") }))).toMatchObject(refused);
    await bench.snapshot({ vda: at("a1.qcow2") });
  });
});

describe("a workspace stays itself", () => {
  test("when its folder is renamed with a transaction open", async () => {
    const { bench, at } = await makeBeside();
    await bench.begin();
    await bench.snapshot({ vda: at("a1.qcow2") });
    renameSync(bench.root, at("moved"));
    const moved = new Workbench(at("moved"));
    expect((await moved.session()).recovered).toEqual([]);
    await moved.commit();
    expect(await moved.images()).toEqual({ vda: "../a1.qcow2" });
  });

  test("renamed, with a copy of it in its old place, which is none", async () => {
    const { bench, at } = await makeBeside();
    renameSync(bench.root, at("moved"));
    copy(at("moved"), bench.root);
    expect((await new Workbench(at("moved")).session()).recovered).toEqual([]);
    expect(await seenByReaders(bench)).toMatchObject([{ did: "reported" }]);
  });

  test("where an older imgtx made it, and is known from its next commit on", async () => {
    const { bench, at } = await makeBeside();
    removeMark(bench.root);
    copy(bench.root, at("unmarked"));
    expect((await new Workbench(at("unmarked")).session()).recovered).toEqual([]);
    await bench.snapshot({ vda: at("a1.qcow2") });
    copy(bench.root, at("marked"));
    expect(await seenByReaders(new Workbench(at("marked")))).toMatchObject([{ did: "reported" }]);
    expect((await bench.session()).recovered).toEqual([]);
  });

  test("on a file system whose inode numbers mean nothing, unless the original is still where it was", async () => {
    const { bench, at } = await makeBeside();
    copy(bench.root, at("other"));
    const other = new Workbench(at("other"), forgetful());
    expect(await seenByReaders(other)).toMatchObject([{ did: "reported" }]);
    rmSync(bench.root, { recursive: true });
    expect((await other.session()).recovered).toEqual([]);
  });
});

describe("a journal that was put back beside a newer table", () => {
  async function putBack(): Promise<{ bench: Workbench; at: (name: string) => string; id: string }> {
    const { bench, at } = await makeBeside();
    const id = await bench.begin();
    await bench.snapshot({ vda: at("a1.qcow2") });
    copy(`${bench.root}/.imgtx/journal`, at("journals"));
    await bench.commit();
    copy(at(`journals/${id}.journal`), `${bench.root}/.imgtx/journal/${id}.journal`);
    return { bench, at, id };
  }

  test("is left alone with its files, and named by what it stops", async () => {
    const { bench, at, id } = await putBack();
    expect(await bench.images()).toEqual({ vda: "../a1.qcow2" });
    const failure = await failureOf(async () => await bench.abort(id));
    expect(failure).toMatchObject({ code: "E_JOURNAL" });
    expect(failure.hint).toContain("imgtx init --adopt");
    expect(existsSync(at("a1.qcow2"))).toBe(true);
  });

  test("is set aside by adoption, and the workspace goes on as it was", async () => {
    const { bench, at, id } = await putBack();
    const done = await adoptWorkspace(bench.storage, bench.root, FORGET);
    expect(done).toMatchObject({ changed: true, kept: [], forgotten: [{ id, what: "unreadable" }] });
    expect(readdirSync(`${bench.root}/.imgtx/given-up`)).toEqual([`${id}.journal`]);
    await bench.snapshot({ vda: at("a2.qcow2") });
    expect(existsSync(at("a1.qcow2"))).toBe(true);
  });
});

describe("adoption", () => {
  async function copied(): Promise<{
    one: Workbench;
    original: Workbench;
    at: (name: string) => string;
    id: string;
  }> {
    const { bench, at } = await makeBeside();
    const id = await bench.begin();
    await bench.snapshot({ vda: at("a1.qcow2") });
    copy(bench.root, at("copy"));
    return { one: new Workbench(at("copy")), original: bench, at, id };
  }

  test("forgets the open transactions, keeps their files and journals, and lets the copy work", async () => {
    const { one, original, at, id } = await copied();
    const done = await adoptWorkspace(one.storage, one.root, FORGET);
    expect(done).toMatchObject({
      changed: true,
      generation: 1,
      forgotten: [{ id, what: "snapshot vda", committed: false, files: [at("a1.qcow2")] }],
      devices: [{ device: "vda", image: at("a.qcow2") }],
    });
    expect(existsSync(at("a1.qcow2"))).toBe(true);
    expect(await one.open()).toEqual([]);
    await one.snapshot({ vda: at("b1.qcow2") });
    await original.commit();
    expect(await original.images()).toEqual({ vda: "../a1.qcow2" });
  });

  test("lets nothing be removed, or merged into, that the original may need", async () => {
    const { bench: original, at } = await makeBeside();
    await original.snapshot({ vda: at("a1.qcow2") });
    await original.snapshot({ vda: at("a2.qcow2") });
    copy(original.root, at("copy"));
    const one = new Workbench(at("copy"));
    await adoptWorkspace(one.storage, one.root, FORGET);
    // Where it can be asked, it says so itself.
    renameSync(original.root, at("away"));
    const inherited = ["a.qcow2", "a1.qcow2", "a2.qcow2"].map(at);
    const before = inherited.map((path) => readFileSync(path));
    const merging = {
      kind: "merge",
      devices: ["vda"],
      from: undefined,
      into: at("a.qcow2"),
      keep: false,
    } as const;
    expect(await failureOf(async () => await one.run(merging))).toMatchObject({
      code: "E_REFUSED",
      image: at("a2.qcow2"),
      changed: false,
    });
    // Once with the table of the adoption itself, and once with that in the history.
    await one.run({ kind: "rollback", devices: [], to: "2", isDiscarding: true });
    await one.run({ kind: "snapshot-delete", snapshots: ["1", "2"], devices: [], keepsImages: false });
    expect(await failureOf(async () => await one.undo(1))).toMatchObject({ code: "E_REFUSED" });
    expect(inherited.map((path) => readFileSync(path))).toEqual(before);
    // What it has made itself goes as ever.
    await one.snapshot({ vda: at("own.qcow2") });
    await one.run({ kind: "rollback", devices: [], to: undefined, isDiscarding: true });
    expect(existsSync(at("own.qcow2"))).toBe(false);
  });

  test("of a workspace that was moved by cp lets its transactions go on", async () => {
    const { one, original, at, id } = await copied();
    rmSync(original.root, { recursive: true });
    const done = await adoptWorkspace(one.storage, one.root, { ...FORGET, moved: true });
    expect(done).toMatchObject({ changed: true, forgotten: [], kept: [id] });
    await one.commit(id);
    expect(await one.images()).toEqual({ vda: "../a1.qcow2" });
    expect(existsSync(at("a1.qcow2"))).toBe(true);
  });

  test("of a workspace that was moved lets an action that made no file be undone", async () => {
    const { one, original, id } = await copied();
    rmSync(original.root, { recursive: true });
    await adoptWorkspace(one.storage, one.root, { ...FORGET, moved: true });
    const isPlanned = (call: Call) => call.name === "createFile" && call.path.includes(".imgtx-");
    const dying = one.through(killAt(one.storage, isPlanned));
    await expect(dying.snapshot({ vda: one.at("v2.qcow2") }, {}, { transaction: id })).rejects.toThrow(
      Killed,
    );
    // To another disk and back: its folder is another one by then.
    copy(one.root, `${one.root}-away`);
    rmSync(one.root, { recursive: true });
    renameSync(`${one.root}-away`, one.root);
    const done = await adoptWorkspace(one.storage, one.root, { ...FORGET, moved: true });
    expect(done.kept).toEqual([id]);
    expect((await one.session()).recovered).toMatchObject([{ did: "undone" }]);
    await one.abort(id);
    expect(await one.open()).toEqual([]);
  });

  test("changes nothing where it is only tried, and nothing in a workspace of its own", async () => {
    const { one, original, id } = await copied();
    const tried = await adoptWorkspace(one.storage, one.root, { ...FORGET, dryRun: true });
    expect(tried).toMatchObject({ changed: true, forgotten: [{ id }] });
    expect(await seenByReaders(one)).toMatchObject([{ did: "reported" }]);
    expect(await adoptWorkspace(original.storage, original.root, FORGET)).toMatchObject({
      changed: false,
      forgotten: [],
    });
    expect(await original.open()).toHaveLength(1);
  });

  test.each([false, true])(
    "cut off anywhere (moved: %s) leaves a copy, and is gone on with",
    async (moved) => {
      let calls = 0;
      const { one: first } = await copied();
      const counting = watchStorage(first.storage, () => {
        calls += 1;
      });
      await adoptWorkspace(counting, first.root, { ...FORGET, moved });
      for (let stop = 1; stop <= calls; stop += 1) {
        const { one, at, id } = await copied();
        let seen = 0;
        const dying = killAt(one.storage, () => {
          seen += 1;
          return seen === stop;
        });
        await expect(adoptWorkspace(dying, one.root, { ...FORGET, moved })).rejects.toThrow(Killed);
        await adoptWorkspace(one.storage, one.root, { ...FORGET, moved });
        expect((await one.session()).recovered).toEqual([]);
        expect((await one.open()).map((transaction) => transaction.id)).toEqual(moved ? [id] : []);
        expect(existsSync(at("a1.qcow2"))).toBe(true);
      }
    },
  );
});

test("the table names the file that it is in, generation by generation", async () => {
  const bench = await makeWorkbench();
  const marks: string[] = [];
  for (const name of ["a1.qcow2", "a2.qcow2"]) {
    await bench.snapshot({ vda: name });
    const file = `${bench.root}/.imgtx/table.json`;
    const text = readFileSync(file, "utf8");
    expect(text).toContain(`"inode":"${statSync(file).ino}"`);
    marks.push(/"workspaceId":"([a-z0-9]{10})"/.exec(text)?.[1] ?? "");
  }
  expect(marks[0]).not.toBe("");
  expect(new Set(marks).size).toBe(1);
});

// What imgtx made and nothing needs is removed, and all else stays: what anything needs, and what is in doubt.

import {
  appendFileSync,
  closeSync,
  cpSync,
  existsSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { adoptWorkspace, collectGarbage, type Garbage } from "../../../src/transaction/index.ts";
import { setAside } from "../../../src/transaction/recover/given-up.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { snapshotTree } from "../../helpers/tree.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { type Call, killAt, Killed } from "../../helpers/storage/watched-storage.ts";
import { writeGuest } from "../../helpers/transaction/mirroring.ts";
import { makeWorkbench, NO_WAIT, Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

async function collect(bench: Workbench, removes = true): Promise<Garbage> {
  return await collectGarbage(await bench.session(), { ...NO_WAIT, removes });
}

function names(bench: Workbench, { found }: Garbage): string[] {
  return found.map(({ path }) => path.replace(`${bench.root}/`, "")).sort();
}

/** a1.qcow2, taken back, and left behind by what came then. */
async function withOrphan(root?: string): Promise<Workbench> {
  const bench = await makeWorkbench(root);
  await bench.snapshot({ vda: "a1.qcow2" });
  await bench.undo();
  await bench.snapshot({ vda: "a2.qcow2" });
  return bench;
}

/** a1.qcow2 and b1.qcow2, of a transaction that nobody goes on with. */
async function withGivenUp(): Promise<Workbench> {
  const bench = await makeWorkbench();
  await bench.begin();
  await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" });
  const [journal = ""] = readdirSync(bench.at(".imgtx/journal"));
  await setAside({ storage: bench.storage, root: bench.root }, [journal.replace(".journal", "")]);
  return bench;
}

describe("garbage", () => {
  test("is an overlay that was taken back, once no redo leads to it, and what its snapshot kept beside", async () => {
    const bench = await makeWorkbench();
    const definition = bench.makeFile("web.xml", "<domain/>\n");
    await bench.snapshot({ vda: "a1.qcow2" }, { withFiles: [definition] });
    expect(await collect(bench)).toEqual({ found: [], stays: [], removed: true });
    await bench.undo();
    expect(await collect(bench)).toEqual({ found: [], stays: [], removed: true });
    await bench.snapshot({ vda: "a2.qcow2" });
    const [copy = ""] = readdirSync(bench.at(".imgtx/beside"));
    const expected = [`.imgtx/beside/${copy}`, "a1.qcow2"];
    expect(names(bench, await collect(bench, false))).toEqual(expected);
    for (const name of expected) expect(existsSync(bench.at(name))).toBe(true);
    expect(names(bench, await collect(bench))).toEqual(expected);
    for (const name of expected) expect(existsSync(bench.at(name))).toBe(false);
    expect(await collect(bench)).toEqual({ found: [], stays: [], removed: true });
    // All that was there before is, and works.
    await bench.rollback();
    await bench.undo();
  });

  test("is nothing that an undo, a snapshot, a device, a mirror or an open transaction needs", async () => {
    const bench = await makeWorkbench();
    bench.makeQcow2("other.qcow2", 9);
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.rollback();
    await bench.snapshot({ vdc: "c1.qcow2" });
    await bench.reopen("vdc", "other.qcow2");
    await bench.remove("vda");
    await bench.begin();
    await bench.snapshot({ vdb: "b1.qcow2" });
    expect(await collect(bench)).toEqual({ found: [], stays: [], removed: true });
  });

  test("is what a deleted snapshot kept, where that left images as they were: no undo goes past it", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.rollback();
    await bench.run({ kind: "device-rename", device: "vdb", name: "vdz" });
    // An undo goes back to a1.qcow2 yet.
    expect((await collect(bench)).found).toEqual([]);
    const newest = { kind: "snapshot-delete", snapshots: ["2"], devices: [], keepsImages: true } as const;
    await bench.run(newest);
    expect(await failureOf(async () => await bench.undo())).toMatchObject({ code: "E_REFUSED" });
    expect(names(bench, await collect(bench, false))).toEqual(["a1.qcow2"]);
    // Nor by way of what came later, and was taken back.
    await bench.snapshot({ vda: "a2.qcow2" });
    expect(names(bench, await collect(bench, false))).toEqual(["a1.qcow2"]);
    await bench.run({ kind: "device-rename", device: "vdc", name: "vdy" });
    await bench.undo();
    await bench.undo();
    expect(await failureOf(async () => await bench.undo())).toMatchObject({ code: "E_REFUSED" });
    expect(names(bench, await collect(bench))).toEqual(["a1.qcow2"]);
    expect(await collect(bench)).toEqual({ found: [], stays: [], removed: true });
  });

  qemu.test("is no overlay that a guest has written to, also where it was left by force", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    writeGuest(bench.at("a1.qcow2"), "qcow2", "write -P 7 0 64k");
    await bench.run({ kind: "undo", isForward: false, force: true });
    await bench.snapshot({ vda: "a2.qcow2" });
    const { found, stays } = await collect(bench);
    expect(found).toEqual([]);
    expect(stays).toEqual([{ path: bench.at("a1.qcow2"), why: expect.stringContaining("it holds data") }]);
  });

  test("is no file that took its name, and none that something stands on or somebody has open", async () => {
    const bench = await withOrphan();
    const file = bench.at("a1.qcow2");
    const handle = openSync(file, "r+");
    expect((await collect(bench)).found).toEqual([]);
    closeSync(handle);
    const above = bench.makeQcow2("clones/mine.qcow2", 5, { name: "../a1.qcow2", format: "qcow2" });
    expect((await collect(bench)).stays[0]?.why).toContain("mine.qcow2' stands on it");
    rmSync(above);
    cpSync(file, bench.at("copy"));
    rmSync(file);
    renameSync(bench.at("copy"), file);
    expect((await collect(bench)).stays).toEqual([{ path: file, why: "another file has its name" }]);
    expect(existsSync(file)).toBe(true);
  });

  test("is no overlay that a device uses by another name", async () => {
    const bench = await withOrphan();
    symlinkSync(bench.at("a1.qcow2"), bench.at("link.qcow2"));
    await bench.add("vdz", "link.qcow2");
    expect(await collect(bench)).toEqual({ found: [], stays: [], removed: true });
    expect(existsSync(bench.at("a1.qcow2"))).toBe(true);
  });

  test("is no overlay that a device of a workspace in a folder above stands on", async () => {
    const theirs = new Workbench(makeFolder());
    const bench = await withOrphan(theirs.at("inner"));
    theirs.makeQcow2("clone.qcow2", 7, { name: "inner/a1.qcow2", format: "qcow2" });
    await theirs.add("vdx", "clone.qcow2");
    const why = `device 'vdx' of the workspace '${theirs.root}' stands on it`;
    expect(await collect(bench)).toMatchObject({ found: [], stays: [{ path: bench.at("a1.qcow2"), why }] });
    expect(existsSync(bench.at("a1.qcow2"))).toBe(true);
  });

  test("is no overlay where an image that is needed may not be looked at, and else what it was", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" }, { withFiles: [bench.makeFile("web.xml", "<domain/>\n")] });
    await bench.undo();
    await bench.snapshot({ vda: "a2.qcow2" });
    const stat = async (path: string) => {
      if (path === bench.at("c.qcow2"))
        throw new ImgtxError("E_NO_PERMISSION", `nobody may look at '${path}'`);
      return await bench.storage.stat(path);
    };
    const session = await bench.session();
    const workspace = { ...session.workspace, storage: { ...session.workspace.storage, stat } };
    const { found, stays } = await collectGarbage({ ...session, workspace }, { ...NO_WAIT, removes: true });
    expect(found).toMatchObject([{ what: "file of a snapshot" }]);
    expect(stays).toEqual([
      { path: bench.at("c.qcow2"), why: expect.stringContaining("each overlay stays") },
    ]);
    expect(existsSync(bench.at("a1.qcow2"))).toBe(true);
    expect(names(bench, await collect(bench))).toEqual(["a1.qcow2"]);
  });

  test("of transactions that nothing is known of is named, and stays", async () => {
    const bench = await makeWorkbench();
    for (const name of [".imgtx-abcdefghij-0-0", ".imgtx-abcdefghij-0.redo", ".imgtx-not-ours"])
      bench.makeFile(name, "x");
    await bench.snapshot({ vda: "a1.qcow2" }, { withFiles: [bench.makeFile("web.xml", "<domain/>\n")] });
    bench.makeFile(".imgtx/beside/abcdefghij-7", "x");
    const { found, stays } = await collect(bench);
    expect(found).toEqual([]);
    expect(stays.map(({ path }) => path.replace(`${bench.root}/`, ""))).toEqual([
      ".imgtx/beside/abcdefghij-7",
      ".imgtx-abcdefghij-0-0",
      ".imgtx-abcdefghij-0.redo",
    ]);
  });

  test("is what a transaction has made that was given up before its mark, as it made it", async () => {
    const bench = await withGivenUp();
    const expected = ["a1.qcow2", "b1.qcow2"];
    const before = snapshotTree(bench.root, []);
    expect(names(bench, await collect(bench, false))).toEqual(expected);
    expect(snapshotTree(bench.root, [])).toEqual(before);
    expect(await collect(bench)).toMatchObject({ found: [{}, {}], stays: [], removed: true });
    for (const name of expected) expect(existsSync(bench.at(name))).toBe(false);
    expect(await collect(bench)).toEqual({ found: [], stays: [], removed: true });
    expect(await bench.images()).toEqual({ vda: "a.qcow2", vdb: "b.raw", vdc: "c.qcow2" });
  });

  test("of such a transaction goes with the next try, wherever the first one died", async () => {
    for (let at = 0; ; at += 1) {
      const bench = await withGivenUp();
      let calls = 0;
      const isLast = ({ name, purpose }: Call): boolean =>
        (name === "removeFile" || purpose === "garbage gone") && calls++ === at;
      const end = await collect(bench.through(killAt(bench.storage, isLast))).catch(
        (error: unknown) => error,
      );
      expect((await collect(bench)).stays).toEqual([]);
      const seen = readdirSync(bench.root).filter((name) => name.endsWith("1.qcow2"));
      expect([seen, await bench.images()]).toEqual([[], { vda: "a.qcow2", vdb: "b.raw", vdc: "c.qcow2" }]);
      if (!(end instanceof Killed)) break;
      expect(at).toBeLessThan(10);
    }
  });

  test("is nothing of one that anybody has changed, uses, has open, or stands on", async () => {
    const bench = await withGivenUp();
    const [a1, b1] = [bench.at("a1.qcow2"), bench.at("b1.qcow2")];
    const above = bench.makeQcow2("clones/mine.qcow2", 5, { name: "../a1.qcow2", format: "qcow2" });
    const file = openSync(b1, "r+");
    expect((await collect(bench)).stays.map(({ why }) => why)).toEqual([
      expect.stringContaining("in use by"),
      expect.stringContaining("mine.qcow2' stands on it"),
    ]);
    closeSync(file);
    rmSync(above);
    await bench.reopen("vda", "a1.qcow2");
    appendFileSync(b1, "x");
    const { found, stays } = await collect(bench);
    expect(found).toEqual([]);
    expect(stays).toEqual([{ path: b1, why: "somebody has written to it since imgtx made it" }]);
    expect(existsSync(a1)).toBe(true);
  });

  test("is nothing of one whose journal was put back, or came with a copy", async () => {
    const bench = await withGivenUp();
    const [journal = ""] = readdirSync(bench.at(".imgtx/given-up")).map((name) =>
      bench.at(`.imgtx/given-up/${name}`),
    );
    const copy = new Workbench(`${makeFolder()}/copy`);
    cpSync(bench.root, copy.root, { recursive: true, verbatimSymlinks: true });
    cpSync(journal, `${journal}.copy`);
    renameSync(`${journal}.copy`, journal);
    expect(await collect(bench)).toEqual({ found: [], stays: [], removed: true });
    await adoptWorkspace(copy.storage, copy.root, { ...NO_WAIT, moved: false, dryRun: false });
    expect(await collect(copy)).toEqual({ found: [], stays: [], removed: true });
    for (const one of [bench, copy]) expect(existsSync(one.at("a1.qcow2"))).toBe(true);
  });

  test("is not looked for where a journal or the record of a snapshot can't be read", async () => {
    const bench = await withOrphan();
    const [record = ""] = readdirSync(bench.at(".imgtx/snapshots")).toReversed();
    const kept = bench.at(`.imgtx/snapshots/${record}`);
    renameSync(kept, `${kept}.away`);
    expect(await failureOf(async () => await collect(bench))).toMatchObject({ code: "E_NOT_FOUND" });
    renameSync(`${kept}.away`, kept);
    writeFileSync(bench.at(".imgtx/journal/abcdefghij.journal"), "damaged");
    const { found, stays } = await collect(bench);
    expect(found).toEqual([]);
    expect(stays[0]?.path).toContain("abcdefghij.journal");
    expect(existsSync(bench.at("a1.qcow2"))).toBe(true);
  });

  test("is none that was made before the workspace was copied: it may be the original's", async () => {
    const images = makeFolder();
    const bench = new Workbench(makeFolder());
    await bench.add("vda", bench.makeQcow2(`${images}/a.qcow2`, 1));
    await bench.snapshot({ vda: `${images}/a1.qcow2` });
    const copy = new Workbench(`${makeFolder()}/copy`);
    cpSync(bench.root, copy.root, { recursive: true, verbatimSymlinks: true });
    await adoptWorkspace(copy.storage, copy.root, { ...NO_WAIT, moved: false, dryRun: false });
    await copy.run({ kind: "rollback", devices: [], to: "1", isDiscarding: true });
    await copy.snapshot({ vda: "a2.qcow2" });
    await copy.undo();
    await copy.snapshot({ vda: "a3.qcow2" });
    expect(names(copy, await collect(copy))).toEqual(["a2.qcow2"]);
    expect(existsSync(`${images}/a1.qcow2`)).toBe(true);
  });

  test("may be what came along in the folder of a copied workspace, which no redo goes to any more", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.undo();
    expect((await collect(bench)).stays).toEqual([]);
    const copy = new Workbench(`${makeFolder()}/copy`);
    cpSync(bench.root, copy.root, { recursive: true, verbatimSymlinks: true });
    await adoptWorkspace(copy.storage, copy.root, { ...NO_WAIT, moved: false, dryRun: false });
    // Its inode is not the one that imgtx made.
    const why = "another file has its name";
    expect((await collect(copy)).stays).toEqual([{ path: copy.at("a1.qcow2"), why }]);
  });
});

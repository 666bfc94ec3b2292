// Changes of images in place, in redo logs until the commit: an image is what it was before the mark, each statement sees
// what the ones before it leave, and no log stays.

import { readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { isFenced } from "../../helpers/transaction/freezing.ts";
import {
  IDENTICAL,
  listBitmaps,
  judge,
  mirror,
  redoLogs,
  stagingFiles,
  stateOf,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import { killAt, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

const cancel = async (bench: Workbench, options = {}) =>
  await bench.run({ kind: "mirror-cancel", devices: ["vda"] }, options);

describe("a change of an image in a transaction", () => {
  qemu.test("is taken back by a later statement: the image keeps no bitmap that nobody wants", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
    await cancel(bench);
    await bench.commit(id);
    expect(listBitmaps(bench.at("a.qcow2"))).toEqual([]);
    expect(isFenced(bench.at("a.qcow2"))).toBe(false);
    expect(redoLogs(bench)).toEqual([]);
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 0 64k", "read -P 9 0 64k");
  });

  qemu.test("touches the image after the mark alone, and its guest runs until then", async () => {
    const bench = await makeWorkbench();
    const before = stateOf(bench.at("a.qcow2"));
    const id = await bench.begin();
    await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
    expect(stateOf(bench.at("a.qcow2"))).toEqual(before);
    expect(redoLogs(bench)).toHaveLength(1);
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 64k 64k", "write -P 10 130k 40k");
    await bench.commit(id);
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    expect(listBitmaps(bench.at("a.qcow2"))).toHaveLength(2);
    expect(redoLogs(bench)).toEqual([]);
    expect(await mirror(bench, { vda: undefined })).toMatchObject({ changed: false });
  });

  qemu.test("goes back to a savepoint with the statements after it", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
    await bench.savepoint("tracked", id);
    await cancel(bench);
    await bench.rollbackTo("tracked", id);
    expect(redoLogs(bench)).toHaveLength(1);
    await bench.commit(id);
    expect(listBitmaps(bench.at("a.qcow2"))).toHaveLength(2);
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    expect(redoLogs(bench)).toEqual([]);
  });

  test("is read, whole, once by its commit", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
    const id = await bench.begin();
    await cancel(bench);
    const log = redoLogs(bench).map((name) => bench.at(name));
    const opened: string[] = [];
    const watched = watchStorage(bench.storage, ({ name, path: file }) => {
      if (name === "openFile" && file.endsWith(".redo")) opened.push(file);
    });
    await bench.through(watched).commit(id);
    expect(opened).toEqual(log);
    expect(redoLogs(bench)).toEqual([]);
    expect(watched.openFiles.size).toBe(0);
  });

  test("leaves nothing when it is aborted, or goes back to a savepoint before it", async () => {
    const bench = await makeWorkbench();
    const before = stateOf(bench.at("a.qcow2"));
    const id = await bench.begin();
    await bench.savepoint("start", id);
    await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
    await bench.rollbackTo("start", id);
    expect(redoLogs(bench)).toEqual([]);
    await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
    await bench.abort(id);
    expect(redoLogs(bench)).toEqual([]);
    expect(stagingFiles(bench)).toEqual([]);
    expect(stateOf(bench.at("a.qcow2"))).toEqual(before);
  });

  qemu.test("with its device going elsewhere is done when the table has moved", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
    const file = bench.at("m.qcow2");
    await bench.run({ kind: "reopen", device: "vda", file, format: undefined, force: false });
    await bench.commit(id);
    expect(isFenced(bench.at("a.qcow2"))).toBe(false);
    expect(redoLogs(bench)).toEqual([]);
    expect(listBitmaps(bench.at("a.qcow2"))).toHaveLength(2);
    writeGuest(bench.at("a.qcow2"), "qcow2", "read 0 64k");
  });

  test("is a few hundred bytes in the journal, whatever it is", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    const journal = path.join(bench.root, ".imgtx", "journal", `${id}.journal`);
    await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
    const line =
      readFileSync(journal, "utf8")
        .split("\n")
        .find((each) => each.includes('"prepared"')) ?? "";
    const { redo } = JSON.parse(line.slice(line.indexOf("{"))) as { redo: unknown[] };
    expect(redo).toHaveLength(1);
    expect(JSON.stringify(redo).length).toBeLessThan(500);
  });
});

describe("a commit that died after its mark", () => {
  /** Dies at the nth time that it would do this. */
  async function dieAt(purpose: string, nth = 1): Promise<Workbench> {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
    let seen = 0;
    const storage = killAt(makeNodeStorage(), (call) => {
      if (call.name === "file.flush" && call.purpose === purpose) seen += 1;
      return seen === nth;
    });
    await expect(bench.through(storage).commit(id)).rejects.toThrow("killed");
    return bench;
  }

  qemu.test.each([
    ["with a part of the log applied", "redo log: applied"],
    ["with its fence about to be lifted", "redo log: fence lifted"],
  ])("%s keeps guests out until it is finished", async (_, purpose) => {
    const bench = await dieAt(purpose);
    expect(redoLogs(bench)).toHaveLength(1);
    await bench.devices();
    expect(isFenced(bench.at("a.qcow2"))).toBe(false);
    expect(listBitmaps(bench.at("a.qcow2"))).toHaveLength(2);
    expect(redoLogs(bench)).toEqual([]);
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  qemu.test("leaves an image alone whose log is damaged, and has a way out", async () => {
    const bench = await dieAt("redo log: applied");
    const [log = ""] = redoLogs(bench);
    const bytes = readFileSync(bench.at(log));
    bytes.fill(1, bytes.length - 100);
    writeFileSync(bench.at(log), bytes);
    const before = readFileSync(bench.at("a.qcow2"));
    const [device] = (await bench.devices()).filter(({ name }) => name === "vda");
    expect(device).toMatchObject({ state: "waiting" });
    expect(device?.problems.join()).toContain("redo log");
    expect(readFileSync(bench.at("a.qcow2")).equals(before)).toBe(true);
    expect(await failureOf(async () => await cancel(bench))).toMatchObject({ code: "E_TRANSACTION" });
  });
});

test("a statement that can't change its image is refused by its plan, before anything is copied", async () => {
  const bench = await makeWorkbench();
  const image = bench.at("a.qcow2");
  const bytes = readFileSync(image);
  // Incompatible features: dirty.
  bytes.writeUInt8(1, 79);
  writeFileSync(image, bytes);
  const failure = await failureOf(async () => await mirror(bench, { vda: "m.qcow2" }, { bitmap: true }));
  expect(failure).toMatchObject({ code: "E_REFUSED" });
  expect(redoLogs(bench)).toEqual([]);
  expect(() => statSync(bench.at("m.qcow2"))).toThrow("ENOENT");
});

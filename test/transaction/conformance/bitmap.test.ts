// Persistent bitmaps of devices: what qemu-img makes of copies, for all devices of a transaction or for none, and
// believed by QEMU from the commit on.

import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { BitmapRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { marksOf } from "../../helpers/format/bitmap-oracle.ts";
import { oracle } from "../../helpers/oracles.ts";
import { run, runWell } from "../../helpers/qemu-programs.ts";
import {
  listBitmaps,
  mirror,
  redoLogs,
  stagingFiles,
  stateOf,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import { uncountLast } from "../../helpers/format/uncount.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

type Verb = "add" | "remove" | "clear" | "enable" | "disable" | "merge";

const request = (
  verb: Verb,
  devices: readonly string[],
  bitmap: string,
  how: Partial<BitmapRequest> = {},
): BitmapRequest => ({ kind: `bitmap-${verb}`, devices, bitmap, isDisabled: false, sources: [], ...how });

const BOTH = ["vda", "vdc"];
const IMAGES = ["a.qcow2", "c.qcow2"];

/** imgtx for both devices at once, qemu-img for copies of their images one by one. */
class Pair {
  readonly bench: Workbench;

  constructor(bench: Workbench) {
    this.bench = bench;
    for (const name of IMAGES) copyFileSync(bench.at(name), this.theirs(name));
  }

  theirs(name: string): string {
    return this.bench.at(`theirs-${name}`);
  }

  async change(verb: Verb, bitmap: string, options: readonly string[], how: Partial<BitmapRequest> = {}) {
    await this.bench.run(request(verb, BOTH, bitmap, how));
    const words = [`--${verb}`, ...options];
    for (const name of IMAGES) runWell("qemu-img", "bitmap", ...words, this.theirs(name), bitmap);
  }

  write(...commands: string[]): void {
    for (const name of IMAGES) {
      for (const image of [this.bench.at(name), this.theirs(name)]) writeGuest(image, "qcow2", ...commands);
    }
  }

  async judge(): Promise<void> {
    for (const name of IMAGES) {
      const [ours, theirs] = [this.bench.at(name), this.theirs(name)];
      expect(listBitmaps(ours)).toEqual(listBitmaps(theirs));
      for (const { name: bitmap } of listBitmaps(ours)) {
        expect(await marksOf(ours, bitmap), bitmap).toEqual(await marksOf(theirs, bitmap));
      }
      runWell("qemu-img", "check", "-q", ours);
      expect(run("qemu-img", "compare", ours, theirs).output).toContain("identical");
    }
    expect(redoLogs(this.bench)).toEqual([]);
  }
}

describe("bitmaps of a group", () => {
  qemu.test("are what qemu-img makes of copies, and QEMU goes on marking in them", async () => {
    const pair = new Pair(await makeWorkbench());
    await pair.change("add", "fine", ["-g", "512"], { granularityBytes: 512 });
    await pair.change("add", "plain", []);
    await pair.change("add", "off", ["--disable"], { isDisabled: true });
    pair.write("write -P 1 3k 9k", "write -P 2 100k 512");
    await pair.judge();
    await pair.change("disable", "fine", []);
    await pair.change("enable", "off", []);
    pair.write("write -P 3 64k 1k");
    await pair.change("merge", "off", ["fine"], { sources: [{ bitmap: "fine" }] });
    await pair.judge();
    await pair.change("clear", "plain", []);
    await pair.change("remove", "fine", []);
    pair.write("write -P 4 10k 512");
    await pair.judge();
  });

  qemu.test("change no image before the commit, and none at all where they are taken back", async () => {
    const bench = await makeWorkbench();
    const states = () => IMAGES.map((name) => stateOf(bench.at(name)));
    const before = states();
    const id = await bench.begin();
    await bench.run(request("add", BOTH, "one"));
    await bench.run(request("merge", BOTH, "one", { sources: [{ bitmap: "one" }] }));
    await bench.savepoint("here", id);
    await bench.run(request("remove", ["vda"], "one"));
    await bench.rollbackTo("here", id);
    await bench.run(request("disable", ["vda"], "one"));
    expect(states()).toEqual(before);
    await bench.abort(id);
    expect(states()).toEqual(before);
    expect(redoLogs(bench)).toEqual([]);
    const again = await bench.begin();
    await bench.run(request("add", BOTH, "one"));
    await bench.snapshot({ vda: "a1.qcow2" }, { bitmap: "one" });
    await bench.run(request("clear", ["vda"], "one"));
    await bench.commit(again);
    expect(listBitmaps(bench.at("a1.qcow2"))).toMatchObject([{ name: "one", flags: ["auto"] }]);
    expect(listBitmaps(bench.at("c.qcow2"))).toMatchObject([{ name: "one", flags: ["auto"] }]);
  });

  qemu.test("get the marks of another file, and of another device", async () => {
    const bench = await makeWorkbench();
    await bench.run(request("add", BOTH, "b0", { granularityBytes: 4096 }));
    for (const [index, name] of IMAGES.entries()) {
      writeGuest(bench.at(name), "qcow2", `write ${index * 100}k 8k`);
    }
    await bench.snapshot({ vda: "a1.qcow2" }, { bitmap: "b1" });
    writeGuest(bench.at("a1.qcow2"), "qcow2", "write 180k 4k");
    const before = IMAGES.map((name) => stateOf(bench.at(name)));
    const sources = [
      { bitmap: "b0", file: bench.at("a.qcow2") },
      { bitmap: "b0", device: "vdc" },
    ];
    await bench.run(request("merge", ["vda"], "b1", { sources }));
    expect(IMAGES.map((name) => stateOf(bench.at(name)))).toEqual(before);
    expect(await marksOf(bench.at("a1.qcow2"), "b1")).toEqual([
      { start: 0, lengthBytes: 8192 },
      { start: 102_400, lengthBytes: 8192 },
      { start: 184_320, lengthBytes: 4096 },
    ]);
    runWell("qemu-img", "check", "-q", bench.at("a1.qcow2"));
  });

  qemu.test("begin in the new active layers of a group snapshot, those that are taken included", async () => {
    const bench = await makeWorkbench();
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", bench.at("a1.qcow2"));
    await bench.snapshot({ vda: "a1.qcow2", vdc: "c1.qcow2" }, { bitmap: "night", reuse: true });
    for (const name of ["a1.qcow2", "c1.qcow2"]) {
      const image = bench.at(name);
      expect(listBitmaps(image)).toMatchObject([{ name: "night", flags: ["auto"] }]);
      expect(await marksOf(image, "night")).toEqual([]);
      writeGuest(image, "qcow2", "write 64k 4k");
      expect(await marksOf(image, "night")).toMatchObject([{ start: 65_536 }]);
      runWell("qemu-img", "check", "-q", image);
    }
    expect(listBitmaps(bench.at("a.qcow2"))).toEqual([]);
    expect((await bench.devices()).map(({ state }) => state)).toEqual(["ok", "ok", "ok"]);
  });

  qemu.test("leave a mirror in sync, and its own bitmap believed", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
    await bench.run(request("add", ["vda"], "b0"));
    expect(await mirror(bench, { vda: undefined })).toMatchObject({ changed: false });
    writeGuest(bench.at("a.qcow2"), "qcow2", "write 64k 1k");
    const { actions } = await mirror(bench, { vda: undefined });
    expect(actions[0]?.notes.join()).not.toContain("compared");
    expect(listBitmaps(bench.at("a.qcow2")).map(({ name }) => name)).toContain("b0");
  });

  qemu.test("that are inconsistent can be removed, which says that a backup has to be whole", async () => {
    const bench = await makeWorkbench();
    await bench.run(request("add", BOTH, "b0"));
    setInUse(bench.at("a.qcow2"));
    for (const verb of ["clear", "enable", "disable", "merge"] as const) {
      const asked = request(verb, ["vdc", "vda"], "b0", { sources: [{ bitmap: "b0" }] });
      const expected = { code: "E_REFUSED", message: /^Bitmap 'b0' is inconsistent and cannot be used$/ };
      await refused(bench, asked, expected);
    }
    const { actions } = await bench.run(request("remove", BOTH, "b0"));
    expect(actions.map(({ notes }) => notes.length)).toEqual([1, 0]);
    expect(IMAGES.flatMap((name) => listBitmaps(bench.at(name)))).toEqual([]);
    runWell("qemu-img", "check", "-q", bench.at("a.qcow2"));
  });
});

/** As QEMU leaves its only bitmap where it dies. */
function setInUse(image: string): void {
  const bytes = readFileSync(image);
  const extension = bytes.indexOf(Buffer.from("23852875", "hex"));
  const directory = Number(bytes.readBigUInt64BE(extension + 24));
  bytes[directory + 15] = 1 | (bytes[directory + 15] ?? 0);
  writeFileSync(image, bytes);
}

async function refused(
  bench: Workbench,
  asked: Parameters<Workbench["run"]>[0],
  { code, message }: { code: string; message: RegExp },
): Promise<void> {
  const states = () => ["a.qcow2", "b.raw", "c.qcow2"].map((name) => stateOf(bench.at(name)));
  const before = states();
  for (const dryRun of [true, false]) {
    expect(await failureOf(async () => await bench.run(asked, { dryRun }))).toMatchObject({
      code,
      changed: false,
      message: expect.stringMatching(message) as string,
    });
  }
  expect(states()).toEqual(before);
  expect([...redoLogs(bench), ...stagingFiles(bench)]).toEqual([]);
}

describe("bitmaps are refused, in a dry run too, and nothing changed,", () => {
  test("for all devices where one is raw, has the name, or has it not", async () => {
    const bench = await makeWorkbench();
    await refused(bench, request("add", ["vda", "vdb"], "b"), { code: "E_UNSUPPORTED", message: /raw/ });
    await bench.run(request("add", ["vdc"], "b"));
    await refused(bench, request("add", BOTH, "b"), {
      code: "E_EXISTS",
      message: /^Bitmap already exists: b$/,
    });
    await refused(bench, request("clear", ["vdc", "vda"], "b"), {
      code: "E_NOT_FOUND",
      message: /^Dirty bitmap 'b' not found$/,
    });
    await refused(bench, request("add", ["vda", "vda"], "b"), { code: "E_DUPLICATE", message: /twice/ });
    const wrong: [Partial<BitmapRequest> & { bitmap: string }, RegExp][] = [
      [{ bitmap: "" }, /cannot be empty/],
      [{ bitmap: "n".repeat(1024) }, /exceeds maximum \(1023/],
      [{ bitmap: "g", granularityBytes: 1000 }, /power of 2 and at least 512/],
      [{ bitmap: "g", granularityBytes: 256 }, /power of 2 and at least 512/],
      [{ bitmap: "g", granularityBytes: 2 ** 32 }, /power of 2 and at least 512/],
    ];
    for (const [how, message] of wrong) {
      await refused(bench, request("add", BOTH, "", how), { code: "E_USAGE", message });
    }
    await bench.run(request("add", BOTH, "n".repeat(1023), { granularityBytes: 2 ** 31 }));
  });

  qemu.test("where the image is of version 2, or a frozen device's", async () => {
    const bench = await makeWorkbench();
    const old = bench.at("old.qcow2");
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", old, "1M");
    await bench.add("old", old);
    const message = /^Cannot store dirty bitmaps in qcow2 v2 files$/;
    await refused(bench, request("add", ["vda", "old"], "b"), { code: "E_UNSUPPORTED", message });
    const over = bench.snapshotRequest({ old: "old1.qcow2" }, { bitmap: "b" });
    await refused(bench, over, { code: "E_UNSUPPORTED", message });
    expect(run("qemu-img", "bitmap", "--add", old, "b").output).toContain("Cannot store dirty bitmaps");
    await bench.run({ kind: "freeze", devices: ["vdc"], strict: false });
    await refused(bench, request("add", BOTH, "b"), { code: "E_REFUSED", message: /frozen/ });
  });

  qemu.test("where clusters that nobody counted would be taken, as qemu-img takes them", async () => {
    const bench = await makeWorkbench();
    const [ours, theirs] = [bench.at("c.qcow2"), bench.at("theirs.qcow2")];
    uncountLast(ours);
    copyFileSync(ours, theirs);
    await refused(bench, request("add", BOTH, "b"), {
      code: "E_CORRUPT",
      message: /its refcount is 0; new data would land on what is there/,
    });
    const data = () => run("qemu-io", "-r", "-c", "read -v 160k 512", theirs).output.split("\n")[0];
    const before = data();
    run("qemu-img", "bitmap", "--add", theirs, "b");
    expect(data()).not.toBe(before);
  });
});

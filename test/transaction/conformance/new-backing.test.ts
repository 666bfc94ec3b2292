// Active layers on another backing image, or on none: what they show stays, and so does all else.

import { copyFileSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { describe, expect } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { giveUp, type RebaseRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { type Call, killAt, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { oracle } from "../../helpers/oracles.ts";
import { run, runWell, startQemuDaemon } from "../../helpers/qemu-programs.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import {
  atNthAfterMark,
  infoOf,
  listBitmaps,
  redoLogs,
  stateOf,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import { pull, rebase } from "../../helpers/transaction/new-backings.ts";
import { makeWorkbench, RUN_ALONE, Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io", "qemu-storage-daemon");
const [K, M] = [1024, 1024 ** 2];

/** How the active layers are made: the words of `qemu-img create`, and what else is done to them. */
const TOPS: Readonly<Record<string, { options: string; bitmap?: true }>> = {
  plain: { options: "cluster_size=64k", bitmap: true },
  v2: { options: "compat=0.10,cluster_size=4k" },
  small: { options: "cluster_size=1k,refcount_bits=1" },
  large: { options: "cluster_size=2M" },
  extended: { options: "cluster_size=16k,extended_l2=on" },
  lazy: { options: "cluster_size=4k,lazy_refcounts=on" },
  data: { options: "cluster_size=4k,data_file=FOLDER/NAME.data" },
};

const NAMES = Object.keys(TOPS);

/** base.raw <- low <- middle <- each of the tops, and other.qcow2, on base.raw too. Names are relative. */
async function makeDisks(names: readonly string[] = NAMES): Promise<Workbench> {
  const bench = new Workbench(makeFolder());
  const make = (name: string, size: string, options: string, below?: string): string => {
    const file = bench.at(name);
    const words = options.replace("FOLDER", bench.root).replace("NAME", name);
    const backing = below === undefined ? [] : ["-b", below, "-F", below.endsWith("raw") ? "raw" : "qcow2"];
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", words, ...backing, file, size);
    return file;
  };
  runWell("qemu-img", "create", "-q", "-f", "raw", bench.at("base.raw"), "5M");
  writeGuest(bench.at("base.raw"), "raw", "write -P 1 0 1M", "write -P 2 3M 2M");
  const low = make("low.qcow2", "4M", "cluster_size=4k", "base.raw");
  writeGuest(low, "qcow2", "write -P 3 512k 1M", "write -z 256k 64k", "write -P 1 0 64k");
  const middle = make("middle.qcow2", "3M", "cluster_size=64k", "low.qcow2");
  writeGuest(
    middle,
    "qcow2",
    "write -c -P 4 2M 64k",
    "write -P 5 1M 100k",
    "write -P 5 1600k 200k",
    "write -z 512k 128k",
  );
  const other = make("other.qcow2", "6M", "cluster_size=512", "base.raw");
  writeGuest(other, "qcow2", "write -P 3 512k 1M", "write -P 9 5M 100k");
  for (const name of names) {
    const { options, bitmap } = TOPS[name]!;
    const top = make(name, "5767168", options, "middle.qcow2");
    writeGuest(top, "qcow2", "write -P 6 1030k 70k", "write -z 2100k 100k", "write -P 7 5500k 50k");
    if (bitmap) runWell("qemu-img", "bitmap", "--add", "-g", "64k", top, "b0");
    writeGuest(top, "qcow2", "write -P 8 100k 1k");
    runWell("qemu-img", "convert", "-O", "raw", top, bench.at(`${name}.content`));
    copyFileSync(top, bench.at(`${name}.theirs`));
    await bench.add(name, name);
  }
  return bench;
}

function judge(bench: Workbench, backing: string | undefined): void {
  for (const name of NAMES) {
    const top = bench.at(name);
    runWell("qemu-img", "check", "-q", top);
    runWell("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", top, bench.at(`${name}.content`));
    expect(infoOf(top)["backing-filename"]).toBe(backing);
    if (TOPS[name]?.bitmap) expect(listBitmaps(top)).toMatchObject([{ name: "b0", flags: ["auto"] }]);
  }
  expect(redoLogs(bench)).toEqual([]);
}

const below = (bench: Workbench) =>
  ["base.raw", "low.qcow2", "middle.qcow2", "other.qcow2"].map((name) => stateOf(bench.at(name)));

describe("active layers of every layout show what they showed", () => {
  qemu.test(
    "pulled into down to a base, rebased onto another chain and back, and by themselves, all of them or none",
    async () => {
      const bench = await makeDisks();
      const [lower, before] = [below(bench), NAMES.map((name) => stateOf(bench.at(name)))];
      const id = await bench.begin();
      await bench.run(pull(NAMES, bench.at("low.qcow2")));
      expect(NAMES.map((name) => stateOf(bench.at(name)))).toEqual(before);
      await bench.commit(id);
      judge(bench, "low.qcow2");
      const rebaseAll = (onto: string, how?: Partial<RebaseRequest>) =>
        bench.run(NAMES.map((name) => rebase(name, bench.at(onto), how)));
      await rebaseAll("other.qcow2");
      judge(bench, "other.qcow2");
      await rebaseAll("base.raw", { format: "raw", isRelative: false });
      judge(bench, bench.at("base.raw"));
      await bench.run(pull(NAMES));
      judge(bench, undefined);
      await rebaseAll("middle.qcow2", { isRelative: true });
      judge(bench, "middle.qcow2");
      expect(below(bench)).toEqual(lower);
    },
  );

  qemu.test("and are not larger than what qemu-img makes of them", async () => {
    const bench = await makeDisks();
    const names = NAMES.filter((name) => name !== "data");
    await bench.run(names.map((name) => rebase(name, bench.at("other.qcow2"))));
    for (const name of names) {
      const theirs = bench.at(`${name}.theirs`);
      runWell("qemu-img", "rebase", "-f", "qcow2", "-b", "other.qcow2", "-F", "qcow2", theirs);
      const clusters = (file: string) =>
        (JSON.parse(runWell("qemu-img", "check", "--output=json", file)) as Record<string, number>)[
          "allocated-clusters"
        ]!;
      expect(clusters(bench.at(name)), name).toBeLessThanOrEqual(clusters(theirs));
    }
  });

  qemu.test("compressed where that is asked for, and by their name alone", async () => {
    const bench = await makeDisks(["plain"]);
    await bench.run(rebase("plain", bench.at("other.qcow2"), { isCompressed: true }));
    const top = bench.at("plain");
    runWell("qemu-img", "compare", "-q", top, bench.at("plain.content"));
    const { "compressed-clusters": compressed } = JSON.parse(
      runWell("qemu-img", "check", "--output=json", top),
    ) as Record<string, number>;
    expect(compressed).toBeGreaterThan(0);
    const copy = bench.at("copy.qcow2");
    copyFileSync(bench.at("other.qcow2"), copy);
    const outcome = await bench.run(rebase("plain", copy, { isUnsafe: true }));
    expect(outcome.actions[0]?.notes.join()).toMatch(/nothing was read or compared/);
    expect(infoOf(top)["backing-filename"]).toBe("copy.qcow2");
    runWell("qemu-img", "compare", "-q", top, bench.at("plain.content"));
  });
});

describe("a layer that is put elsewhere", () => {
  qemu.test("stands on a raw image that the operator named, wherever that is", async () => {
    const bench = await makeWorkbench();
    const outside = `${makeFolder()}/far.img`;
    copyFileSync(bench.at("b.raw"), outside);
    const content = (await bench.content())["vda"];
    const guessed = await failureOf(async () => await bench.run(rebase("vda", outside)));
    expect(guessed).toMatchObject({ code: "E_FORMAT_UNKNOWN" });
    await bench.run(rebase("vda", outside, { format: "raw" }));
    expect((await bench.content())["vda"]).toBe(content);
    expect((await bench.devices())[0]).toMatchObject({ state: "ok", chain: [{}, { image: outside }] });
    await bench.snapshot({ vda: "a1.qcow2" });
    expect((await bench.content())["vda"]).toBe(content);
  });

  qemu.test("may have lost what it stood on, where its name alone is to change", async () => {
    const bench = await makeWorkbench();
    const content = (await bench.content())["vda"];
    mkdirSync(bench.at("moved"));
    renameSync(bench.at("base.raw"), bench.at("moved/base.raw"));
    expect((await bench.devices())[0]).toMatchObject({ state: "missing" });
    const moved = rebase("vda", bench.at("moved/base.raw"), { format: "raw" });
    expect(await failureOf(async () => await bench.run(moved))).toMatchObject({ code: "E_NOT_FOUND" });
    await bench.run({ ...moved, isUnsafe: true });
    expect((await bench.content())["vda"]).toBe(content);
    expect((await bench.devices())[0]).toMatchObject({ state: "ok" });
    expect(infoOf(bench.at("a.qcow2"))["backing-filename"]).toBe("moved/base.raw");
  });

  qemu.test("keeps a relative name relative, from its own folder", async () => {
    const bench = await makeWorkbench();
    mkdirSync(bench.at("o"));
    await bench.snapshot({ vda: "a1.qcow2" }, { relative: true });
    await bench.snapshot({ vda: "o/a2.qcow2" }, { relative: true });
    await bench.run(pull(["vda"], bench.at("base.raw")));
    expect(infoOf(bench.at("o/a2.qcow2"))["backing-filename"]).toBe("../base.raw");
    await bench.run(rebase("vda", bench.at("c.qcow2"), { isRelative: true })).catch(() => undefined);
  });

  qemu.test("is none where nothing is below, or it stands there already: no generation", async () => {
    const bench = await makeWorkbench();
    expect(await bench.run(pull(["vdb", "vdc"]))).toMatchObject({ changed: false });
    expect(await bench.run(pull(["vda"], bench.at("base.raw")))).toMatchObject({ changed: false });
    const same = rebase("vda", bench.at("base.raw"), { format: "raw" });
    expect(await bench.run(same)).toMatchObject({ changed: false });
  });
});

describe("copying up that was cut off", () => {
  const SIZE = 16 * M;

  /** top <- middle, full of data, with a top of these options: pulled by a process that dies there, after the mark. */
  async function dieAt(options: string, isThere: (call: Call) => boolean): Promise<Workbench> {
    const bench = new Workbench(makeFolder());
    const [middle, top] = [bench.at("middle.qcow2"), bench.at("top.qcow2")];
    runWell("qemu-img", "create", "-q", "-f", "qcow2", middle, String(SIZE));
    writeGuest(middle, "qcow2", "write -P 1 0 8M", "write -P 2 8M 8M");
    const below = ["-b", "middle.qcow2", "-F", "qcow2"];
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, ...below, top);
    writeGuest(top, "qcow2", "write -P 3 5M 100k");
    runWell("qemu-img", "convert", "-O", "raw", top, bench.at("content"));
    await bench.add("vda", top);
    const dying = killAt(makeNodeStorage(), isThere);
    await expect(bench.through(dying).run(pull(["vda"]), { markEveryMs: 0 })).rejects.toThrow("killed");
    return bench;
  }

  function expectPulled(bench: Workbench): void {
    const top = bench.at("top.qcow2");
    runWell("qemu-img", "check", "-q", top);
    runWell("qemu-img", "compare", "-q", "-F", "raw", top, bench.at("content"));
    expect(infoOf(top)["backing-filename"]).toBeUndefined();
    expect(redoLogs(bench)).toEqual([]);
  }

  qemu.test("goes on where the journal says that it was durable, and reads nothing before", async () => {
    const bench = await dieAt("cluster_size=64k", atNthAfterMark("file.flush", "top.qcow2", 18));
    expect(run("qemu-img", "info", bench.at("top.qcow2")).output).toMatch(/frozen by imgtx/);
    let reads = 0;
    const counting = watchStorage(makeNodeStorage(), ({ name, path }) => {
      if (name === "file.read" && path.endsWith("middle.qcow2")) reads += 1;
    });
    expect((await bench.through(counting).session()).recovered).toMatchObject([{ did: "finished" }]);
    expectPulled(bench);
    const whole = await dieAt("cluster_size=64k", atNthAfterMark("file.write", "top.qcow2", 1));
    const before = reads;
    await whole.through(counting).session();
    expect(before).toBeLessThan((reads - before) / 2);
    expectPulled(whole);
  });

  qemu.test("takes what a guest wrote meanwhile to a version 2 image, which has no fence", async () => {
    const bench = await dieAt("compat=0.10,cluster_size=4k", atNthAfterMark("file.write", "top.qcow2", 40));
    const top = bench.at("top.qcow2");
    for (const [image, format] of [
      [top, "qcow2"],
      [bench.at("content"), "raw"],
    ] as const) {
      writeGuest(image, format, "write -P 9 100k 700k", "write -P 9 12M 1M", "write -P 0 15M 64k");
    }
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expectPulled(bench);
  });

  qemu.test(
    "waits while somebody writes to what is still to come, and needs nothing of it when all is up",
    async () => {
      const bench = await dieAt("cluster_size=64k", atNthAfterMark("file.write", "top.qcow2", 2));
      const daemon = await startQemuDaemon(bench.at("middle.qcow2"), makeFolder(), true);
      const { recovered } = await bench.session();
      expect(recovered).toMatchObject([{ did: "waiting", obstacle: { code: "E_LOCKED" } }]);
      await daemon.stop();
      expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
      expectPulled(bench);
      const late = await dieAt("cluster_size=64k", ({ purpose }) => purpose === "header staged");
      rmSync(late.at("middle.qcow2"));
      expect((await late.session()).recovered).toMatchObject([{ did: "finished" }]);
      expectPulled(late);
    },
  );

  qemu.test(
    "waits where what is still to come was changed, and given up leaves what shows what it did",
    async () => {
      const bench = await dieAt("cluster_size=64k", atNthAfterMark("file.write", "top.qcow2", 2));
      const middle = bench.at("middle.qcow2");
      runWell("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", middle);
      const { recovered } = await bench.session();
      expect(recovered).toMatchObject([{ did: "waiting", obstacle: { code: "E_CHANGED" } }]);
      runWell("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 64k", middle);
      await giveUp(await bench.session(), recovered[0]?.transaction ?? "", RUN_ALONE);
      await bench.run({ kind: "unfreeze", devices: ["vda"], force: true });
      runWell("qemu-img", "compare", "-q", "-F", "raw", bench.at("top.qcow2"), bench.at("content"));
      expect((await bench.devices())[0]).toMatchObject({ state: "ok", chain: [{}, { image: middle }] });
      await bench.run(pull(["vda"]));
      expectPulled(bench);
    },
  );
});

describe("what is reserved", () => {
  qemu.test(
    "is at least what is taken, and where both chains hold the same, no more than that needs",
    async () => {
      const bench = await makeDisks(["plain"]);
      const content = bench.at("plain.content");
      const asked: number[] = [];
      const withRoom = (freeBytes: number): Storage => ({
        ...makeNodeStorage(),
        reserveSpace: async (folder, lengthBytes, written) => {
          const isOfImage = written?.path === bench.at("plain");
          if (isOfImage && lengthBytes > freeBytes) {
            throw new ImgtxError("E_NO_SPACE", "full", { image: folder });
          }
          if (isOfImage) asked.push(lengthBytes);
          return { release: async () => await Promise.resolve() };
        },
      });
      const clusters = () => run("qemu-img", "map", "--output=json", bench.at("plain")).output;
      const before = clusters();
      // Much lies elsewhere in the copy, and nothing is missing.
      await bench.through(withRoom(0)).run(rebase("plain", content, { format: "raw" }));
      expect(asked.filter((lengthBytes) => lengthBytes > 0)).toEqual([]);
      expect(before).not.toBe("");
      runWell("qemu-img", "compare", "-q", "-F", "raw", bench.at("plain"), content);
      const size = () => Number(stateOf(bench.at("plain"))[1]);
      const start = size();
      await bench.through(withRoom(64 * M)).run(pull(["plain"]));
      expect(size() - start).toBeGreaterThan(64 * K);
      expect(asked.reduce((sum, lengthBytes) => sum + lengthBytes, 0)).toBeGreaterThanOrEqual(size() - start);
    },
  );
});

// Amended devices: the images are what qemu-img makes of copies, of every layout, for all devices of a transaction or for
// none.

import { copyFileSync, readFileSync, rmSync, statSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import type { AmendRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { run, runWell } from "../../helpers/qemu-programs.ts";
import { uncountLast } from "../../helpers/format/uncount.ts";
import { infoOf, redoLogs, stateOf, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { makeWorkbench, Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");
const M = 1024 ** 2;

type Wish = Omit<AmendRequest, "kind" | "devices">;
const request = (devices: readonly string[], wish: Wish): AmendRequest => ({
  kind: "amend",
  devices,
  ...wish,
});

/** Images by the words of `qemu-img create`, and what else is done to them. */
interface Layout {
  readonly options: string;
  readonly base?: true;
  readonly snapshots?: true;
  /** They have clusters of zeros, in tables that several of them have. */
  readonly zeros?: true;
  readonly bare?: true;
}

const LAYOUTS: Readonly<Record<string, Layout>> = {
  v2: { options: "compat=0.10,cluster_size=4k" },
  "v2-snapshots": { options: "compat=0.10,cluster_size=64k", snapshots: true },
  "v2-overlay": { options: "compat=0.10,cluster_size=8k", base: true },
  v3: { options: "cluster_size=64k" },
  small: { options: "cluster_size=512" },
  large: { options: "cluster_size=2M" },
  overlay: { options: "cluster_size=16k", base: true },
  snapshots: { options: "cluster_size=4k", snapshots: true, bare: true },
  zeros: { options: "cluster_size=4k", snapshots: true, zeros: true },
  "zeros-overlay": { options: "cluster_size=4k", base: true, snapshots: true, zeros: true },
  lazy: { options: "cluster_size=4k,lazy_refcounts=on" },
  narrow: { options: "cluster_size=512,refcount_bits=1", bare: true },
  "wide-overlay": { options: "cluster_size=4k,refcount_bits=64", base: true },
  bare: { options: "cluster_size=512", bare: true },
};

/** The wishes, in qemu-img's words and in ours, and of which layouts. */
const WISHES: readonly { words: string; wish: Wish; of: readonly string[] }[] = [
  {
    words: "compat=1.1",
    wish: { amendment: { version: 3 } },
    of: ["v2", "v2-snapshots", "v2-overlay", "v3"],
  },
  {
    words: "compat=0.10",
    wish: { amendment: { version: 2 } },
    of: ["v2", "v3", "small", "large", "overlay", "snapshots", "lazy", "zeros", "zeros-overlay"],
  },
  ...[1, 8, 64].map((bits) => ({
    words: `refcount_bits=${bits}`,
    wish: { amendment: { refcountOrder: Math.log2(bits) } },
    of: bits === 1 ? ["bare"] : ["v3", "small", "snapshots", "narrow", "overlay"],
  })),
  {
    words: "compat=1.1,refcount_bits=32,lazy_refcounts=on,size=9M",
    wish: { amendment: { version: 3, refcountOrder: 5, lazyRefcounts: true }, sizeBytes: 9 * M },
    of: ["v2", "v2-overlay", "v3", "small", "overlay"],
  },
  {
    words: "lazy_refcounts=off,refcount_bits=16,compat=0.10",
    wish: { amendment: { lazyRefcounts: false, refcountOrder: 4, version: 2 } },
    of: ["lazy", "narrow", "wide-overlay"],
  },
];

function makeImage(root: string, name: string): string {
  const { options, base, snapshots, zeros, bare } = LAYOUTS[name]!;
  const file = path.join(root, `${name}.qcow2`);
  const below = base ? ["-b", path.join(root, "base.raw"), "-F", "raw"] : [];
  runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, ...below, file, "3M");
  if (!bare) writeGuest(file, "qcow2", "write -c -P 9 0 2M");
  writeGuest(file, "qcow2", "write -P 7 3k 200k", "write -P 8 2047k 700k");
  if (zeros) writeGuest(file, "qcow2", "write -z 32k 64k", "write -z -u 2200k 64k", "write -z -u 2900k 32k");
  if (snapshots) runWell("qemu-img", "snapshot", "-c", "one", file);
  if (!bare) writeGuest(file, "qcow2", "write -z 64k 128k", "write -z -u 2304k 64k");
  if (zeros) for (const tag of ["two", "three"]) runWell("qemu-img", "snapshot", "-c", tag, file);
  writeGuest(file, "qcow2", "write -P 10 1500k 100k");
  return file;
}

/** What qemu-img says of it, without what depends on where clusters lie. */
function describeImage(image: string): unknown {
  const { snapshots = [], "format-specific": specific, ...rest } = infoOf(image);
  const listed = (snapshots as Record<string, unknown>[]).map((one) => ({
    ...one,
    "date-sec": 0,
    "date-nsec": 0,
  }));
  return [rest["virtual-size"], rest["backing-filename"], rest["backing-filename-format"], specific, listed];
}

describe("amended devices", () => {
  qemu.test.each(WISHES)("are what qemu-img makes of copies: $words", async ({ words, wish, of }) => {
    const bench = new Workbench(makeFolder());
    bench.makeFile("base.raw", Buffer.alloc(4 * M, 5));
    for (const name of of) await bench.add(name, makeImage(bench.root, name));
    for (const name of of) {
      for (const copy of ["theirs", "before"]) {
        copyFileSync(bench.at(`${name}.qcow2`), bench.at(`${name}.${copy}`));
      }
    }
    await bench.run(request(of, wish));
    for (const name of of) {
      const [ours, theirs, before] = ["qcow2", "theirs", "before"].map((end) =>
        bench.at(`${name}.${end}`),
      ) as [string, string, string];
      runWell("qemu-img", "amend", "-f", "qcow2", "-o", words, theirs);
      expect(describeImage(ours), name).toEqual(describeImage(theirs));
      expect(run("qemu-img", "compare", ours, theirs).output, name).toContain("identical");
      runWell("qemu-img", "check", "-q", ours);
      expect(statSync(ours).size, name).toBeLessThanOrEqual(statSync(theirs).size + M);
      const { snapshots, zeros } = LAYOUTS[name]!;
      for (const tag of [...(zeros ? ["two", "three"] : []), ...(snapshots ? ["one"] : [])]) {
        // QEMU overwrites with zeros what an earlier snapshot has as data.
        for (const image of [ours, before]) runWell("qemu-img", "snapshot", "-a", tag, image);
        expect(run("qemu-img", "compare", ours, before).output, name).toContain("identical");
        runWell("qemu-img", "check", "-q", ours);
      }
      writeGuest(ours, "qcow2", "write -P 11 0 3M", "read -P 11 0 3M");
      runWell("qemu-img", "check", "-q", ours);
    }
    expect(redoLogs(bench)).toEqual([]);
    expect((await bench.devices()).map(({ state }) => state)).toEqual(of.map(() => "ok"));
  });

  qemu.test("change no image before the commit, in any order with other changes", async () => {
    const bench = await makeWorkbench();
    const [a, c] = [bench.at("a.qcow2"), bench.at("c.qcow2")];
    const before = [stateOf(a), stateOf(c)];
    const steps = async (): Promise<void> => {
      await bench.run(request(["vda", "vdc"], { amendment: { version: 2 } }));
      await bench.run({
        kind: "internal-snapshot-create",
        devices: ["vda", "vdc"],
        snapshot: "one",
      });
      await bench.run(request(["vdc"], { amendment: { version: 3, refcountOrder: 6 } }));
    };
    const id = await bench.begin();
    await steps();
    expect([stateOf(a), stateOf(c)]).toEqual(before);
    await bench.abort(id);
    expect([stateOf(a), stateOf(c)]).toEqual(before);
    expect(redoLogs(bench)).toEqual([]);
    const content = await bench.content();
    const again = await bench.begin();
    await steps();
    await bench.commit(again);
    expect(infoOf(a)["format-specific"]).toMatchObject({ data: { compat: "0.10" } });
    expect(infoOf(c)["format-specific"]).toMatchObject({ data: { compat: "1.1", "refcount-bits": 64 } });
    for (const image of [a, c]) runWell("qemu-img", "check", "-q", image);
    expect(await bench.content()).toEqual(content);
    // A version that has no place for a fence, and one that has had none before.
    await bench.run(request(["vda"], { amendment: { version: 3 } }));
    runWell("qemu-img", "check", "-q", a);
  });

  qemu.test("keep their data file, by another name of it, and as a raw image or not", async () => {
    const bench = await makeWorkbench();
    const image = bench.at("d.qcow2");
    const options = `data_file=${bench.at("d.raw")},data_file_raw=on`;
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, "1M");
    writeGuest(image, "qcow2", "write -P 3 0 1M");
    await bench.add("vdd", image);
    runWell("ln", bench.at("d.raw"), bench.at("same.raw"));
    const amendment = { dataFileName: bench.at("same.raw"), dataFileRaw: false, refcountOrder: 3 };
    await bench.run(request(["vdd"], { amendment, sizeBytes: 2 * M }));
    expect(infoOf(image)).toMatchObject({
      "virtual-size": 2 * M,
      "format-specific": { data: { "data-file": bench.at("same.raw"), "data-file-raw": false } },
    });
    writeGuest(image, "qcow2", "read -P 3 0 1M", "write -P 4 1M 1M");
    runWell("qemu-img", "check", "-q", image);
    const other = bench.at("other.raw");
    copyFileSync(bench.at("same.raw"), other);
    writeGuest(other, "raw", "write -P 5 2047k 512");
    for (const name of ["", "d.raw", bench.at("b.raw"), other]) {
      const wish = { amendment: { dataFileName: name } };
      expect(await failureOf(async () => await bench.run(request(["vdd"], wish)))).toMatchObject({
        code: "E_REFUSED",
        changed: false,
      });
    }
  });
});

describe("a data file is left for a copy of it", () => {
  async function makeMoved() {
    const bench = await makeWorkbench();
    const [image, old, copy] = [bench.at("d.qcow2"), bench.at("d.raw"), bench.at("new/d.raw")];
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", `data_file=${old}`, image, "1M");
    writeGuest(image, "qcow2", "write -P 3 0 512k");
    await bench.add("vdd", image);
    bench.makeFile("new/d.raw", readFileSync(old));
    const wish = request(["vdd"], { amendment: { dataFileName: copy } });
    return { bench, image, old, copy, wish };
  }

  qemu.test("which has the disk's data from the commit on, and before it nothing has changed", async () => {
    const { bench, image, old, copy, wish } = await makeMoved();
    const before = [stateOf(image), stateOf(old), stateOf(copy)];
    const id = await bench.begin();
    await bench.run(wish);
    expect([stateOf(image), stateOf(old), stateOf(copy)]).toEqual(before);
    await bench.commit(id);
    expect(infoOf(image)).toMatchObject({ "format-specific": { data: { "data-file": copy } } });
    rmSync(old);
    writeGuest(image, "qcow2", "read -P 3 0 512k", "write -P 4 512k 512k");
    runWell("qemu-img", "check", "-q", image);
    expect((await bench.devices()).find(({ name }) => name === "vdd")).toMatchObject({ state: "ok" });
    await bench.snapshot({ vdd: "d1.qcow2" });
  });

  qemu.test("and not where somebody writes to either of them before the commit", async () => {
    for (const which of ["old", "copy"] as const) {
      const { bench, image, [which]: written, wish } = await makeMoved();
      const [before, id] = [stateOf(image), await bench.begin()];
      await bench.run(wish);
      writeGuest(written, "raw", "write -P 9 0 512");
      expect(await failureOf(async () => await bench.commit(id))).toMatchObject({ code: "E_CHANGED" });
      await bench.abort(id);
      expect(stateOf(image)).toEqual(before);
    }
  });

  qemu.test("that lies where the image may lead to, and has the size that it is amended to", async () => {
    const { bench, wish } = await makeMoved();
    const away = path.join(makeFolder(), "d.raw");
    copyFileSync(bench.at("d.raw"), away);
    const refused = async (one: typeof wish) => await failureOf(async () => await bench.run(one));
    const outside = request(["vdd"], { amendment: { dataFileName: away } });
    expect(await refused(outside)).toMatchObject({ code: "E_OUTSIDE", changed: false });
    // What another device may lead to is that one's alone.
    await bench.run({ kind: "device-trust", device: "vda", place: path.dirname(away) });
    expect(await refused(outside)).toMatchObject({ code: "E_OUTSIDE", device: "vdd", changed: false });
    expect(await refused({ ...wish, sizeBytes: 2 * M })).toMatchObject({ code: "E_REFUSED", changed: false });
  });
});

describe("an amendment is refused, in a dry run too, and nothing changed,", () => {
  async function refused(bench: Workbench, devices: string[], wish: Wish, code: string, message: RegExp) {
    const states = () => ["a.qcow2", "b.raw", "c.qcow2"].map((name) => stateOf(bench.at(name)));
    const before = states();
    for (const dryRun of [true, false]) {
      const failure = await failureOf(async () => await bench.run(request(devices, wish), { dryRun }));
      expect(failure).toMatchObject({
        code,
        changed: false,
        message: expect.stringMatching(message) as string,
      });
    }
    expect(states()).toEqual(before);
    expect(redoLogs(bench)).toEqual([]);
  }

  test("for all devices where one can't have it, in qemu-img's words", async () => {
    const bench = await makeWorkbench();
    const both = ["vda", "vdc"];
    const cases: [string[], Wish, string, RegExp][] = [
      [
        ["vda", "vdb"],
        { amendment: { version: 3 } },
        "E_UNSUPPORTED",
        /raw' does not support option amendment/,
      ],
      [
        both,
        { amendment: { version: 2, refcountOrder: 3 } },
        "E_UNSUPPORTED",
        /^Refcount widths other than 16/,
      ],
      [both, { amendment: { version: 2, lazyRefcounts: true } }, "E_UNSUPPORTED", /^Lazy refcounts only/],
      [both, { amendment: { dataFileName: "x" } }, "E_UNSUPPORTED", /^data-file can only be set for images/],
      [
        both,
        { amendment: { dataFileRaw: true } },
        "E_UNSUPPORTED",
        /^data-file-raw cannot be set on existing/,
      ],
      [both, { amendment: {}, backingFileName: "other" }, "E_UNSUPPORTED", /^Cannot amend the backing file$/],
      [both, { amendment: {}, sizeBytes: 512 }, "E_REFUSED", /no disk smaller/],
    ];
    for (const one of cases) await refused(bench, ...one);
    await bench.run(request(["vda"], { amendment: {}, backingFileName: "base.raw", backingFormat: "raw" }));
    await bench.run(request(both, { amendment: { refcountOrder: 5 } }));
    await refused(bench, both, { amendment: { version: 2 } }, "E_UNSUPPORTED", /^compat=0.10 requires/);
  });

  qemu.test("where clusters that nobody counted would be taken; of the header alone it is not", async () => {
    const bench = await makeWorkbench();
    const image = bench.at("c.qcow2");
    runWell("qemu-img", "amend", "-o", "compat=0.10", image);
    runWell("qemu-img", "snapshot", "-c", "one", image);
    uncountLast(image);
    const message = /its refcount is 0; new data would land on what is there/;
    const both = ["vda", "vdc"];
    // Its snapshot has yet to say how large the disk was.
    await refused(bench, both, { amendment: { version: 3 } }, "E_CORRUPT", message);
    runWell("qemu-img", "amend", "-o", "compat=1.1", image);
    uncountLast(image);
    for (const amendment of [{ version: 2 }, { refcountOrder: 5 }] as const) {
      await refused(bench, both, { amendment }, "E_CORRUPT", message);
    }
    const tables = () => readFileSync(image).subarray(512);
    const before = tables();
    await bench.run(request(["vdc"], { amendment: { version: 3, refcountOrder: 4, lazyRefcounts: true } }));
    expect(infoOf(image)).toMatchObject({ "format-specific": { data: { "lazy-refcounts": true } } });
    expect(tables().equals(before)).toBe(true);
  });

  qemu.test("where version 2 would lose bitmaps, or can't say what a snapshot is", async () => {
    const bench = await makeWorkbench();
    runWell("qemu-img", "bitmap", "--add", bench.at("c.qcow2"), "b0");
    const down = { amendment: { version: 2 } } as const;
    await refused(bench, ["vda", "vdc"], down, "E_REFUSED", /bitmap "b0" would be lost/);
    runWell("qemu-img", "bitmap", "--remove", bench.at("c.qcow2"), "b0");
    runWell("qemu-img", "snapshot", "-c", "one", bench.at("c.qcow2"));
    const narrow = { amendment: { refcountOrder: 0 } };
    expect(await failureOf(async () => await bench.run(request(["vdc"], narrow)))).toMatchObject({
      code: "E_UNSUPPORTED",
      message: expect.stringMatching(/^Cannot decrease refcount entry width to 1 bits: Cluster at/) as string,
    });
    runWell("qemu-img", "resize", "-q", bench.at("c.qcow2"), "1M");
    await refused(bench, ["vda", "vdc"], down, "E_UNSUPPORTED", /^Internal snapshots prevent downgrade/);
    const theirs = run("qemu-img", "amend", "-f", "qcow2", "-o", "compat=0.10", bench.at("c.qcow2"));
    expect(theirs.output).toContain("Internal snapshots prevent downgrade");
  });
});

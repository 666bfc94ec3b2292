// A device's disk of another size: the image is what qemu-img makes of a copy, of every layout, for all devices of a
// transaction or for none.

import { appendFileSync, copyFileSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { openChain, readDirtyRanges } from "../../../src/format/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import type { ResizeRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { run, runWell } from "../../helpers/qemu-programs.ts";
import { infoOf, listBitmaps, redoLogs, stateOf, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { makeWorkbench, Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");
const [K, M] = [1024, 1024 ** 2];

const resizeRequest = (
  device: string,
  sizeBytes: number,
  how: Partial<ResizeRequest> = {},
): ResizeRequest => ({
  kind: "resize",
  device,
  sizeBytes,
  isRelative: false,
  shrink: false,
  force: false,
  ...how,
});

/** How the layouts are made: the words of `qemu-img create`, and what else is done to the image. */
const LAYOUTS: Readonly<Record<string, { options: string; base?: true; more?: readonly string[] }>> = {
  plain: { options: "cluster_size=64k" },
  v2: { options: "compat=0.10,cluster_size=4k" },
  small: { options: "cluster_size=512,refcount_bits=1" },
  large: { options: "cluster_size=2M" },
  extended: { options: "cluster_size=16k,extended_l2=on" },
  overlay: { options: "cluster_size=4k", base: true },
  "extended-overlay": { options: "cluster_size=16k,extended_l2=on", base: true },
  lazy: { options: "cluster_size=4k,lazy_refcounts=on" },
  data: { options: "cluster_size=4k,data_file=FOLDER/NAME.data" },
  "raw-data": { options: "cluster_size=4k,data_file=FOLDER/NAME.data,data_file_raw=on" },
  snapshots: { options: "cluster_size=512", more: ["snapshot -c one"] },
  bitmaps: {
    options: "cluster_size=512",
    more: ["bitmap --add -g 512 NAME b0", "bitmap --add -g 64k NAME b1", "bitmap --add -g 1M NAME b2"],
  },
};
const OLD = 3 * M + 5 * 512;

function makeImage(bench: Workbench, folder: string, name: string): string {
  const { options, base, more = [] } = LAYOUTS[name]!;
  const file = path.join(folder, `${name}.qcow2`);
  const words = options.replace("FOLDER", folder).replace("NAME", name);
  const below = base ? ["-b", bench.at("base.raw"), "-F", "raw"] : [];
  runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", words, ...below, file, String(OLD));
  writeGuest(file, "qcow2", "write -P 7 3k 200k", "write -P 8 2047k 700k", `write -P 9 ${OLD - 2048} 2048`);
  for (const line of more) {
    const [verb = "", ...rest] = line.split(" ");
    const named = rest.map((word) => (word === "NAME" ? file : word));
    runWell("qemu-img", verb, ...(named.includes(file) ? named : [...named, file]));
  }
  writeGuest(file, "qcow2", "write -P 10 1M 300k", "write -P 11 2500k 100k");
  return file;
}

async function makeDisks(
  names: readonly string[] = Object.keys(LAYOUTS),
): Promise<{ bench: Workbench; theirs: (name: string) => string }> {
  const bench = new Workbench(makeFolder());
  writeFileSync(bench.at("base.raw"), Buffer.alloc(9 * M, 5));
  const other = path.join(bench.root, "theirs");
  bench.makeFile("theirs/README", "copies for qemu-img\n");
  for (const name of names) {
    await bench.add(name, makeImage(bench, bench.root, name));
    makeImage(bench, other, name);
  }
  return { bench, theirs: (name) => path.join(other, `${name}.qcow2`) };
}

/** What qemu-img says of both, without what differs from file to file. */
async function judge(ours: string, theirs: string): Promise<void> {
  const told = [ours, theirs].map((file) => {
    const { snapshots, ...info } = infoOf(file);
    const names = (snapshots as { name: string; id: string }[] | undefined)?.map(({ id, name }) => [
      id,
      name,
    ]);
    return JSON.stringify({ ...info, filename: "", "actual-size": 0, names }).replaceAll(/\/[^"]*\//g, "");
  });
  expect(told[0]).toBe(told[1]);
  expect(run("qemu-img", "compare", ours, theirs).output).toContain("identical");
  runWell("qemu-img", "check", "-q", ours);
  expect(await marksOf(ours)).toEqual(await marksOf(theirs));
}

async function marksOf(image: string): Promise<unknown[]> {
  const chain = await openChain(makeNodeStorage(), image, {
    format: "qcow2",
    gate: { allowPaths: ["/"], currentFolder: "/" },
  });
  const marks = listBitmaps(image).map(async ({ name }) => await readDirtyRanges(chain.links[0]!, name));
  const found = await Promise.all(marks);
  await chain.close();
  return found;
}

describe("a resized disk", () => {
  qemu.test("is what qemu-img makes of a copy, larger and smaller and larger again", async () => {
    const { bench, theirs } = await makeDisks();
    const names = Object.keys(LAYOUTS);
    const before = names.map((name) => stateOf(bench.at(`${name}.qcow2`)));
    for (const size of [OLD + 512, 8 * M + 512, 1 * M + 512 * 3, 640 * K, 40 * M]) {
      const id = await bench.begin();
      for (const name of names) {
        await bench.run(resizeRequest(name, size, { shrink: true, force: true }));
      }
      if (size === OLD + 512) {
        expect(names.map((name) => stateOf(bench.at(`${name}.qcow2`)))).toEqual(before);
      }
      await bench.commit(id);
      expect(redoLogs(bench)).toEqual([]);
      for (const name of names) {
        runWell("qemu-img", "resize", "-q", "--shrink", theirs(name), String(size));
        // QEMU shows what it left in the last cluster of a smaller disk: imgtx does not.
        if (name === "large" && size === 40 * M) writeGuest(theirs(name), "qcow2", "write -z 640k 1408k");
        await judge(bench.at(`${name}.qcow2`), theirs(name));
      }
    }
  });

  qemu.test.each(["metadata", "falloc", "full"] as const)(
    "gets its clusters, and its space, in advance at the commit: %s",
    async (preallocation) => {
      const bench = new Workbench(makeFolder());
      writeFileSync(bench.at("base.raw"), Buffer.alloc(9 * M, 5));
      const names = ["v2", "small", "extended", "overlay", "snapshots", "bitmaps", "data", "raw-data"];
      const files = names.map((name) => makeImage(bench, bench.root, name));
      const dataFiles = names.slice(-2).map((name) => bench.at(`${name}.data`));
      // Nobody may see of a larger disk what is there by chance.
      for (const file of dataFiles) appendFileSync(file, Buffer.alloc(M, 99));
      const before = [...files, ...dataFiles].map(stateOf);
      for (const [index, name] of names.entries()) await bench.add(name, files[index]!);
      const id = await bench.begin();
      for (const name of names) await bench.run(resizeRequest(name, 9 * M, { preallocation }));
      expect([...files, ...dataFiles].map(stateOf)).toEqual(before);
      await bench.commit(id);
      for (const file of dataFiles) {
        expect(statSync(file).size).toBe(9 * M);
        expect(
          readFileSync(file)
            .subarray(OLD)
            .every((byte) => byte === 0),
        ).toBe(true);
      }
      for (const file of files) {
        runWell("qemu-img", "check", "-q", file);
        // The whole new part has clusters, which read as zeros whatever is below.
        const map = JSON.parse(runWell("qemu-img", "map", "--output=json", file)) as {
          start: number;
          length: number;
          depth: number;
        }[];
        const tail = map.filter(({ start, length }) => start + length > 4 * M);
        expect(tail.map(({ depth }) => depth)).toEqual(tail.map(() => 0));
        runWell("qemu-io", "-c", "read -P 0 4M 5M", file);
        const holder = dataFiles[names.slice(-2).indexOf(path.basename(file, ".qcow2"))] ?? file;
        const taken = statSync(holder).blocks * 512;
        if (preallocation === "metadata") expect(taken).toBeLessThan(5.5 * M);
        else expect(taken).toBeGreaterThan(5.5 * M);
      }
    },
  );

  test("is refused before its commit where there is no space for what it gets in advance", async () => {
    const bench = await makeWorkbench();
    const [raw, before] = [bench.at("b.raw"), stateOf(bench.at("b.raw"))];
    const isShort = (lengthBytes: number): boolean => lengthBytes >= 64 * K;
    const full = {
      ...bench.storage,
      reserveSpace: async (folder: string, lengthBytes: number) => {
        if (isShort(lengthBytes))
          throw new ImgtxError("E_NO_SPACE", "there is no space left", { image: folder });
        return await bench.storage.reserveSpace(folder, lengthBytes);
      },
    };
    const request = resizeRequest("vdb", 64 * K, { isRelative: true, preallocation: "falloc" });
    expect(await failureOf(async () => await bench.through(full).run(request))).toMatchObject({
      code: "E_NO_SPACE",
      changed: false,
    });
    expect([stateOf(raw), redoLogs(bench)]).toEqual([before, []]);
    await bench.run({ ...request, preallocation: "off" });
    const metadata = { ...request, preallocation: "metadata" as const };
    expect(await failureOf(async () => await bench.run(metadata))).toMatchObject({ code: "E_UNSUPPORTED" });
  });

  qemu.test("is a raw file of that size, by what is added to it too", async () => {
    const bench = await makeWorkbench();
    await bench.run(resizeRequest("vdb", 64 * K, { isRelative: true }));
    expect(statSync(bench.at("b.raw")).size).toBe(256 * K);
    await bench.run(resizeRequest("vdb", -64 * K, { isRelative: true, shrink: true }));
    expect(statSync(bench.at("b.raw")).size).toBe(192 * K);
    const [device] = (await bench.devices()).filter(({ name }) => name === "vdb");
    expect(device).toMatchObject({ virtualSizeBytes: 192 * K, state: "ok" });
  });

  qemu.test("is one for the statements after it, and none where all is taken back", async () => {
    const bench = await makeWorkbench();
    const before = ["a.qcow2", "b.raw"].map((name) => stateOf(bench.at(name)));
    const id = await bench.begin();
    await bench.run(resizeRequest("vda", M));
    await bench.savepoint("here", id);
    await bench.run(resizeRequest("vda", M, { isRelative: true }));
    await bench.run(resizeRequest("vdb", M));
    await bench.snapshot({ vda: "a1.qcow2" });
    expect(infoOf(bench.at("a1.qcow2"))).toMatchObject({ "virtual-size": 2 * M });
    await bench.rollbackTo("here", id);
    await bench.run(resizeRequest("vda", 512, { isRelative: true }));
    await bench.abort(id);
    expect(["a.qcow2", "b.raw"].map((name) => stateOf(bench.at(name)))).toEqual(before);
    expect(redoLogs(bench)).toEqual([]);
  });

  qemu.test("with a data file comes after other changes, and neither file is touched before", async () => {
    const names = ["data", "raw-data"];
    const { bench, theirs } = await makeDisks(names);
    const files = names.flatMap((name) => [bench.at(`${name}.qcow2`), bench.at(`${name}.data`)]);
    const before = files.map(stateOf);
    const marked = {
      kind: "bitmap-add",
      devices: names,
      bitmap: "b0",
      isDisabled: false,
      sources: [],
    } as const;
    const cut = { shrink: true, force: true };
    const requests = [
      marked,
      ...names.map((name) => resizeRequest(name, 640 * K, cut)),
      ...names.map((name) => resizeRequest(name, 5 * M)),
    ];
    await bench.run(requests, { dryRun: true });
    expect(files.map(stateOf)).toEqual(before);
    for (const isKept of [false, true]) {
      const id = await bench.begin();
      for (const request of requests) await bench.run(request);
      expect(files.map(stateOf)).toEqual(before);
      if (isKept) await bench.commit(id);
      else await bench.abort(id);
    }
    expect(redoLogs(bench)).toEqual([]);
    for (const name of names) {
      runWell("qemu-img", "bitmap", "--add", theirs(name), "b0");
      for (const size of [640 * K, 5 * M])
        runWell("qemu-img", "resize", "-q", "--shrink", theirs(name), String(size));
      await judge(bench.at(`${name}.qcow2`), theirs(name));
    }
  });

  test("leaves no log where an action after it is refused", async () => {
    const bench = await makeWorkbench();
    const refusal = { kind: "refuse", device: undefined } as const;
    await expect(bench.run([resizeRequest("vda", M), refusal])).rejects.toThrow("refused");
    expect(redoLogs(bench)).toEqual([]);
  });

  test("of the same size is no generation", async () => {
    const bench = await makeWorkbench();
    expect(await bench.run(resizeRequest("vda", 192 * K))).toMatchObject({ changed: false });
  });
});

describe("a disk is not resized, and nothing changed,", () => {
  async function refused(
    bench: Workbench,
    request: ResizeRequest,
    expected: { code: string; message: RegExp },
  ): Promise<void> {
    const before = stateOf(bench.at("a.qcow2"));
    const failure = await failureOf(async () => await bench.run(request));
    expect(failure).toMatchObject({
      code: expected.code,
      changed: false,
      message: expect.stringMatching(expected.message) as string,
    });
    expect(stateOf(bench.at("a.qcow2"))).toEqual(before);
  }

  test("where it would be smaller and nobody said so, or data would go", async () => {
    const bench = await makeWorkbench();
    const smaller = resizeRequest("vda", 64 * K);
    await refused(bench, smaller, { code: "E_REFUSED", message: /--shrink/ });
    await refused(bench, { ...smaller, shrink: true }, { code: "E_REFUSED", message: /data .* at 65536/ });
    await refused(bench, resizeRequest("vda", 1000), { code: "E_REFUSED", message: /--shrink/ });
    await refused(bench, resizeRequest("vda", M + 1), { code: "E_USAGE", message: /multiple of 512/ });
    const less = resizeRequest("vda", -M, { isRelative: true, shrink: true });
    await refused(bench, less, { code: "E_USAGE", message: /has only/ });
  });

  qemu.test("where an overlay would lose what it shows: QEMU cuts it off, and says nothing", async () => {
    const bench = await makeWorkbench();
    const overlay = bench.at("branch.qcow2");
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-b", "./a.qcow2", "-F", "qcow2", overlay);
    const smaller = resizeRequest("vda", 64 * K, { shrink: true, force: true });
    await refused(bench, smaller, { code: "E_IN_USE", message: /branch\.qcow2' stands on it/ });
    copyFileSync(bench.at("a.qcow2"), bench.at("copy.qcow2"));
    runWell("qemu-img", "resize", "-q", "--shrink", bench.at("a.qcow2"), "64k");
    expect(run("qemu-img", "compare", overlay, bench.at("copy.qcow2")).output).toContain("mismatch");
  });

  qemu.test("where an overlay of the history would: it is gone back to later", async () => {
    const bench = await makeWorkbench();
    bench.makeFile("o/README", "overlays\n");
    await bench.snapshot({ vda: "o/a1.qcow2" });
    await bench.run({ kind: "undo", isForward: false, force: true });
    const smaller = resizeRequest("vda", 64 * K, { shrink: true, force: true });
    await refused(bench, smaller, { code: "E_IN_USE", message: /o\/a1\.qcow2' stands on it/ });
  });

  qemu.test("where it has a bitmap that nobody can rely on", async () => {
    const bench = await makeWorkbench();
    runWell("qemu-img", "bitmap", "--add", bench.at("a.qcow2"), "b0");
    // Killed, it leaves the bitmap in use.
    run("qemu-io", "-c", "write 0 512", "-c", "abort", bench.at("a.qcow2"));
    await refused(bench, resizeRequest("vda", M), { code: "E_REFUSED", message: /"b0" is inconsistent/ });
  });

  qemu.test("of version 2 where QEMU can't either, or too large for its clusters", async () => {
    const bench = await makeWorkbench();
    await refused(bench, resizeRequest("vda", 2 ** 52), { code: "E_UNSUPPORTED", message: /too large/ });
    const old = bench.at("old.qcow2");
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", old, "1M");
    runWell("qemu-img", "snapshot", "-c", "one", old);
    await bench.add("old", old);
    await refused(bench, resizeRequest("old", 2 * M), { code: "E_UNSUPPORTED", message: /v2 image/ });
    const over = bench.at("over.qcow2");
    const below = ["-b", bench.at("base.raw"), "-F", "raw"];
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", ...below, over, "64k");
    await bench.add("over", over);
    await refused(bench, resizeRequest("over", M), { code: "E_UNSUPPORTED", message: /v2 .* hide/ });
    expect(run("qemu-img", "resize", over, "1M").output).toMatch(/Failed to zero out new clusters/);
  });
});

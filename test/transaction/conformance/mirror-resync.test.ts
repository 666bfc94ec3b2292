// A mirror that is brought in sync: what is copied, what is not even read, and when it is written to.

import { readFileSync, statSync, utimesSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import {
  IDENTICAL,
  infoOf,
  judge,
  mirror,
  stagingFiles,
  stateOf,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import { watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");
const IN_SYNC = "it is in sync with the device already; nothing was copied";

/** The three devices with a mirror each: generation 4. */
async function makeMirrored(): Promise<Workbench> {
  const bench = await makeWorkbench();
  await mirror(bench, { vda: "ma.qcow2", vdb: "mb.raw", vdc: "mc.qcow2" });
  return bench;
}

async function makeMirroredInRaw(): Promise<Workbench> {
  const bench = await makeWorkbench();
  await mirror(bench, { vda: "ma.raw", vdb: "mb.raw", vdc: "mc.raw" }, { format: "raw" });
  return bench;
}

describe("a mirror in sync", () => {
  test("needs nothing: no generation, no journal, no write, and it says so", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vda: "ma.qcow2", vdb: "mb.raw" });
    const before = [stateOf(bench.at("ma.qcow2")), stateOf(bench.at("mb.raw"))];
    const calls: string[] = [];
    const storage = watchStorage(makeNodeStorage(), ({ name, path }) => {
      if (/^(createFile|rename|removeFile|file\.(write|flush|truncate))/.test(name))
        calls.push(`${name} ${path}`);
    });
    const outcome = await mirror(bench.through(storage), { vda: undefined, vdb: bench.at("mb.raw") });
    expect(outcome).toMatchObject({ changed: false, pending: false, generation: 4 });
    expect(outcome.actions.map(({ device, files, notes }) => [device, files, notes])).toEqual([
      ["vda", [], [IN_SYNC]],
      ["vdb", [], [IN_SYNC]],
    ]);
    expect(calls).toEqual([]);
    expect([stateOf(bench.at("ma.qcow2")), stateOf(bench.at("mb.raw"))]).toEqual(before);
  });

  qemu.test("is compared all the same with --verify", async () => {
    const bench = await makeMirrored();
    const { mtime } = statSync(bench.at("b.raw"));
    writeGuest(bench.at("b.raw"), "raw", "write -P 77 8k 512");
    utimesSync(bench.at("b.raw"), mtime, mtime);
    const { actions } = await mirror(bench, { vdb: undefined }, { verify: true });
    expect(await judge(bench, "vdb")).toBe(IDENTICAL);
    expect(actions[0]?.notes.join()).toContain("differed from the device");
    const again = await mirror(bench, { vdb: undefined }, { verify: true });
    expect(again.actions[0]?.notes.join()).not.toContain("differed");
  });

  qemu.test("that has rotted outside of what was written is mended with --verify, and told", async () => {
    const bench = await makeMirrored();
    const { mtime } = statSync(bench.at("mb.raw"));
    writeGuest(bench.at("mb.raw"), "raw", "write -P 78 70k 512");
    utimesSync(bench.at("mb.raw"), mtime, mtime);
    await bench.snapshot({ vdb: "b1.qcow2" });
    writeGuest(bench.at("b1.qcow2"), "qcow2", "write -P 79 0 4k");
    const { actions } = await mirror(bench, { vdb: undefined }, { verify: true });
    expect(actions[0]?.notes.join()).toContain("it is mended");
    expect(await judge(bench, "vdb")).toBe(IDENTICAL);
  });

  qemu.test(
    "is read back after the merge with --verify: a disk that does not keep it is told of",
    async () => {
      const bench = await makeMirrored();
      writeGuest(bench.at("b.raw"), "raw", "write -P 80 8k 4k");
      const spoiling = bench.through(forgetting(bench.storage, bench.at("mb.raw")));
      const failure = await failureOf(
        async () => await mirror(spoiling, { vdb: undefined }, { verify: true }),
      );
      expect(failure).toMatchObject({ code: "E_IO", exitCode: 13, device: "vdb", changed: true });
      expect(failure.message).toContain("it was brought in sync, and committed; then read back");
      await mirror(bench, { vdb: undefined }, { verify: true });
      expect(await judge(bench, "vdb")).toBe(IDENTICAL);
    },
  );

  test("of a device without one is refused", async () => {
    const bench = await makeWorkbench();
    expect(await failureOf(async () => await mirror(bench, { vda: undefined }))).toMatchObject({
      code: "E_REFUSED",
      message: "it has no mirror",
      device: "vda",
    });
  });
});

describe.each([
  ["their own formats", makeMirrored],
  ["raw", makeMirroredInRaw],
])("mirrors in %s", (_, make) => {
  qemu.test("follow a write, a discard and zeros, and are in sync then", async () => {
    const bench = await make();
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 1 100k 3k", "write -z 4k 8k", "discard 20k 4k");
    writeGuest(bench.at("b.raw"), "raw", "write -P 2 60k 512", "write -z -u 0 16k");
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 3 191k 1k", "write -z 0 4k", "discard 12k 4k");
    const outcome = await mirror(bench, { vda: undefined, vdb: undefined, vdc: undefined });
    expect(outcome).toMatchObject({ changed: true, generation: 5 });
    expect(outcome.actions.map(({ files }) => files[0]?.change)).toEqual(["change", "change", "change"]);
    for (const device of ["vda", "vdb", "vdc"]) expect(await judge(bench, device)).toBe(IDENTICAL);
    expect(stagingFiles(bench)).toEqual([]);
    expect((await mirror(bench, { vda: undefined, vdb: undefined, vdc: undefined })).changed).toBe(false);
  });
});

describe("a mirror of the active layer alone", () => {
  qemu.test("follows a write, and keeps its backing file", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vda: "m.qcow2" }, { sync: "top" });
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 5 64k 4k", "write -z 8k 4k");
    await mirror(bench, { vda: undefined });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    expect(infoOf(bench.at("m.qcow2"))["backing-filename"]).toBe(bench.at("base.raw"));
    expect((await mirror(bench, { vda: undefined })).changed).toBe(false);
  });

  qemu.test("follows a snapshot", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vda: "m.qcow2" }, { sync: "top" });
    await bench.snapshot({ vda: "a1.qcow2" });
    writeGuest(bench.at("a1.qcow2"), "qcow2", "write -P 6 120k 4k");
    await mirror(bench, { vda: undefined });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });
});

describe("a mirror of nothing yet", () => {
  qemu.test("sees what the device writes, and a snapshot's new layer is copied into it", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdc: "m.qcow2" }, { sync: "none" });
    await bench.snapshot({ vdc: "c1.qcow2" });
    writeGuest(bench.at("c1.qcow2"), "qcow2", "write -P 6 120k 4k");
    await mirror(bench, { vdc: undefined });
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });
});

describe("after snapshots", () => {
  qemu.test("only the new overlays are read", async () => {
    const bench = await makeMirrored();
    await bench.snapshot({ vda: "a1.qcow2" });
    writeGuest(bench.at("a1.qcow2"), "qcow2", "write -P 8 70k 5k", "write -z 0 4k");
    await bench.snapshot({ vda: "a2.qcow2" });
    writeGuest(bench.at("a2.qcow2"), "qcow2", "write -P 9 72k 1k");
    const reads = new Map<string, number>();
    const storage = watchStorage(makeNodeStorage(), ({ name, path }) => {
      if (name === "file.read") reads.set(path, (reads.get(path) ?? 0) + 1);
    });
    const { actions } = await mirror(bench.through(storage), { vda: undefined });
    expect(actions[0]).toMatchObject({ notes: ["128 KiB copied"], copiedBytes: 2 * 65_536 });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    // The changed units are read with what lies below them; the mirror's own data is not compared.
    const comparing = new Map<string, number>();
    const other = await makeMirrored();
    const counting = watchStorage(makeNodeStorage(), ({ name, path }) => {
      if (name === "file.read") comparing.set(path, (comparing.get(path) ?? 0) + 1);
    });
    writeGuest(other.at("a.qcow2"), "qcow2", "write -P 8 70k 5k");
    await mirror(other.through(counting), { vda: undefined });
    expect(reads.get(bench.at("ma.qcow2"))).toBeLessThan(comparing.get(other.at("ma.qcow2")) ?? 0);
  });

  qemu.test("below which somebody wrote, all is compared", async () => {
    const bench = await makeMirrored();
    await bench.snapshot({ vdb: "b1.qcow2" });
    writeGuest(bench.at("b.raw"), "raw", "write -P 8 130k 5k");
    writeGuest(bench.at("b1.qcow2"), "qcow2", "write -P 9 10k 5k");
    await mirror(bench, { vdb: undefined });
    expect(await judge(bench, "vdb")).toBe(IDENTICAL);
  });
});

describe("a mirror that somebody wrote to", () => {
  qemu.test.each(["vda", "vdb", "vdc"])("of %s is compared from end to end, with a word", async (device) => {
    const bench = await makeMirrored();
    const copy = (await bench.devices()).find(({ name }) => name === device)?.mirror;
    writeGuest(copy?.image ?? "", copy?.format ?? "", "write -P 99 40k 20k", "write -P 98 190k 512");
    const { actions } = await mirror(bench, { [device]: undefined });
    expect(actions[0]?.notes[0]).toBe(
      "somebody has written to the mirror since; it was compared from end to end",
    );
    expect(await judge(bench, device)).toBe(IDENTICAL);
    expect((await mirror(bench, { [device]: undefined })).changed).toBe(false);
  });

  qemu.test("that has gone, or has another size, is refused with the way out", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 1 0 512");
    bench.makeFile("mb.raw", readFileSync(bench.at("b.raw")).subarray(0, 65_536));
    const failure = await failureOf(async () => await mirror(bench, { vdb: undefined }));
    expect(failure).toMatchObject({ code: "E_REFUSED", device: "vdb" });
    expect(failure.hint).toContain("imgtx mirror --cancel vdb");
  });
});

describe("in an open transaction", () => {
  qemu.test("the mirror is as it was until the commit", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 1 0 4k");
    const before = stateOf(bench.at("ma.qcow2"));
    await bench.begin();
    await mirror(bench, { vda: undefined });
    expect(stateOf(bench.at("ma.qcow2"))).toEqual(before);
    await bench.commit();
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    expect(stagingFiles(bench)).toEqual([]);
    expect((await mirror(bench, { vda: undefined })).changed).toBe(false);
  });

  qemu.test("brought in sync twice and aborted, the mirror is byte by byte what it was", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 1 0 4k", "write -z 64k 70k");
    const before = stateOf(bench.at("ma.qcow2"));
    await bench.begin();
    await mirror(bench, { vda: undefined });
    await bench.snapshot({ vda: "a1.qcow2" });
    writeGuest(bench.at("a1.qcow2"), "qcow2", "write -P 2 2k 4k", "write -P 3 130k 4k");
    await mirror(bench, { vda: undefined });
    expect(stateOf(bench.at("ma.qcow2"))).toEqual(before);
    await bench.abort();
    expect(stateOf(bench.at("ma.qcow2"))).toEqual(before);
    expect(stagingFiles(bench)).toEqual([]);
  });

  qemu.test("twice, with another image in between, merges both", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 1 0 4k", "write -z 64k 70k");
    await bench.begin();
    await mirror(bench, { vda: undefined });
    await bench.snapshot({ vda: "a1.qcow2" });
    const { actions } = await mirror(bench, { vda: undefined }, { verify: true });
    expect(actions[0]?.notes).not.toContain(IN_SYNC);
    expect(stagingFiles(bench)).toHaveLength(2);
    await bench.commit();
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    expect((await mirror(bench, { vda: undefined })).changed).toBe(false);
  });

  qemu.test("a savepoint takes it back", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("b.raw"), "raw", "write -P 1 0 4k");
    const before = stateOf(bench.at("mb.raw"));
    await bench.begin();
    await bench.savepoint("here");
    await mirror(bench, { vdb: undefined });
    expect(stagingFiles(bench)).toHaveLength(1);
    await bench.rollbackTo("here");
    expect(stagingFiles(bench)).toEqual([]);
    await mirror(bench, { vdb: undefined });
    await bench.commit();
    expect(stateOf(bench.at("mb.raw"))).not.toEqual(before);
    expect(await judge(bench, "vdb")).toBe(IDENTICAL);
  });

  qemu.test("a mirror that somebody writes to before the commit is found, and left", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 1 0 4k");
    await bench.begin();
    await mirror(bench, { vda: undefined });
    writeGuest(bench.at("ma.qcow2"), "qcow2", "write -P 2 0 4k", "write -P 2 150k 4k");
    const touched = stateOf(bench.at("ma.qcow2"));
    expect(await failureOf(async () => await bench.commit())).toMatchObject({ code: "E_CHANGED" });
    await bench.abort();
    expect(stateOf(bench.at("ma.qcow2"))).toEqual(touched);
    await mirror(bench, { vda: undefined });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  qemu.test("a device that is written to before the commit has a mirror in sync all the same", async () => {
    const bench = await makeMirrored();
    await bench.begin();
    writeGuest(bench.at("b.raw"), "raw", "write -P 1 0 4k");
    await mirror(bench, { vdb: undefined });
    writeGuest(bench.at("b.raw"), "raw", "write -P 2 100k 4k");
    await bench.commit();
    expect(await judge(bench, "vdb")).toBe(IDENTICAL);
  });

  qemu.test("a new mirror can be brought in sync once more", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await mirror(bench, { vda: "m.qcow2" });
    expect((await mirror(bench, { vda: undefined })).actions[0]?.notes).toContain(IN_SYNC);
    await bench.snapshot({ vda: "a1.qcow2" });
    await mirror(bench, { vda: undefined });
    await bench.commit();
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    expect((await mirror(bench, { vda: undefined })).changed).toBe(false);
  });

  qemu.test("made and forgotten again, it stays as a file", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 1 0 4k");
    await bench.begin();
    await mirror(bench, { vda: undefined });
    await bench.run({ kind: "mirror-cancel", devices: ["vda"] });
    await bench.commit();
    expect((await bench.devices())[0]?.mirror).toBeNull();
    expect(stagingFiles(bench)).toEqual([]);
  });
});

describe("a device that goes back to another image", () => {
  qemu.test("leaves its mirror behind, says so, and takes it again with --reuse", async () => {
    const bench = await makeMirrored();
    await bench.snapshot({ vda: "a1.qcow2" });
    writeGuest(bench.at("a1.qcow2"), "qcow2", "write -P 8 70k 5k");
    await mirror(bench, { vda: undefined });
    const { actions } = await bench.rollback();
    expect(actions[0]?.notes).toContain(
      `${bench.at("ma.qcow2")} stays as it is, and is the mirror of 'vda' no more`,
    );
    expect((await bench.devices())[0]?.mirror).toBeNull();
    await mirror(bench, { vda: "ma.qcow2" }, { reuse: true });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  qemu.test("finds its images unchanged by any mirror", async () => {
    const bench = await makeMirrored();
    const content = await bench.content();
    await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" });
    await mirror(bench, { vda: undefined, vdb: undefined, vdc: undefined });
    await bench.rollback();
    expect(await bench.content()).toEqual(content);
  });

  qemu.test("that it has already keeps the mirror", async () => {
    const bench = await makeMirrored();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.rollback(undefined, ["vda"]);
    expect((await bench.devices()).map(({ mirror: copy }) => copy?.format)).toEqual([
      undefined,
      "raw",
      "qcow2",
    ]);
    await mirror(bench, { vdb: undefined, vdc: undefined });
    for (const device of ["vdb", "vdc"]) expect(await judge(bench, device)).toBe(IDENTICAL);
  });
});

/** A storage that writes nothing of what is written to the file, and says that it did. */
function forgetting(storage: Storage, path: string): Storage {
  return {
    ...storage,
    async openFile(name, access, options) {
      const file = await storage.openFile(name, access, options);
      if (name === path) {
        file.write = async () => await Promise.resolve();
        file.copyRangeFrom = async () => await Promise.resolve();
        file.punchHole = async () => await Promise.resolve();
      }
      return file;
    },
  };
}

// Generations: each commit makes one, and an undo takes it back while its images are what they were.

import { renameSync, rmSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { readGeneration, readTable } from "../../../src/device/index.ts";
import { encodeTable } from "../../../src/device/device-table.ts";
import { listGenerations, listSnapshots } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { freeze, unfreeze } from "../../helpers/transaction/freezing.ts";
import { oracle } from "../../helpers/oracles.ts";
import { mirror, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-io");

/** What a guest does to a raw image, or a program to any file. */
function writeTo(bench: Workbench, name: string, bytes = "guest data"): void {
  writeFileSync(bench.at(name), bytes.repeat(1000));
}

async function summaries(bench: Workbench): Promise<string[]> {
  const { generations } = await listGenerations(await bench.session(), {});
  return generations.map(({ generation, summary, present, undo, redo }) =>
    [
      `${generation}${present ? "*" : ""} ${summary}`,
      ...(undo ? ["undo"] : []),
      ...(redo ? ["redo"] : []),
    ].join(" | "),
  );
}

describe("history", () => {
  test("is the log of commits, newest first: what each did, with which name, and from which file to which", async () => {
    const bench = await makeWorkbench();
    await bench.begin("nightly");
    await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" }, { name: "mon" });
    await mirror(bench, { vdc: "mc.qcow2" });
    await bench.commit();
    await bench.rollback("mon", ["vda"]);
    await bench.remove("vdb");
    const { generation, generations } = await listGenerations(await bench.session(), {});
    expect(generation).toBe(6);
    expect(generations.map((one) => [one.generation, one.name, one.summary])).toEqual([
      [6, null, "device-remove vdb"],
      [5, null, "rollback vda to mon"],
      [4, "nightly", "snapshot-group vda vdb, mirror vdc"],
      [3, null, "device-add vdc"],
      [2, null, "device-add vdb"],
      [1, null, "device-add vda"],
      [0, null, "init"],
    ]);
    expect(generations[1]?.actions).toEqual([
      { kind: "rollback", devices: ["vda"], snapshot: { number: 1, name: "mon" }, generation: null },
    ]);
    const moves = generations.map(({ devices }) =>
      devices.map(({ device, before, after, mirror: copy }) =>
        [device, before?.image, after?.image, copy?.after].map((each) => each && path.basename(each)),
      ),
    );
    expect(moves.slice(0, 4)).toEqual([
      [["vdb", "b1.qcow2", undefined, undefined]],
      [["vda", "a1.qcow2", "a-after-mon.qcow2", undefined]],
      [
        ["vda", "a.qcow2", "a1.qcow2", undefined],
        ["vdb", "b.raw", "b1.qcow2", undefined],
        ["vdc", "c.qcow2", "c.qcow2", "mc.qcow2"],
      ],
      [["vdc", undefined, "c.qcow2", undefined]],
    ]);
    const about = await listGenerations(await bench.session(), { device: "vdb", count: 2 });
    expect(about.generations.map((one) => one.generation)).toEqual([6, 4]);
  });

  test("marks what undo and redo go to: none that is lost, or before what moved no image", async () => {
    const bench = await makeWorkbench();
    await bench.run(freeze(["vda"]));
    await bench.run(unfreeze(["vda"]));
    for (const name of ["a1", "a2", "a3"]) await bench.snapshot({ vda: `${name}.qcow2` });
    expect(await summaries(bench)).toEqual([
      "8* snapshot vda",
      "7 snapshot vda | undo",
      "6 snapshot vda | undo",
      "5 unfreeze vda | undo",
      "4 freeze vda",
      "3 device-add vdc",
      "2 device-add vdb",
      "1 device-add vda",
      "0 init",
    ]);
    await bench.undo();
    expect((await summaries(bench)).slice(0, 5)).toEqual([
      "9* undo vda to generation 7",
      "8 snapshot vda | redo",
      "7 snapshot vda",
      "6 snapshot vda | undo",
      "5 unfreeze vda | undo",
    ]);
    truncateSync(bench.at(".imgtx/history/000006.json"), 10);
    expect((await summaries(bench)).filter((line) => line.endsWith("undo"))).toEqual([]);
    // What made it is known to the generation before it.
    expect(await summaries(bench)).toContain("6 snapshot vda");
  });

  test("of an imgtx before this one is told by its tables", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.snapshot({ vda: "a2.qcow2" });
    const { workspace } = await bench.session();
    const table = await readGeneration(workspace, 4, await readTable(workspace));
    if (!table) throw new Error("there is a generation 4");
    const { operation: _operation, ...older } = table;
    const name = { ...older, summary: "nightly" };
    writeFileSync(bench.at(".imgtx/history/000004.json"), encodeTable(bench.root, name, null));
    const { generations } = await listGenerations(await bench.session(), {});
    expect(generations.slice(0, 2)).toMatchObject([
      { generation: 5, summary: "snapshot vda", devices: [{ device: "vda" }] },
      { generation: 4, summary: "nightly", name: null, actions: [], devices: [{ device: "vda" }] },
    ]);
  });

  test("gets no generation from a dry run, an abort, a refusal, or a commit of nothing", async () => {
    const bench = await makeWorkbench();
    const before = await summaries(bench);
    await bench.snapshot({ vda: "a1.qcow2" }, {}, { dryRun: true });
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.abort();
    await failureOf(async () => await bench.snapshot({ vda: "b.raw" }));
    await bench.begin();
    expect(await bench.commit()).toMatchObject({ changed: false, generation: 3 });
    expect(await summaries(bench)).toEqual(before);
  });
});

describe("undo", () => {
  test("goes to the generation before, as a new one", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" });
    const outcome = await bench.undo();
    expect(outcome).toMatchObject({ changed: true, generation: 5 });
    expect(outcome.actions.map(({ device, before, after }) => [device, before, after])).toEqual([
      ["vda", bench.at("a1.qcow2"), bench.at("a.qcow2")],
      ["vdb", bench.at("b1.qcow2"), bench.at("b.raw")],
    ]);
    expect(await bench.images()).toEqual({ vda: "a.qcow2", vdb: "b.raw", vdc: "c.qcow2" });
  });

  test("names an image that is not there once", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.undo();
    rmSync(bench.at("a1.qcow2"));
    const failure = await failureOf(
      async () => await bench.run({ kind: "redo", isForward: true, force: false }),
    );
    expect(failure.message.split(bench.at("a1.qcow2"))).toHaveLength(2);
  });

  test("goes back commit by commit, and forth again with what there was of snapshots", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.snapshot({ vda: "a2.qcow2", vdc: "c1.qcow2" }, { name: "two" });
    const refs = async () => (await listSnapshots(await bench.session(), {})).map(({ number }) => number);
    await bench.undo();
    expect([await bench.images(), await refs()]).toEqual([
      { vda: "a1.qcow2", vdb: "b.raw", vdc: "c.qcow2" },
      [1],
    ]);
    await bench.undo();
    expect([(await bench.images())["vda"], await refs()]).toEqual(["a.qcow2", []]);
    await bench.run({ kind: "redo", isForward: true, force: false });
    expect([(await bench.images())["vda"], await refs()]).toEqual(["a1.qcow2", [1]]);
    await bench.run({ kind: "redo", isForward: true, force: false });
    expect([(await bench.images())["vda"], await refs()]).toEqual(["a2.qcow2", [2, 1]]);
    expect(await bench.generation()).toBe(9);
    expect(
      await failureOf(async () => await bench.run({ kind: "redo", isForward: true, force: false })),
    ).toMatchObject({
      code: "E_REFUSED",
    });
    // Its number was given: it is not given again.
    await bench.undo();
    expect((await bench.snapshot({ vda: "a3.qcow2" })).snapshots).toEqual([{ number: 3, name: null }]);
    expect(
      await failureOf(async () => await bench.run({ kind: "redo", isForward: true, force: false })),
    ).toMatchObject({
      code: "E_REFUSED",
    });
  });

  test("to before a merge leads no later snapshot to one that the merge gave up", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2", vdc: "c1.qcow2" });
    await bench.run({
      kind: "merge",
      devices: ["vda"],
      from: undefined,
      into: undefined,
      keep: true,
      empties: false,
    });
    await bench.run({ kind: "undo", isForward: false, force: true });
    expect(await bench.images()).toMatchObject({ vda: "a1.qcow2" });
    await bench.snapshot({ vda: "a2.qcow2" });
    const snapshots = await listSnapshots(await bench.session(), {});
    expect(snapshots.map(({ number, devices }) => [number, devices.map((one) => one.problems)])).toEqual([
      [2, [[]]],
      [1, [[]]],
    ]);
  });

  test("takes all snapshots of a commit back that took several of one device", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.snapshot({ vda: "a2.qcow2" });
    await bench.commit();
    const refs = async () => (await listSnapshots(await bench.session(), {})).map(({ number }) => number);
    await bench.undo();
    expect(await refs()).toEqual([]);
    await bench.run({ kind: "redo", isForward: true, force: false });
    expect(await refs()).toEqual([2, 1]);
    await bench.undo();
    // The next one can be taken away again: nothing that is left leads to those.
    await bench.snapshot({ vda: "a3.qcow2" });
    await bench.run({ kind: "snapshot-delete", snapshots: ["3"], devices: [], keepsImages: false });
    expect(await refs()).toEqual([]);
  });

  qemu.test("is refused where a guest has written since, and says which commands are meant", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    writeGuest(bench.at("a1.qcow2"), "qcow2", "write -P 8 70k 5k");
    const failure = await failureOf(async () => await bench.undo());
    expect(failure).toMatchObject({ code: "E_REFUSED", changed: false });
    expect(failure.message).toContain(`'vda' to ${bench.at("a1.qcow2")}`);
    expect(failure.hint).toContain("`imgtx rollback`");
    await bench.run({ kind: "undo", isForward: false, force: true });
    expect((await bench.images())["vda"]).toBe("a.qcow2");
  });

  test("takes back the adding and the removing of a device", async () => {
    const bench = await makeWorkbench();
    await bench.remove("vdb");
    await bench.undo();
    expect(await bench.images()).toEqual({ vda: "a.qcow2", vdb: "b.raw", vdc: "c.qcow2" });
    await bench.undo(2);
    expect(await bench.images()).toEqual({ vda: "a.qcow2", vdb: "b.raw" });
  });

  test("does not mind what a guest wrote while the image was active", async () => {
    const bench = await makeWorkbench();
    writeTo(bench, "b.raw");
    await bench.snapshot({ vdb: "b1.qcow2" });
    await bench.undo();
    expect((await bench.images())["vdb"]).toBe("b.raw");
  });

  test("does not mind what a guest wrote before its device was removed", async () => {
    const bench = await makeWorkbench();
    writeTo(bench, "b.raw");
    await bench.remove("vdb");
    await bench.undo();
    expect((await bench.images())["vdb"]).toBe("b.raw");
  });

  test("brings back a device whose broken chain was mended since it was removed", async () => {
    const bench = await makeWorkbench();
    renameSync(bench.at("base.raw"), bench.at("aside.raw"));
    await bench.remove("vda");
    renameSync(bench.at("aside.raw"), bench.at("base.raw"));
    // Another name has moved its change time, as a write with the time put back would have.
    const failure = await failureOf(async () => await bench.undo());
    expect(failure).toMatchObject({ code: "E_REFUSED", changed: false });
    expect(failure.hint).toContain("--force");
    await bench.run({ kind: "undo", isForward: false, force: true });
    expect((await bench.images())["vda"]).toBe("a.qcow2");
  });

  test.each([
    ["was written to", (bench: Workbench) => writeTo(bench, "b.raw"), /size 196608 → 10000, modified/],
    ["was touched", (bench: Workbench) => utimesSync(bench.at("b.raw"), 1e9, 1e9), /modified 20/],
    ["is gone", (bench: Workbench) => rmSync(bench.at("b.raw")), /b\.raw/],
  ])("is refused when an image %s since, and says which and what", async (_, spoil, words) => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vdb: "b1.qcow2" });
    await bench.snapshot({ vdb: "b2.qcow2" });
    spoil(bench);
    const failure = await failureOf(async () => await bench.undo(3));
    expect(failure).toMatchObject({ code: "E_CHANGED", changed: false });
    expect(failure.message).toContain(bench.at("b.raw"));
    expect(failure.message).toMatch(words);
    expect((await bench.images())["vdb"]).toBe("b2.qcow2");
  });

  test("names every image that stands in the way, and changes no device", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" });
    writeTo(bench, "b.raw");
    writeTo(bench, "base.raw");
    const failure = await failureOf(async () => await bench.undo());
    expect(failure.message).toContain(bench.at("b.raw"));
    expect(failure.message).toContain(bench.at("base.raw"));
    expect(await bench.images()).toEqual({ vda: "a1.qcow2", vdb: "b1.qcow2", vdc: "c.qcow2" });
  });

  test("is a way out when the present chain is broken", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    rmSync(bench.at("a1.qcow2"));
    await bench.undo();
    expect((await bench.images())["vda"]).toBe("a.qcow2");
  });

  test("of all commits ends at the empty table, and is refused from there", async () => {
    const bench = await makeWorkbench();
    for (let count = 1; count <= 3; count += 1) await bench.undo();
    expect(await bench.images()).toEqual({});
    const failure = await failureOf(async () => await bench.undo());
    expect(failure).toMatchObject({ code: "E_REFUSED", changed: false });
    expect(failure.message).toContain("no commit that could be taken back");
  });

  test.each([
    ["froze a device", async (bench: Workbench) => await bench.run(freeze(["vda"])), "imgtx unfreeze vda"],
    [
      "unfroze a device",
      async (bench: Workbench) => {
        await bench.run(freeze(["vda"]));
        await bench.run(unfreeze(["vda"]));
      },
      "imgtx freeze vda",
    ],
    [
      "made a mirror",
      async (bench: Workbench) => await mirror(bench, { vda: "ma.qcow2" }),
      "imgtx mirror --cancel vda",
    ],
    [
      "made a disk larger",
      async (bench: Workbench) => {
        const how = { isRelative: true, shrink: false, force: false };
        await bench.run({ kind: "resize", device: "vda", sizeBytes: 2 ** 20, ...how });
      },
      /imgtx resize vda \d+ --shrink/,
    ],
    [
      "gave a mirror up",
      async (bench: Workbench) => {
        await mirror(bench, { vda: "ma.qcow2" });
        await bench.run({ kind: "mirror-cancel", devices: ["vda"] });
      },
      "--reuse",
    ],
  ])("over what only %s goes back over nothing, and is refused with what does", async (_, act, command) => {
    const bench = await makeWorkbench();
    await act(bench);
    const [generation, before] = [await bench.generation(), await bench.devices()];
    const failure = await failureOf(async () => await bench.undo());
    expect(failure).toMatchObject({ code: "E_REFUSED", changed: false });
    expect(failure.message).toContain("the last commit (");
    expect(failure.hint).toMatch(command);
    expect([await bench.generation(), await bench.devices()]).toEqual([generation, before]);
  });

  test("says of the devices that keep their image what does not go back with the others", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vdb: "b1.qcow2" });
    await bench.run(freeze(["vda"]));
    await mirror(bench, { vdc: "mc.qcow2" });
    await bench.commit();
    const { actions } = await bench.undo();
    expect(actions.map(({ device }) => device)).toEqual(["vdb"]);
    expect(actions[0]?.notes.slice(1)).toEqual([
      "'vda' stays frozen: a rollback leaves that to `imgtx unfreeze vda`",
      `${bench.at("mc.qcow2")} stays the mirror of 'vdc': a rollback leaves that to \`imgtx mirror --cancel vdc\``,
    ]);
  });

  test("reads each generation once, however many devices there are", async () => {
    const bench = await makeWorkbench();
    bench.makeRaw("d.raw", 9);
    await bench.add("vdd", "d.raw", "raw");
    for (let round = 1; round <= 4; round += 1) await bench.snapshot({ vdd: `d${round}.qcow2` });
    await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2", vdc: "c1.qcow2" });
    const reads = new Map<string, number>();
    const storage = watchStorage(bench.storage, ({ name, path: file }) => {
      if (name === "openFile" && file.includes("/history/")) reads.set(file, (reads.get(file) ?? 0) + 1);
    });
    await bench.undo();
    await bench.undo();
    reads.clear();
    await bench.through(storage).undo();
    expect(new Set(reads.values())).toEqual(new Set([1]));
  });
});

// The log of commits: each makes a generation, and is told with what it did.

import { rmSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { readGeneration, readTable } from "../../../src/device/index.ts";
import { encodeTable } from "../../../src/device/table/device-table.ts";
import { listGenerations } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { freeze, unfreeze } from "../../helpers/transaction/freezing.ts";
import { mirror } from "../../helpers/transaction/mirroring.ts";
import { watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

async function summaries(bench: Workbench): Promise<string[]> {
  const { generations } = await listGenerations(await bench.session(), {});
  return generations.map(({ generation, summary, present, undo, undoForced, redo }) =>
    [
      `${generation}${present ? "*" : ""} ${summary}`,
      ...(undo ? ["undo"] : []),
      ...(undoForced ? ["undo --force"] : []),
      ...(redo ? ["redo"] : []),
    ].join(" | "),
  );
}

describe("history", () => {
  test("names the snapshots that a commit deleted, or gave up", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2", vdc: "c1.qcow2" }, { name: "mon" });
    await bench.snapshot({ vdc: "c2.qcow2" });
    const how = { kind: "snapshot-delete", devices: [], keepsImages: true } as const;
    await bench.run({ ...how, snapshots: ["mon", "2"] });
    const { generations } = await listGenerations(await bench.session(), { count: 1 });
    expect(generations[0]).toMatchObject({
      summary: "snapshot-delete vda vdc giving up 1 (mon) 2",
      actions: [
        {
          givenUp: [
            { number: 1, name: "mon" },
            { number: 2, name: null },
          ],
        },
      ],
    });
  });

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
      {
        kind: "rollback",
        devices: ["vda"],
        snapshot: { number: 1, name: "mon" },
        generation: null,
        givenUp: [],
      },
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
    rmSync(bench.at(".imgtx/history/000006.json"));
    const forced = (await summaries(bench)).filter((line) => line.endsWith("undo --force"));
    expect(forced[0]).toBe("5 unfreeze vda | undo --force");
  });

  test("marks what is undone of another format of the same image", async () => {
    const bench = await makeWorkbench();
    const file = bench.at("a.qcow2");
    await bench.run([
      { kind: "device-remove", device: "vda" },
      { kind: "device-add", device: "vda", file, format: "raw", allowPaths: [] },
    ]);
    expect((await summaries(bench))[1]).toBe("3 device-add vdc | undo");
    await bench.undo();
    expect((await bench.devices())[0]).toMatchObject({ name: "vda", format: "qcow2" });
  });

  test("marks nothing for an undo before what took images away", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.run({ kind: "merge", devices: ["vda"], from: undefined, into: undefined, keep: false });
    expect((await summaries(bench)).slice(0, 3)).toEqual([
      "5* merge vda giving up 1",
      "4 snapshot vda",
      "3 device-add vdc",
    ]);
  });

  test("of the newest reads their files, and one more, however many there are", async () => {
    const bench = await makeWorkbench();
    for (let round = 1; round <= 9; round += 1) await bench.snapshot({ vda: `a${round}.qcow2` });
    const reads: string[] = [];
    const storage = watchStorage(bench.storage, ({ name, path: file }) => {
      if (name === "openFile" && file.includes("/history/")) reads.push(path.basename(file));
    });
    const session = await bench.through(storage).session();
    const { generations } = await listGenerations(session, { count: 3 });
    expect(generations.map((one) => one.generation)).toEqual([12, 11, 10]);
    expect(reads.sort()).toEqual(["000009.json", "000010.json", "000011.json"]);
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

// The way back by generations: an undo takes a commit back while its images are what they were.

import { existsSync, renameSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { listSnapshots } from "../../../src/transaction/index.ts";
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

  test("is refused where the guest would write again to what a clone stands on, that no record knows", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vdc: "c1.qcow2" });
    bench.makeQcow2("clones/mine.qcow2", 5, { name: "../c.qcow2", format: "qcow2" });
    expect(await failureOf(async () => await bench.undo())).toMatchObject({
      code: "E_IN_USE",
      changed: false,
      device: "vdc",
      image: bench.at("c.qcow2"),
      hint: expect.stringContaining("`imgtx undo --force`") as string,
    });
    rmSync(bench.at("clones/mine.qcow2"));
    // What no clone of anybody's is needed for is done, also without a generation that is damaged.
    writeFileSync(bench.at(".imgtx/history/000001.json"), "no generation");
    await bench.undo();
    await bench.run({ kind: "redo", isForward: true, force: false });
    bench.makeQcow2("clones/mine.qcow2", 5, { name: "../c.qcow2", format: "qcow2" });
    await bench.run({ kind: "undo", isForward: false, force: true });
    expect((await bench.images())["vdc"]).toBe("c.qcow2");
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

  test("leaves a layer that imgtx made as one that it made", async () => {
    const bench = await makeWorkbench();
    bench.makeQcow2("other.qcow2", 9);
    await bench.snapshot({ vdc: "c1.qcow2" });
    await bench.reopen("vdc", "other.qcow2");
    await bench.undo();
    await bench.run({ kind: "rollback", devices: ["vdc"], to: "1", isDiscarding: true });
    expect(existsSync(bench.at("c1.qcow2"))).toBe(false);
  });

  test("passes over a generation that was forgotten, by the operator's word", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.snapshot({ vda: "a2.qcow2" });
    await bench.snapshot({ vdc: "c1.qcow2" });
    renameSync(bench.at(".imgtx/history/000005.json"), bench.at(".imgtx/history/000005.json.damaged"));
    const failure = await failureOf(async () => await bench.undo());
    expect(failure).toMatchObject({ code: "E_REFUSED", changed: false });
    expect(failure.hint).toContain("`imgtx undo --force` passes over it, to generation 4");
    const { actions } = await bench.run({ kind: "undo", isForward: false, force: true });
    expect(actions[0]?.notes).toContainEqual(expect.stringContaining("the history has no generation 5"));
    expect(await bench.images()).toEqual({ vda: "a1.qcow2", vdb: "b.raw", vdc: "c.qcow2" });
    await bench.undo();
    expect((await bench.images())["vda"]).toBe("a.qcow2");
    await bench.run({ kind: "redo", isForward: true, force: false });
    await bench.run({ kind: "redo", isForward: true, force: false });
    expect(await bench.images()).toEqual({ vda: "a2.qcow2", vdb: "b.raw", vdc: "c1.qcow2" });
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

describe("redo", () => {
  qemu.test(
    "of a rollback keeps what guests wrote since the undo as the snapshot that comes back",
    async () => {
      const bench = await makeWorkbench();
      await bench.snapshot({ vda: "a1.qcow2", vdc: "c1.qcow2" });
      await bench.rollback("1");
      await bench.undo();
      writeGuest(bench.at("c1.qcow2"), "qcow2", "write -P 9 0 64k");
      const shown = await bench.content();
      const [generation, redo] = [await bench.generation(), { kind: "redo", isForward: true } as const];
      expect(await failureOf(async () => await bench.run({ ...redo, force: false }))).toMatchObject({
        code: "E_REFUSED",
      });
      expect(await bench.generation()).toBe(generation);
      await bench.run({ ...redo, force: true });
      const snapshots = await listSnapshots(await bench.session(), {});
      expect(
        snapshots.map(({ number, devices }) => [number, ...devices.map(({ intact }) => intact)]),
      ).toEqual([
        [2, true, true],
        [1, true, true],
      ]);
      await bench.rollback("2");
      expect(await bench.content()).toEqual(shown);
    },
  );
});

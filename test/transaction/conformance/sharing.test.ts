// Images that devices share: what one writes to, no other may read through its chain. And overlays that
// were made beforehand.

import { appendFileSync, existsSync, linkSync, readFileSync, symlinkSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { unpackFixture } from "../../helpers/fixtures.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import type { Outcome } from "../../../src/transaction/index.ts";
import { makeWorkbench, Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

describe("an image can't become an active layer", () => {
  test.each([
    ["is the active layer of another device", "c.qcow2", /active layer of 'vdc'/],
    ["is a backing image of another device", "base.qcow2", /'vdd' uses it as a backing image/],
  ])("when it %s", async (_, file, words) => {
    const bench = await makeWorkbench();
    bench.makeQcow2("base.qcow2", 6);
    bench.makeQcow2("d.qcow2", 7, { name: "base.qcow2", format: "qcow2" });
    await bench.add("vdd", "d.qcow2");
    const before = snapshotWorkspace(bench.root);
    for (const call of [
      async () => await bench.add("vdx", file),
      async () => await bench.reopen("vda", file),
    ]) {
      const failure = await failureOf(call);
      expect(failure).toMatchObject({ code: "E_IN_USE", image: bench.at(file), exitCode: 14 });
      expect(failure.message).toMatch(words);
    }
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("under another name either", async () => {
    const bench = await makeWorkbench();
    symlinkSync("c.qcow2", bench.at("link.qcow2"));
    linkSync(bench.at("c.qcow2"), bench.at("hard.qcow2"));
    for (const file of ["link.qcow2", "hard.qcow2"]) {
      const failure = await failureOf(async () => await bench.reopen("vda", file));
      expect(failure).toMatchObject({ code: "E_IN_USE", device: "vda", image: bench.at(file) });
    }
  });

  test("when another device reads through it then", async () => {
    const bench = await makeWorkbench();
    bench.makeQcow2("over-c.qcow2", 7, { name: "c.qcow2", format: "qcow2" });
    const failure = await failureOf(async () => await bench.add("vdx", "over-c.qcow2"));
    expect(failure).toMatchObject({ code: "E_IN_USE", device: "vdx", image: bench.at("c.qcow2") });
    expect(failure.message).toContain("active layer of 'vdc'; a write by 'vdc' would corrupt 'vdx'");
  });

  test("when it is the external data file of another device, whose writes go there", async () => {
    const bench = await makeWorkbench();
    await unpackFixture("data-file.qcow2", bench.root);
    await bench.add("vdd", "data-file.qcow2");
    const failure = await failureOf(async () => await bench.add("vdx", "data-file.bin", "raw"));
    expect(failure).toMatchObject({ code: "E_IN_USE", device: "vdx" });
    expect(failure.message).toContain("active layer of 'vdd'");
  });

  test("but devices may share a base, and take each other's old images when they are free", async () => {
    const bench = await makeWorkbench();
    bench.makeQcow2("d.qcow2", 7, { name: "base.raw", format: "raw" });
    await bench.add("vdd", "d.qcow2");
    bench.makeQcow2("x.qcow2", 8);
    await bench.run([
      { kind: "reopen", device: "vdc", file: bench.at("x.qcow2"), format: undefined, force: false },
      { kind: "reopen", device: "vdd", file: bench.at("c.qcow2"), format: undefined, force: false },
    ]);
    expect(await bench.images()).toMatchObject({ vdc: "x.qcow2", vdd: "c.qcow2" });
  });
});

describe("an overlay that was made beforehand", () => {
  async function makeBenchWithOverlay(): Promise<Workbench> {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "ready.qcow2" });
    await bench.undo();
    return bench;
  }

  test("is taken as it is with --reuse", async () => {
    const bench = await makeBenchWithOverlay();
    const bytes = readFileSync(bench.at("ready.qcow2"));
    const outcome = await bench.snapshot({ vda: "ready.qcow2", vdb: "b1.qcow2" }, { reuse: true });
    expect(outcome.actions.map(({ files }) => files.map(({ change }) => change))).toEqual([
      ["reuse"],
      ["create"],
    ]);
    expect((await bench.images())["vda"]).toBe("ready.qcow2");
    expect(readFileSync(bench.at("ready.qcow2"))).toEqual(bytes);
  });

  test("stays when the transaction that took it is aborted", async () => {
    const bench = await makeBenchWithOverlay();
    const before = snapshotWorkspace(bench.root);
    await bench.begin();
    await bench.snapshot({ vda: "ready.qcow2" }, { reuse: true });
    await bench.abort();
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test.each<[string, (bench: Workbench) => void, string, RegExp]>([
    [
      "it holds data",
      (bench) => void bench.makeQcow2("x", 7, { name: "a.qcow2", format: "qcow2" }),
      "x",
      /holds data/,
    ],
    ["it stands on another image", () => undefined, "over-c.qcow2", /its backing file is .*c\.qcow2/],
    ["it has no backing file", (bench) => void bench.makeQcow2("x", 7), "x", /no backing file/],
  ])("is refused when %s", async (_, prepare, file, words) => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vdc: "over-c.qcow2" });
    await bench.undo();
    prepare(bench);
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(async () => await bench.snapshot({ vda: file }, { reuse: true }));
    expect(failure).toMatchObject({ code: "E_REFUSED", device: "vda", image: bench.at(file) });
    expect(failure.message).toMatch(words);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("is watched until the commit", async () => {
    const bench = await makeBenchWithOverlay();
    await bench.begin();
    await bench.snapshot({ vda: "ready.qcow2" }, { reuse: true });
    appendFileSync(bench.at("ready.qcow2"), "x");
    expect((await failureOf(async () => await bench.commit())).code).toBe("E_CHANGED");
  });
});

test("a device on what overlays of others stand on is told so, when it is added and when it is reopened", async () => {
  const bench = await makeWorkbench();
  bench.makeQcow2("golden.qcow2", 1);
  bench.makeQcow2("clones/one.qcow2", 2, { name: "../golden.qcow2", format: "qcow2" });
  const note = expect.stringContaining("clones/one.qcow2 stands on it, and shows another content");
  expect((await bench.add("vdd", "golden.qcow2")).actions[0]?.notes).toContainEqual(note);
  await bench.remove("vdd");
  expect((await bench.reopen("vdc", "golden.qcow2")).actions[0]?.notes).toContainEqual(note);
});

describe("an image that a snapshot keeps, by another name,", () => {
  test.each([
    ["a link", (bench: Workbench) => symlinkSync("a1.qcow2", bench.at("other.qcow2"))],
    ["a hard link", (bench: Workbench) => linkSync(bench.at("a1.qcow2"), bench.at("other.qcow2"))],
  ])("%s, becomes no active layer, and nothing is merged into it", async (_, link) => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.rollback();
    link(bench);
    const refusals = [
      await failureOf(async () => await bench.add("vdx", "other.qcow2")),
      await failureOf(async () => await bench.reopen("vdc", "other.qcow2")),
    ];
    bench.makeQcow2("clone.qcow2", 7, { name: "other.qcow2", format: "qcow2" });
    await bench.add("vdx", "clone.qcow2");
    const merge = { kind: "merge", devices: ["vdx"], from: undefined, into: undefined, keep: false } as const;
    refusals.push(await failureOf(async () => await bench.run(merge)));
    for (const failure of refusals) {
      expect(failure).toMatchObject({ code: "E_IN_USE", image: bench.at("other.qcow2") });
      expect(failure.message).toContain(`keeps it, of 'vda', as '${bench.at("a1.qcow2")}'`);
    }
  });
});

describe("an image of another workspace", () => {
  const elsewhere = async (): Promise<{ readonly theirs: Workbench; readonly ours: Workbench }> => {
    const theirs = await makeWorkbench();
    await theirs.snapshot({ vda: "a1.qcow2" });
    await theirs.rollback();
    return { theirs, ours: await makeWorkbench() };
  };

  test.each([
    ["which a snapshot keeps", "a1.qcow2", "snapshot 2 (before rollback to 1)", "snapshot-show 2"],
    ["which a device stands on", "a.qcow2", "snapshot 1 of the workspace", "snapshot-show 1"],
  ])("%s, becomes no active layer", async (_, file, whose, wayOut) => {
    const { theirs, ours } = await elsewhere();
    for (const call of [
      async () => await ours.add("vdx", theirs.at(file)),
      async () => await ours.reopen("vda", theirs.at(file)),
    ]) {
      const failure = await failureOf(call);
      expect(failure).toMatchObject({ code: "E_IN_USE", image: theirs.at(file), exitCode: 14 });
      expect(failure.message).toContain(whose);
      expect(failure.hint).toContain(`\`imgtx --workspace ${theirs.root} ${wayOut}\``);
    }
  });

  test("that both have as their active layer is said where a device comes to it, and where it is sealed", async () => {
    const { theirs, ours } = await elsewhere();
    const shared = theirs.at("c.qcow2");
    const take = `\`imgtx --workspace ${theirs.root} device remove vdc\` takes it out there`;
    const words = expect.stringMatching(/is the active layer of 'vdc' .* too.*takes it out there$/) as string;
    const notes = async (outcome: Promise<Outcome>) =>
      (await outcome).actions.flatMap((action) => action.notes).filter((note) => note.includes(take));
    expect(await notes(ours.add("vdx", shared))).toEqual([words]);
    expect(await notes(ours.snapshot({ vda: "a1.qcow2", vdx: "x1.qcow2" }))).toEqual([words]);
    expect(await notes(ours.snapshot({ vda: "a2.qcow2", vdx: "x2.qcow2" }))).toEqual([]);
  });

  test("may be stood on, and nothing is merged into it", async () => {
    const { theirs, ours } = await elsewhere();
    ours.makeQcow2("clone.qcow2", 7, { name: theirs.at("a1.qcow2"), format: "qcow2" });
    await ours.add("vdx", "clone.qcow2");
    const merge = { kind: "merge", devices: ["vdx"], from: undefined, into: undefined, keep: false } as const;
    const failure = await failureOf(async () => await ours.run(merge));
    expect(failure).toMatchObject({ code: "E_IN_USE", device: "vdx", image: theirs.at("a1.qcow2") });
    expect(failure.message).toContain("snapshot 2 (before rollback to 1) of the workspace");
  });

  test("stays where its snapshot is deleted, and a device of a workspace above stands on it", async () => {
    const above = new Workbench(makeFolder());
    const bench = await makeWorkbench(above.at("inner"));
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.rollback();
    above.makeQcow2("clone.qcow2", 7, { name: "inner/a1.qcow2", format: "qcow2" });
    await above.add("vdx", "clone.qcow2");
    const newest = { kind: "snapshot-delete", snapshots: ["2"], devices: [], keepsImages: false } as const;
    const said: string[] = [];
    await bench.run(newest, { onNotice: (line) => said.push(line) });
    const why = `device 'vdx' of the workspace '${above.root}' stands on it`;
    expect(said).toEqual([`left '${bench.at("a1.qcow2")}' as it is: ${why}`]);
    expect(existsSync(bench.at("a1.qcow2"))).toBe(true);
  });
});

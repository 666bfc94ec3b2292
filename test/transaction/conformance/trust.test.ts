// What an operator named may be a backing image from then on, wherever it lies; what he did not name may not.

import { mkdirSync, renameSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { mirror } from "../../helpers/transaction/mirroring.ts";
import { Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

/** A workspace, and a folder beside it with raw images. */
function makePlaces(): { bench: Workbench; outside: string } {
  const folder = makeFolder();
  mkdirSync(`${folder}/ws`);
  mkdirSync(`${folder}/outside`);
  const bench = new Workbench(`${folder}/ws`);
  for (const [seed, name] of ["a.raw", "b.raw", "c.raw"].entries()) {
    bench.makeRaw(`${folder}/outside/${name}`, seed + 1);
  }
  bench.makeRaw("inside.raw", 9);
  return { bench, outside: `${folder}/outside` };
}

async function trust(bench: Workbench, device: string, place: string) {
  return await bench.run({ kind: "device-trust", device, place }, { standalone: true });
}

async function expectSound(bench: Workbench, images: number): Promise<void> {
  const devices = await bench.devices();
  expect(devices.map(({ problem }) => problem)).toEqual(devices.map(() => null));
  expect(devices[0]!.chain).toHaveLength(images);
}

describe("a raw image outside of the workspace", () => {
  test("that was added as a device takes snapshots, mirrors, rollbacks and transactions", async () => {
    const { bench, outside } = makePlaces();
    await bench.add("vda", `${outside}/a.raw`, "raw");
    const before = await bench.content();
    await bench.snapshot({ vda: "a1.qcow2" });
    await expectSound(bench, 2);
    await bench.snapshot({ vda: "a2.qcow2" });
    await mirror(bench, { vda: "m.qcow2" }, { verify: true });
    await bench.rollback("1");
    await expectSound(bench, 2);
    await bench.begin();
    await bench.snapshot({ vda: "a3.qcow2" });
    await bench.snapshot({ vda: "a4.qcow2" });
    await bench.commit();
    await expectSound(bench, 4);
    expect(await bench.content()).toEqual(before);
  });

  test("that a device was reopened to takes snapshots, and the one before stays trusted", async () => {
    const { bench, outside } = makePlaces();
    await bench.add("vda", `${outside}/a.raw`, "raw");
    await bench.run({ kind: "reopen", device: "vda", file: `${outside}/b.raw`, format: "raw", force: false });
    await bench.snapshot({ vda: "b1.qcow2" });
    await expectSound(bench, 2);
    bench.makeQcow2("a1.qcow2", 5, { name: `${outside}/a.raw`, format: "raw" });
    await bench.reopen("vda", "a1.qcow2");
    await expectSound(bench, 2);
  });

  test("that is the mirror which a device was reopened to takes snapshots", async () => {
    const { bench, outside } = makePlaces();
    await bench.add("vda", "inside.raw", "raw");
    await mirror(bench, { vda: `${outside}/copy.raw` });
    await bench.reopen("vda", `${outside}/copy.raw`);
    await bench.snapshot({ vda: "c1.qcow2" });
    await expectSound(bench, 2);
  });

  test("that nobody named is refused, by device, with the command that trusts it", async () => {
    const { bench, outside } = makePlaces();
    await bench.add("vda", "inside.raw", "raw");
    bench.makeQcow2("over.qcow2", 5, { name: `${outside}/b.raw`, format: "raw" });
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(async () => await bench.reopen("vda", "over.qcow2"));
    expect(failure).toMatchObject({ code: "E_OUTSIDE", device: "vda", changed: false });
    expect(failure.hint).toContain(`\`imgtx device trust vda ${outside}/b.raw\``);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    await trust(bench, "vda", `${outside}/b.raw`);
    await bench.reopen("vda", "over.qcow2");
    await expectSound(bench, 2);
  });
});

describe("device trust", () => {
  test("brings a device back that nobody can open, and holds through a rollback", async () => {
    const { bench, outside } = makePlaces();
    bench.makeRaw("base.raw", 7);
    bench.makeQcow2("top.qcow2", 8, { name: `${outside}/base.raw`, format: "raw" });
    renameSync(bench.at("base.raw"), `${outside}/base.raw`);
    const request = { kind: "device-add" as const, device: "vda", file: bench.at("top.qcow2") };
    await bench.session(true);
    await bench.add("vdz", "inside.raw", "raw");
    await bench.run({ ...request, format: "qcow2", allowPaths: [outside] }, { standalone: true });
    await trust(bench, "vda", outside);
    await bench.snapshot({ vda: "t1.qcow2" });
    await bench.undo();
    await expectSound(bench, 2);
  });

  test("of what is trusted already, or of a place that is not there, changes nothing", async () => {
    const { bench, outside } = makePlaces();
    await bench.add("vda", "inside.raw", "raw");
    await trust(bench, "vda", outside);
    const failure = await failureOf(async () => await trust(bench, "vda", `${outside}/nowhere`));
    expect(failure).toMatchObject({ code: "E_NOT_FOUND", device: "vda", changed: false });
    const before = await bench.generation();
    const again = await trust(bench, "vda", `${outside}/.`);
    expect(again.actions[0]!.notes.join()).toContain("is trusted already");
    expect(again.changed).toBe(false);
    expect(await bench.generation()).toBe(before);
  });

  test("follows the workspace when it is moved", async () => {
    const { bench } = makePlaces();
    mkdirSync(bench.at("golden"));
    await bench.add("vda", "inside.raw", "raw");
    await trust(bench, "vda", bench.at("golden"));
    renameSync(bench.root, `${bench.root}-moved`);
    const moved = new Workbench(`${bench.root}-moved`);
    const again = await trust(moved, "vda", moved.at("golden"));
    expect(again.actions[0]!.notes.join()).toContain("is trusted already");
  });
});

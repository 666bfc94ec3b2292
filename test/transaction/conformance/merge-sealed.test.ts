// A merge into what snapshots keep: the device gives its own up, in the same generation, and what others keep is refused.

import { describe, expect } from "vitest";
import { listSnapshots } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { mergeRequest } from "../../helpers/transaction/merging.ts";
import { writeGuest } from "../../helpers/transaction/mirroring.ts";
import { readSnapshotContents } from "../../helpers/transaction/snapshot-contents.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";

const qemu = oracle("qemu-io");

async function write(bench: Workbench, pattern: number): Promise<void> {
  for (const { image, format } of await bench.devices())
    writeGuest(image, format, `write -P ${pattern} 0 64k`);
}

/** Each with something written before it: `mon vda` and so on, with what it keeps. */
async function takeAll(bench: Workbench, names: readonly string[]): Promise<void> {
  for (const [index, name] of names.entries()) {
    await write(bench, 10 + index);
    await bench.snapshot({}, { kind: "snapshot-group", targets: [], isOfAll: true, name });
  }
  await write(bench, 99);
}

function pick(kept: Readonly<Record<string, string>>, dropped: readonly string[]): Record<string, string> {
  return Object.fromEntries(Object.entries(kept).filter(([key]) => !dropped.includes(key)));
}

describe("a merge into a sealed image", () => {
  qemu.test("gives up what needs it, of its device alone, and says so before and after", async () => {
    const bench = await makeWorkbench();
    await takeAll(bench, ["mon", "tue"]);
    const kept = await readSnapshotContents(bench, "name");
    const shown = await bench.content();
    const before = snapshotWorkspace(bench.root);
    const givenUp = [{ number: 2, name: "tue" }];
    const planned = await bench.run(mergeRequest(bench, ["vda"]), { dryRun: true });
    expect(planned.actions[0]).toMatchObject({ snapshotsGivenUp: givenUp });
    expect(planned.actions[0]?.notes).toContain("snapshot 2 (tue) keeps no state of 'vda' any more");
    expect(snapshotWorkspace(bench.root)).toEqual(before);

    const { actions } = await bench.run(mergeRequest(bench, ["vda"]));
    expect(actions[0]).toMatchObject({ snapshotsGivenUp: givenUp });
    expect(await readSnapshotContents(bench, "name")).toEqual(pick(kept, ["tue vda"]));
    expect(await bench.content()).toEqual(shown);
    expect(await failureOf(async () => await bench.rollback("tue", ["vda"]))).toMatchObject({
      code: "E_REFUSED",
    });
    await bench.rollback("tue", ["vdb"]);
    await bench.rollback("mon", ["vda"]);
    expect(await readSnapshotContents(bench, "name")).toMatchObject(pick(kept, ["tue vda"]));
  });

  qemu.test("ends snapshots that keep nothing any more, and no undo brings them back", async () => {
    const bench = await makeWorkbench();
    await takeAll(bench, ["mon", "tue"]);
    await bench.run(mergeRequest(bench, ["vda", "vdb"]));
    const vdc = (await bench.devices()).find(({ name }) => name === "vdc");
    const id = await bench.begin();
    await bench.run(mergeRequest(bench, ["vdc"], { from: vdc!.chain[1]!.image }));
    await bench.snapshot({ vdb: "b9.qcow2" });
    await bench.commit(id);
    expect(Object.keys(await readSnapshotContents(bench, "name")).sort()).toEqual([
      "mon vda",
      "mon vdb",
      "null vdb",
    ]);
    await bench.undo();
    const left = await listSnapshots(await bench.session(), {});
    expect(left.map(({ name, devices }) => [name, devices.map(({ device }) => device)])).toEqual([
      ["mon", ["vda", "vdb"]],
    ]);
  });

  qemu.test("takes with it a snapshot of the same transaction", async () => {
    const bench = await makeWorkbench();
    await takeAll(bench, ["mon"]);
    const kept = await readSnapshotContents(bench, "name");
    const id = await bench.begin();
    await bench.snapshot({ vda: "a9.qcow2" }, { name: "tue" });
    const { actions } = await bench.run(mergeRequest(bench, ["vda"]));
    expect(actions[0]?.snapshotsGivenUp).toEqual([{ number: null, name: "tue" }]);
    await bench.snapshot({ vda: "a10.qcow2" }, { name: "wed" });
    await bench.commit(id);
    const now = await readSnapshotContents(bench, "name");
    expect(pick(now, ["wed vda"])).toEqual(kept);
    expect(now["wed vda"]).toMatch(/^true /);
  });

  qemu.test("is refused where a device that has gone keeps it", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vdc: "c1.qcow2" }, { name: "mon" });
    await bench.remove("vdc");
    await bench.add("vdz", "c1.qcow2");
    await bench.snapshot({ vdz: "c2.qcow2" });
    const before = snapshotWorkspace(bench.root);
    const lower = mergeRequest(bench, ["vdz"], { from: "c1.qcow2", into: "c.qcow2" });
    const failure = await failureOf(async () => await bench.run(lower));
    expect(failure).toMatchObject({ code: "E_IN_USE", changed: false, device: "vdz" });
    expect(failure.message).toContain("snapshot 1 (mon) keeps it, of 'vdc'");
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });
});

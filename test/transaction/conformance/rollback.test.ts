// rollback: devices on new overlays over what a snapshot keeps, which stays what it was however often that is done.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { listSnapshots, type RollbackRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { type Call, killAt } from "../../helpers/storage/watched-storage.ts";
import { writeGuest } from "../../helpers/transaction/mirroring.ts";
import { readSnapshotContents } from "../../helpers/transaction/snapshot-contents.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

function request(to?: string, changes: Partial<RollbackRequest> = {}): RollbackRequest {
  return { kind: "rollback", devices: [], to, isDiscarding: false, ...changes };
}

/** A guest writes over the first 64 KiB of a device. */
async function write(bench: Workbench, device: string, pattern: number): Promise<void> {
  const found = (await bench.devices()).find(({ name }) => name === device);
  if (!found) throw new Error(`no ${device}`);
  writeGuest(found.image, found.format, `write -P ${pattern} 0 64k`);
}

describe("a rollback", () => {
  qemu.test("goes back and forth as often as one likes, and no snapshot ever changes", async () => {
    const bench = await makeWorkbench();
    const states = new Map<string, string | undefined>();
    for (const name of ["mon", "tue", "wed"]) {
      await write(bench, "vda", name.charCodeAt(0));
      await bench.snapshot({}, { kind: "snapshot-group", targets: [], isOfAll: true, name });
      states.set(name, (await bench.content())["vda"]);
    }
    let kept = await readSnapshotContents(bench, "number");
    for (const [round, name] of ["tue", "mon", "wed", "tue", "mon"].entries()) {
      await write(bench, "vda", 100 + round);
      const before = (await bench.content())["vda"];
      await bench.run(request(name));
      expect((await bench.content())["vda"], `to ${name}`).toBe(states.get(name));
      const now = await readSnapshotContents(bench, "number");
      expect(now, `after ${name}`).toMatchObject(kept);
      kept = now;
      // What was left is the newest snapshot: going forward again is the same command.
      const [newest] = await listSnapshots(await bench.session(), {});
      expect(newest?.name).toMatch(/^before rollback to /);
      await bench.run(request(String(newest?.number)));
      expect((await bench.content())["vda"]).toBe(before);
      kept = await readSnapshotContents(bench, "number");
    }
  });

  qemu.test("leaves other devices, and those that were added since, where they are", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" });
    bench.makeRaw("d.raw", 9);
    await bench.add("vdd", "d.raw", "raw");
    await write(bench, "vda", 1);
    const before = await bench.images();
    const { actions } = await bench.run(request(undefined, { devices: ["vda"] }));
    expect(actions.map(({ device }) => device)).toEqual(["vda"]);
    expect(await bench.images()).toEqual({ ...before, vda: "a-after-1.qcow2" });
  });

  test("without a name goes to the newest snapshot of the devices", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" }, { name: "mon" });
    await bench.snapshot({ vdc: "c1.qcow2" }, { name: "tue" });
    await bench.run(request(undefined, { devices: ["vda"] }));
    expect(await bench.images()).toMatchObject({ vda: "a-after-mon.qcow2", vdc: "c1.qcow2" });
    const failure = await failureOf(async () => await bench.run(request("tue", { devices: ["vda"] })));
    expect(failure).toMatchObject({ code: "E_REFUSED", device: "vda" });
    expect(failure.hint).toContain("imgtx snapshot-list vda");
  });

  test("that dies as it lifts the fence of what it left loses no snapshot, and says what nobody can tell", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    const isLifted = (image: string) => {
      let times = 0;
      return ({ name, path }: Call) => {
        if (name === "file.setModified" && path === bench.at(image)) times += 1;
        return times === 2;
      };
    };
    const dead = bench.through(killAt(bench.storage, isLifted("a1.qcow2")));
    await expect(dead.run(request())).rejects.toThrow("killed");
    const session = await bench.session();
    expect(session.recovered).toMatchObject([{ did: "finished" }]);
    expect(session.recovered[0]?.text).toContain(`'${bench.at("a1.qcow2")}'`);
    expect(session.recovered[0]?.text).toContain("can't be told");
    const snapshots = await listSnapshots(session, {});
    expect(snapshots.map(({ number, devices: [one] }) => [number, one?.intact])).toEqual([
      [2, true],
      [1, true],
    ]);
    // To what nobody wrote to, as far as can be told, one goes back; but not without being asked.
    const undone = await failureOf(async () => await bench.undo());
    expect(undone).toMatchObject({ code: "E_REFUSED" });
    await bench.run(request("2"));
    expect(await bench.images()).toMatchObject({ vda: "a1-after-2.qcow2" });
  });

  test.each([
    ["another rollback", async () => undefined],
    // Which leaves it once more, and moves its change time itself.
    [
      "a redo",
      async (bench: Workbench) => {
        await bench.undo();
        await bench.run({ kind: "redo", isForward: true, force: false });
      },
    ],
  ])("says of what %s left that it was changed, where its time was put back", async (_, then) => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.rollback();
    await then(bench);
    const doubts = async (): Promise<string> =>
      JSON.stringify((await bench.run(request("2"), { dryRun: true })).actions.map(({ notes }) => notes));
    expect(await doubts()).not.toContain("time of modification");
    const left = bench.at("a1.qcow2");
    const { mtimeNs, ctimeNs } = statSync(left, { bigint: true });
    // The kernel's clock has a grain.
    while (statSync(left, { bigint: true }).ctimeNs === ctimeNs) execFileSync("touch", ["-r", left, left]);
    expect(statSync(left, { bigint: true }).mtimeNs).toBe(mtimeNs);
    expect(await doubts()).toContain("has its old time of modification");
  });

  test("says which devices of the snapshot are none any more", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2", vdc: "c1.qcow2" });
    await bench.run({ kind: "device-remove", device: "vdc" });
    const { actions } = await bench.rollback("1");
    expect(actions.map(({ device }) => device)).toEqual(["vda"]);
    const said = `snapshot 1 keeps 'vdc' too, in ${bench.at("c.qcow2")}: that is no device any more, and stays out`;
    expect(actions[0]?.notes).toContain(said);
  });

  test("in one transaction with the snapshot that it leaves is undone, and done again", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.begin();
    await bench.snapshot({ vda: "a2.qcow2" });
    await bench.rollback("1");
    await bench.commit();
    await bench.undo();
    expect(await bench.images()).toMatchObject({ vda: "a1.qcow2" });
    expect((await listSnapshots(await bench.session(), {})).map(({ number }) => number)).toEqual([1]);
    await bench.run({ kind: "redo", isForward: true, force: false });
    expect((await listSnapshots(await bench.session(), {})).map(({ number }) => number)).toEqual([3, 2, 1]);
  });

  test("to a time goes to the newest snapshot that is as old as that", async () => {
    const bench = await makeWorkbench();
    const { host } = bench.storage;
    const at = (iso: string) =>
      bench.through({ ...bench.storage, host: { ...host, now: () => Date.parse(iso) } });
    await at("2026-03-01T10:00:00Z").snapshot({ vdc: "c1.qcow2" }, { name: "one" });
    await at("2026-03-02T10:00:00.250Z").snapshot({ vdc: "c2.qcow2" }, { name: "two" });
    await at("2026-03-03T10:00:00Z").snapshot({ vdc: "c3.qcow2" }, { name: "three" });
    // The clock was set back before this one.
    await at("2026-03-02T12:00:00Z").snapshot({ vdc: "c4.qcow2" }, { name: "four" });
    for (const [to, name] of [
      ["2026-03-02", "c3-after-four"],
      ["2026-03-02 11:59", "c1-after-two"],
      ["2026-03-02T09:59:59Z", "c-after-one"],
      ["2026-03-03 10:00", "c3-after-four"],
      // As `snapshot-list` prints it, which leaves the fraction out.
      ["2026-03-02 10:00:00Z", "c1-after-two"],
      ["2026-03-02 13:00:00+01:00", "c3-after-four"],
    ] as const) {
      const { actions } = await bench.run(request(to), { dryRun: true });
      expect(actions[0]?.after, to).toBe(bench.at(`${name}.qcow2`));
    }
    const failure = await failureOf(async () => await bench.run(request("2026-02-28")));
    expect(failure).toMatchObject({ code: "E_NOT_FOUND", changed: false });
    expect((await failureOf(async () => await bench.run(request("nonsense")))).hint).toContain(
      "four, three, two, one",
    );
  });

  test.each([
    ["is another file now", (bench: Workbench) => writeFileSync(bench.at("a.qcow2"), "x"), /./],
    ["is gone", (bench: Workbench) => rmSync(bench.at("a.qcow2")), /a\.qcow2/],
    ["stands on what changed", (bench: Workbench) => writeFileSync(bench.at("base.raw"), "x"), /base\.raw/],
  ])("to an image that %s is refused, and changes nothing", async (_, spoil, words) => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2", vdc: "c1.qcow2" });
    spoil(bench);
    const failure = await failureOf(async () => await bench.run(request()));
    expect(failure).toMatchObject({ changed: false });
    expect(failure.message).toMatch(words);
    expect(await bench.images()).toMatchObject({ vda: "a1.qcow2", vdc: "c1.qcow2" });
    expect(await listSnapshots(await bench.session(), {})).toHaveLength(1);
  });

  test("is the way out where the active layer is lost, which no snapshot can keep then", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2", vdc: "c1.qcow2" });
    rmSync(bench.at("a1.qcow2"));
    await bench.run(request("1"));
    expect(await bench.images()).toMatchObject({ vda: "a-after-1.qcow2", vdc: "c-after-1.qcow2" });
    const [newest] = await listSnapshots(await bench.session(), {});
    expect(newest?.devices.map(({ device }) => device)).toEqual(["vdc"]);
  });

  test("that discards removes what imgtx made and nobody needs, and keeps no snapshot of it", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.run(request("1", { isDiscarding: true }));
    expect(existsSync(bench.at("a1.qcow2"))).toBe(false);
    expect(await listSnapshots(await bench.session(), {})).toHaveLength(1);
    // Somebody's own image stays.
    bench.makeQcow2("own.qcow2", 7);
    await bench.reopen("vda", "own.qcow2");
    await bench.run(request("1", { isDiscarding: true }));
    expect(existsSync(bench.at("own.qcow2"))).toBe(true);
  });
});

describe("a sealed image", () => {
  test.each([
    ["reopened", async (bench: Workbench) => await bench.reopen("vdc", "a.qcow2")],
    ["added as another device", async (bench: Workbench) => await bench.add("vdx", "a.qcow2")],
  ])("is not %s: a guest would write to it", async (_, run) => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.reopen("vda", bench.makeQcow2("other.qcow2", 8));
    const before = readFileSync(bench.at("a.qcow2"));
    const failure = await failureOf(async () => await run(bench));
    expect(failure).toMatchObject({ code: "E_IN_USE", changed: false });
    expect(failure.hint).toContain("`imgtx rollback vda --to 1`");
    expect(readFileSync(bench.at("a.qcow2"))).toEqual(before);
  });
});

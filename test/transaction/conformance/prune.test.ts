// prune: what a policy keeps stays what it was, what it says is what it does, and guests do not thin out each other's.

import { expect, test } from "vitest";
import {
  listSnapshots,
  planPrune,
  type PruneDecision,
  type RetentionPolicy,
} from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { writeGuest } from "../../helpers/transaction/mirroring.ts";
import { readSnapshotContents } from "../../helpers/transaction/snapshot-contents.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

/** The workbench at another time. */
function at(bench: Workbench, iso: string): Workbench {
  const { host } = bench.storage;
  return bench.through({ ...bench.storage, host: { ...host, now: () => Date.parse(iso) } });
}

async function decide(bench: Workbench, policy: RetentionPolicy, devices: readonly string[] = []) {
  return await planPrune(await bench.session(), devices, policy);
}

function keptOf(decisions: readonly PruneDecision[]): (string | null)[] {
  return decisions.filter(({ reasons }) => reasons.length > 0).map(({ name }) => name);
}

/** The name of each snapshot, newest first, with its devices. */
async function namesLeft(bench: Workbench): Promise<string[]> {
  const snapshots = await listSnapshots(await bench.session(), {});
  return snapshots.map(({ name, devices }) => `${name}: ${devices.map(({ device }) => device).join(" ")}`);
}

/** Two guests, vda with vdb and vdc, each with a snapshot a day. */
async function withNights(days: number): Promise<Workbench> {
  const bench = await makeWorkbench();
  for (let day = 1; day <= days; day += 1) {
    const one = { kind: "snapshot-group", targets: [], name: `one-${day}` } as const;
    const targets = ["vda", "vdb"].map((device) => ({ device, file: undefined, format: "qcow2" }));
    await at(bench, `2026-05-0${day}T01:00:00Z`).snapshot({}, { ...one, targets });
    const other = [{ device: "vdc", file: undefined, format: "qcow2" }];
    await at(bench, `2026-05-0${day}T02:00:00Z`).snapshot({}, { ...one, name: `two-${day}`, targets: other });
  }
  return bench;
}

test("prune asks the policy for each device by itself, of all or of those that are named", async () => {
  const bench = await withNights(4);
  const { decisions, request } = await decide(bench, { daily: 2 });
  expect(keptOf(decisions)).toEqual(["two-4", "one-4", "two-3", "one-3"]);
  expect(request).toMatchObject({ snapshots: ["1", "2", "3", "4"], devices: [], keepsImages: false });
  expect(decisions[0]?.reasons).toEqual([{ reason: "daily", devices: ["vdc"] }]);
  expect(decisions[1]?.reasons).toEqual([{ reason: "daily", devices: ["vda", "vdb"] }]);

  const ofOne = await decide(bench, { last: 1 }, ["vda"]);
  expect(ofOne.decisions.map(({ name }) => name)).toEqual(["one-4", "one-3", "one-2", "one-1"]);
  expect(ofOne.request).toMatchObject({ snapshots: ["1", "3", "5"], devices: ["vda"] });

  const none = async () => await decide(bench, { names: ["one-*"] });
  expect(await failureOf(none)).toMatchObject({ code: "E_REFUSED", device: "vdc", changed: false });
  const missing = async () => await decide(bench, { last: 1 }, ["vdx"]);
  expect(await failureOf(missing)).toMatchObject({ code: "E_NO_DEVICE" });
  expect((await decide(bench, { daily: Infinity })).request).toBeUndefined();
});

qemu.test("does what it said, and what it keeps reads as before, again and again", async () => {
  const bench = await makeWorkbench();
  const states = new Map<string, string>();
  for (let day = 1; day <= 7; day += 1) {
    for (const { image, format } of await bench.devices())
      writeGuest(image, format, `write -P ${day} ${(day * 16) % 128}k 32k`);
    const name = `night-${day}`;
    await at(bench, `2026-05-0${day}T01:00:00Z`).snapshot(
      {},
      { kind: "snapshot-group", targets: [], isOfAll: true, name },
    );
    // Some of them are gone back to: branches.
    if (day % 3 === 0) await at(bench, `2026-05-0${day}T05:00:00Z`).rollback(`night-${day - 1}`, ["vda"]);
    for (const [key, digest] of Object.entries(await readSnapshotContents(bench, "name")))
      states.set(key, digest);
  }
  const present = await bench.content();
  for (const policy of [{ daily: 6 }, { weekly: 1, names: ["night-2"] }, { last: 1 }] as const) {
    const { decisions, request } = await decide(bench, policy);
    if (!request) throw new Error("something goes");
    await bench.run(request);
    expect((await namesLeft(bench)).map((line) => line.split(":")[0])).toEqual(keptOf(decisions));
    for (const [key, digest] of Object.entries(await readSnapshotContents(bench, "name")))
      expect(digest, key).toBe(states.get(key));
    expect(await bench.content()).toEqual(present);
    expect((await decide(bench, policy)).request).toBeUndefined();
  }
});

test("leaves what a snapshot keeps of a device that has gone, and says so", async () => {
  const bench = await withNights(2);
  await bench.remove("vdb");
  const { request, left } = await decide(bench, { last: 1 });
  expect(request).toMatchObject({ snapshots: ["1", "2"], devices: ["vda", "vdc"] });
  expect(left).toEqual([{ number: 1, device: "vdb" }]);
  if (request) await bench.run(request);
  expect(await namesLeft(bench)).toEqual(["two-2: vdc", "one-2: vda vdb", "one-1: vdb"]);
  expect((await decide(bench, { last: 1 })).request).toBeUndefined();
});

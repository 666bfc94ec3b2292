// What is asked of one snapshot takes no work for each other one, where there are thousands.

import { expect, test } from "vitest";
import { type DeviceTable, readingSnapshots, type SnapshotRef } from "../../../src/device/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { listSnapshotsOf } from "../../../src/transaction/describe/describe-snapshots.ts";
import { assertSealedStay } from "../../../src/transaction/engine/keep-sealed.ts";
import { device, table } from "../../helpers/device/tables.ts";
import { failureOf } from "../../helpers/expect-error.ts";

const COUNT = 150;

/** Snapshots of vda, each of the layer above the one before; `onLook` is called for each look at what one keeps. */
function layOut(onLook: () => void): DeviceTable {
  const layers = Array.from({ length: COUNT + 1 }, (_, depth) => `/nowhere/a${COUNT - depth}`);
  const [top = "", ...below] = layers;
  const entry = device("vda", top, ...below.map((image) => [image, image] as const));
  const sealed = entry.chain.map((one, depth) =>
    depth === 0 ? one : { ...one, sealedBy: COUNT + 1 - depth },
  );
  const snapshots = entry.chain.slice(1).map((one, depth): SnapshotRef => {
    const number = COUNT - depth;
    const kept = {
      device: "vda",
      virtualSizeBytes: 512,
      below: number === 1 ? null : number - 1,
      get chain() {
        onLook();
        return [{ ...one, name: null }];
      },
    };
    const unwritten = { number, name: null, message: null, created: "2026-11-28T00:00:00Z", devices: [kept] };
    return { number, name: null, record: number, unwritten };
  });
  const { devices: _devices, ...rest } = table();
  return { ...rest, devices: [{ ...entry, chain: sealed }], snapshots: snapshots.toReversed() };
}

test("a list of a device's snapshots looks at what each keeps, and not at all that it stands on", async () => {
  let looks = 0;
  const laidOut = layOut(() => (looks += 1));
  const workspace = { storage: makeNodeStorage(), root: "/nowhere" };
  const listed = await listSnapshotsOf(workspace, laidOut, { device: "vda" });
  expect(listed.map(({ devices: [one] }) => one?.depth)).toEqual(
    Array.from({ length: COUNT }, (_, index) => COUNT - index),
  );
  expect(listed.at(-3)?.devices[0]?.problems).toEqual(
    ["a2", "a1", "a0"].map((name) => `/nowhere/${name} is not there`),
  );
  expect(looks).toBeLessThan(4 * COUNT);
});

test("the refusal of a sealed image that a device stands on reads the one record that has it", async () => {
  const laidOut = layOut(() => undefined);
  const snapshots = readingSnapshots({ storage: makeNodeStorage(), root: "/nowhere" }, laidOut);
  const read: number[] = [];
  const counting = {
    ...snapshots,
    read: async (ref: SnapshotRef) => {
      read.push(ref.number);
      return await snapshots.read(ref);
    },
  };
  const after = device("vdb", "/nowhere/a2");
  const plan = { devices: ["vdb"], changes: [{ device: "vdb", after }], newFiles: [] };
  const failure = await failureOf(
    async () => await assertSealedStay(makeNodeStorage(), counting, laidOut, plan),
  );
  expect(failure).toMatchObject({ code: "E_IN_USE", device: "vdb", image: "/nowhere/a2" });
  expect(failure.message).toContain("snapshot 3 keeps it");
  expect(read).toEqual([3]);
});

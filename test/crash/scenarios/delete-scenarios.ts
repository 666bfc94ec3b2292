// Scenarios of snapshots that are deleted: their layers come to one with others, up or down, or go, or stay.

import { addAll, DEVICES, filesOf, ONE, OTHER, type Scenario, step, write } from "./sample-devices.ts";

/** What is written to in place. */
const CHANGING = {
  "ws/a.qcow2": "qcow2",
  "ws/a1.qcow2": "qcow2",
  "ws/a2.qcow2": "qcow2",
  "ws/a3.qcow2": "qcow2",
  "ws/b.raw": "raw",
  "ws/b1.qcow2": "qcow2",
  "ws/b2.qcow2": "qcow2",
  "ws/b3.qcow2": "qcow2",
  "ws/d.qcow2": "qcow2",
  "ws/d1.qcow2": "qcow2",
} as const;

const WITH_RAW = DEVICES.slice(0, 2);
const OLD = DEVICES.slice(3, 4);

const group = (turn: number) => step(`snapshot-group vda=a${turn}.qcow2 vdb=b${turn}.qcow2`);

export const DELETE_SCENARIOS: readonly Scenario[] = [
  // The lowest is the operator's own, and gets what stands on it; the active layer is pointed past that.
  {
    name: "snapshot-delete",
    files: filesOf(ONE, [OTHER]),
    prepare: [
      ...addAll(ONE),
      step("snapshot vda a1.qcow2"),
      write("a1.qcow2"),
      step("snapshot vda a2.qcow2"),
    ],
    changing: CHANGING,
    steps: [step("snapshot-delete 1")],
    inSlice: true,
  },
  // Elsewhere that fails, since the lowest is smaller than what comes down into it by then.
  {
    name: "a snapshot, larger disks, another snapshot, and the first one deleted",
    files: filesOf(WITH_RAW, [OTHER]),
    prepare: [
      ...addAll(WITH_RAW),
      group(1),
      step("resize vda 640k"),
      step("resize vdb 320k"),
      write("a1.qcow2"),
      group(2),
    ],
    changing: CHANGING,
    steps: [step("snapshot-delete 1")],
  },
  // The one request that a policy comes to, with what the snapshot keeps beside.
  {
    name: "prune",
    files: filesOf(WITH_RAW, [OTHER]),
    prepare: [
      ...addAll(WITH_RAW),
      step("snapshot-group vda=a1.qcow2 vdb=b1.qcow2 --with other.qcow2"),
      group(2),
    ],
    changing: CHANGING,
    steps: [{ ...step("prune --keep-last 1"), orRefused: true }],
  },
  // One goes up, into the active layer; then the device goes back to its own image.
  {
    name: "snapshot-delete up, and then the last one",
    files: filesOf(ONE, [OTHER]),
    prepare: [
      ...addAll(ONE),
      step("snapshot vda a1.qcow2"),
      step("snapshot vda a2.qcow2"),
      write("a2.qcow2"),
    ],
    changing: CHANGING,
    steps: [step("snapshot-delete 2"), { ...step("snapshot-delete 1"), orRefused: true }],
  },
  {
    name: "snapshot-delete of what has no place for a fence",
    files: filesOf([...WITH_RAW, ...OLD], [OTHER]),
    prepare: [
      ...addAll([...WITH_RAW, ...OLD]),
      step("snapshot-group vdb=b1.qcow2 vdd=d1.qcow2"),
      step("snapshot-group vdb=b2.qcow2 vdd=d2.qcow2"),
    ],
    changing: CHANGING,
    steps: [step("snapshot-delete 1 --device vdb"), { ...step("snapshot-delete 2 1"), orRefused: true }],
  },
  // Runs one above the other, a branch that stays, and one that goes: each image of two devices has its part in it.
  {
    name: "snapshot-delete of several with a branch, on 2 devices in a transaction",
    files: filesOf(WITH_RAW, [OTHER]),
    prepare: [
      ...addAll(WITH_RAW),
      group(1),
      write("a1.qcow2"),
      group(2),
      group(3),
      step("rollback --to 2"),
      step("snapshot-group --all"),
    ],
    changing: CHANGING,
    steps: [
      step("txn begin"),
      step("snapshot-delete 1 4 5"),
      { ...step("txn commit"), orRefused: true },
      { ...step("snapshot-delete 3"), orRefused: true },
    ],
    studied: [2, 3],
  },
  // The second one leaves what the first one changes at the commit; the snapshot between them stands on both.
  {
    name: "snapshot-delete, a snapshot, and snapshot-delete again in a transaction",
    files: filesOf(ONE, [OTHER]),
    prepare: [
      ...addAll(ONE),
      step("snapshot vda a1.qcow2"),
      write("a1.qcow2"),
      step("snapshot vda a2.qcow2"),
      step("snapshot vda a3.qcow2"),
    ],
    changing: CHANGING,
    steps: [
      step("txn begin"),
      step("snapshot-delete 1"),
      step("snapshot vda a4.qcow2"),
      step("snapshot-delete 3 2"),
      { ...step("txn commit"), orRefused: true },
      { ...step("snapshot-delete 4"), orRefused: true },
    ],
    studied: [4, 5],
  },
];

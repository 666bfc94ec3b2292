// Scenarios of merges: overlays go down into images below them, and away.

import { addAll, DEVICES, filesOf, ONE, OTHER, qcow2, type Scenario, step, write } from "./sample-devices.ts";

/** What is written to in place. */
const CHANGING = { "ws/golden.qcow2": "qcow2", "ws/a.qcow2": "qcow2", "ws/d.qcow2": "qcow2" } as const;
const OLD = DEVICES.slice(3, 4);
const WITH_RAW = DEVICES.slice(0, 2);
const WITH_OLD = [...ONE, ...OLD];

/** Overlays of others: on the lowest image, on one in the middle, which is a device's, and on an upper one. */
const WITH_SIBLINGS = [
  ...ONE.flatMap((device) => device.files()),
  qcow2("ws/a1.qcow2", {
    dataClusters: [8],
    seed: 16,
    backing: { name: "a.qcow2", format: "qcow2" },
  }),
  qcow2("ws/a2.qcow2", { dataClusters: [2], seed: 17, backing: { name: "a1.qcow2", format: "qcow2" } }),
  qcow2("ws/s.qcow2", { dataClusters: [7], seed: 13, backing: { name: "golden.qcow2", format: "qcow2" } }),
  qcow2("ws/t.qcow2", {
    dataClusters: [9],
    seed: 14,
    version: 2,
    backing: { name: "a.qcow2", format: "qcow2" },
  }),
  qcow2("ws/u.qcow2", { dataClusters: [], seed: 15, backing: { name: "a1.qcow2", format: "qcow2" } }),
];

export const MERGE_SCENARIOS: readonly Scenario[] = [
  {
    name: "merge",
    files: filesOf(ONE),
    prepare: addAll(ONE),
    changing: CHANGING,
    steps: [step("merge vda")],
    inSlice: true,
  },
  {
    name: "merge 2 devices, one of an old version",
    files: filesOf(WITH_OLD, [OTHER]),
    prepare: [
      ...addAll(WITH_OLD),
      step("snapshot-group vda=a1.qcow2 vdd=d1.qcow2"),
      write("a1.qcow2"),
      write("d1.qcow2"),
    ],
    changing: CHANGING,
    steps: [step("merge vda vdd")],
  },
  // They grow first: by a redo log under a fence that stays up, and where no fence can be.
  {
    name: "merge into smaller images",
    files: filesOf(WITH_RAW),
    prepare: [
      ...addAll(WITH_RAW),
      step("snapshot-group vda=a1.qcow2 vdb=b1.qcow2"),
      step("resize vda 640k"),
      step("resize vdb 320k"),
    ],
    changing: { ...CHANGING, "ws/b.raw": "raw" },
    steps: [step("merge vda vdb")],
  },
  // What stands on them is pointed to the result, the active layer or one below it; the image grows first.
  {
    name: "merge in the middle of two chains",
    files: filesOf(WITH_OLD, [OTHER]),
    prepare: [
      ...addAll(WITH_OLD),
      step("snapshot-group vda=a1.qcow2 vdd=d1.qcow2"),
      write("a1.qcow2"),
      write("d1.qcow2"),
      step("resize vda 640k"),
      step("snapshot-group vda=a2.qcow2 vdd=d2.qcow2"),
      step("snapshot vda a3.qcow2"),
    ],
    changing: { ...CHANGING, "ws/a2.qcow2": "qcow2", "ws/d2.qcow2": "qcow2" },
    steps: [
      step("txn begin"),
      step("merge vda --from a1.qcow2 --into golden.qcow2"),
      step("merge vdd --from d1.qcow2"),
      { ...step("txn commit"), orRefused: true },
    ],
    studied: [3],
  },
  {
    name: "merge three overlays and their bitmaps in a transaction",
    files: filesOf(ONE, [OTHER]),
    prepare: [
      ...addAll(ONE),
      step("bitmap add vda night"),
      step("snapshot vda a1.qcow2"),
      write("a1.qcow2"),
      step("snapshot vda a2.qcow2"),
      step("bitmap add vda week"),
    ],
    changing: CHANGING,
    steps: [
      step("txn begin"),
      step("merge vda --into golden.qcow2"),
      { ...step("txn commit"), orRefused: true },
    ],
  },
  // Redo logs come first, then all copies, then snapshots of what was copied, and pointers to it.
  {
    name: "merges, a pull and what follows them in one transaction",
    files: filesOf(WITH_OLD, [OTHER]),
    prepare: [
      ...addAll(WITH_OLD),
      step("snapshot-group vda=a1.qcow2 vdd=d1.qcow2"),
      write("a1.qcow2"),
      step("snapshot vdd d2.qcow2"),
    ],
    changing: { ...CHANGING, "ws/d2.qcow2": "qcow2" },
    steps: [
      step("txn begin"),
      step("resize vda 640k"),
      step("merge vda"),
      step("merge vda"),
      step("resize vda 704k"),
      step("internal-snapshot create vda one"),
      step("pull vdd --base d.qcow2"),
      step("internal-snapshot create vdd one"),
      step("snapshot vdd d3.qcow2"),
      { ...step("txn commit"), orRefused: true },
    ],
    studied: [9],
  },
  // They get first what they would lose: in the middle what differs, and all of it where the device goes onto the image.
  {
    name: "merge past siblings",
    files: filesOf([], WITH_SIBLINGS),
    // One of them is what a snapshot keeps, and one the device's own mirror.
    prepare: [
      step("device add vda a2.qcow2"),
      step("device add vdt t.qcow2"),
      step("snapshot vdt t1.qcow2 --name mon"),
      step("mirror vda m.qcow2 --sync top"),
    ],
    changing: {
      ...CHANGING,
      "ws/a2.qcow2": "qcow2",
      "ws/s.qcow2": "qcow2",
      "ws/t.qcow2": "qcow2",
      "ws/u.qcow2": "qcow2",
      "ws/m.qcow2": "qcow2",
    },
    steps: [
      step("merge vda --from a1.qcow2 --into golden.qcow2 --rebase-siblings"),
      step("merge vda --rebase-siblings"),
    ],
  },
];

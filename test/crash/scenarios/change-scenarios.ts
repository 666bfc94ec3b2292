// Scenarios of changes in place: images that are there get another size, or other internal snapshots.

import {
  addAll,
  back,
  DEVICES,
  filesOf,
  ONE,
  OTHER,
  onTwo,
  type Scenario,
  step,
  COMMIT_UNDER_FENCES,
  withLeak,
  write,
} from "./sample-devices.ts";

/** All of them are written to, and told by what a guest sees. */
const CHANGING = {
  "ws/a.qcow2": "qcow2",
  "ws/b.raw": "raw",
  "images/c.qcow2": "qcow2",
  "ws/d.qcow2": "qcow2",
  "ws/e.qcow2": "qcow2",
} as const;

const WITHOUT_RAW = DEVICES.filter(({ format }) => format === "qcow2");

const onTwoChanging = (name: string, steps: Scenario["steps"], more: Partial<Scenario> = {}): Scenario =>
  onTwo(name, steps, {
    changing: { "ws/a.qcow2": "qcow2", "ws/b.raw": "raw" },
    ...more,
  });

/** The images that are written to, each with a cluster at its end that is counted and not used. */
function leaking(files: Scenario["files"]): Scenario["files"] {
  return () => files().map((file) => (Object.hasOwn(CHANGING, file.path) ? withLeak(file) : file));
}

export const CHANGE_SCENARIOS: readonly Scenario[] = [
  onTwoChanging("resize", [step("resize vda 320k"), step("resize vdb 60k --shrink --force")], {
    inSlice: true,
  }),
  {
    name: "resize 5 devices in a transaction",
    files: filesOf(DEVICES),
    prepare: addAll(DEVICES),
    changing: CHANGING,
    steps: [
      step("txn begin"),
      step("resize vda +64k --preallocation full"),
      step("resize vdb +64k --preallocation falloc"),
      // Its clusters are of 512 bytes: tables go, and are moved.
      step("resize vdc 64k --shrink --force"),
      step("resize vdd 64k --shrink --force"),
      step("resize vde +1M --preallocation metadata"),
      COMMIT_UNDER_FENCES,
    ],
    studied: [3, 6],
  },
  {
    name: "internal snapshots of 2 devices",
    files: filesOf(WITHOUT_RAW.slice(0, 2)),
    prepare: addAll(WITHOUT_RAW.slice(0, 2)),
    changing: CHANGING,
    steps: [
      step("internal-snapshot create vda vdc one"),
      step("internal-snapshot apply vda vdc one"),
      step("internal-snapshot delete vda vdc one"),
    ],
    studied: [0],
  },
  {
    name: "an internal snapshot of 4 devices, gone back to in a transaction, and deleted",
    files: filesOf(WITHOUT_RAW),
    prepare: addAll(WITHOUT_RAW),
    changing: CHANGING,
    steps: [
      step("internal-snapshot create vda vdc vdd vde one"),
      step("txn begin"),
      step("internal-snapshot apply vda vdc vdd vde one"),
      step("internal-snapshot delete vda vdc vdd vde one"),
      COMMIT_UNDER_FENCES,
    ],
    studied: [3, 4],
  },
  {
    name: "a snapshot of what an internal snapshot left, that its device leaves in the same transaction, and back to it",
    files: filesOf([...ONE, ...DEVICES.slice(3, 4)], [OTHER]),
    prepare: [
      ...addAll([...ONE, ...DEVICES.slice(3, 4)]),
      step("internal-snapshot create vda vdd one"),
      write("a.qcow2"),
      write("d.qcow2"),
    ],
    changing: CHANGING,
    steps: [
      step("txn begin"),
      step("internal-snapshot apply vda vdd one"),
      step("snapshot-group vda=a1.qcow2 vdd=d1.qcow2"),
      step("pull vda"),
      step("reopen vdd other.qcow2"),
      COMMIT_UNDER_FENCES,
      step("rollback --to 1"),
    ],
    studied: [5],
  },
  // Elsewhere the first of two snapshots can't be deleted any more, since the disk is larger by then.
  {
    name: "an internal snapshot, a larger disk, another snapshot, and the first one deleted",
    files: filesOf(ONE),
    prepare: addAll(ONE),
    changing: CHANGING,
    steps: [
      step("internal-snapshot create vda one"),
      step("resize vda 1M"),
      step("internal-snapshot create vda two"),
      step("internal-snapshot delete vda one"),
      step("internal-snapshot apply vda two"),
    ],
    studied: [1, 3, 4],
  },
  // Told by their bytes: bitmaps are none of what a guest sees.
  {
    name: "bitmaps of 1 device",
    files: filesOf(ONE),
    prepare: addAll(ONE),
    steps: [
      step("bitmap add vda b0 -g 512"),
      step("bitmap remove vda b0"),
      step("snapshot vda a1.qcow2 --bitmap b1"),
    ],
    studied: [0, 2],
  },
  {
    name: "bitmaps of 2 devices in a transaction",
    files: filesOf(WITHOUT_RAW.slice(0, 2)),
    prepare: addAll(WITHOUT_RAW.slice(0, 2)),
    steps: [
      step("txn begin"),
      step("bitmap add vda vdc b0"),
      step("bitmap clear vda vdc b0"),
      step("txn commit"),
    ],
    studied: [1, 3],
  },
  {
    name: "amend 1 device, and back",
    files: filesOf(ONE),
    prepare: addAll(ONE),
    steps: [step("amend vda -o compat=0.10"), step("amend vda -o compat=1.1,refcount_bits=64")],
    studied: [0, 1],
  },
  {
    name: "amend 2 devices in a transaction",
    files: filesOf(WITHOUT_RAW.slice(0, 2)),
    prepare: addAll(WITHOUT_RAW.slice(0, 2)),
    steps: [
      step("txn begin"),
      step("amend vda vdc -o refcount_bits=8,lazy_refcounts=on"),
      step("amend vda vdc -o refcount_bits=16,compat=0.10"),
      step("txn commit"),
    ],
    studied: [1, 3],
  },
  {
    name: "repair 1 device, and take that back",
    files: leaking(filesOf(ONE)),
    prepare: addAll(ONE),
    changing: CHANGING,
    steps: [step("repair vda --keep-undo vda.undo"), step("repair vda --undo vda.undo")],
    studied: [0, 1],
  },
  {
    name: "repair 2 devices in a transaction",
    files: leaking(filesOf(WITHOUT_RAW.slice(0, 2))),
    prepare: addAll(WITHOUT_RAW.slice(0, 2)),
    changing: CHANGING,
    steps: [step("txn begin"), step("repair vda vdc -r leaks"), step("txn commit")],
    studied: [1, 2],
  },
  onTwoChanging("resize, taken back to a savepoint, and aborted", [
    step("txn begin"),
    step("resize vda +64k"),
    step("txn savepoint here"),
    step("resize vda 64k --shrink --force"),
    back("txn rollback-to here"),
    step("snapshot vda a1.qcow2"),
    back("txn abort"),
  ]),
  onTwoChanging("a refused action takes a resize back", [step("txn run batch", 14)], {
    files: filesOf(DEVICES.slice(0, 2), [
      { path: "ws/batch", bytes: Buffer.from("resize vda +64k\nresize vdb +64k\nrefuse\n") },
    ]),
  }),
];

// Scenarios whose images lie on block devices, for the simulated disk: there a device is a node that keeps its name and
// its size, and the judge sees each byte of it.

import { sampleQcow2, sampleRaw } from "../../helpers/sample-image.ts";
import { addAll, filesOf, ONE, type SampleFile, type Scenario, step, back, OTHER } from "./sample-devices.ts";
import { PROVISIONER } from "../simulated/simulated-provisioner.ts";
import type { Step } from "../subject.ts";

const KIB = 1024;
const VOLUME_BYTES = 256 * KIB;

/** Full of what its last user left, after the image. */
function volume(path: string, image: Uint8Array): SampleFile {
  const bytes = new Uint8Array(VOLUME_BYTES).fill(0x5a);
  bytes.set(image);
  return { path, bytes, isDevice: true };
}

/** A qcow2 image that can have a fence, one that can't, and a raw disk. */
const VOLUMES: readonly SampleFile[] = [
  volume("images/vol-a", sampleQcow2({ virtualSizeBytes: 192 * KIB, dataClusters: [3, 7], seed: 2 })),
  volume("images/vol-b", sampleRaw(VOLUME_BYTES, 3)),
  volume(
    "images/vol-c",
    sampleQcow2({ virtualSizeBytes: 192 * KIB, dataClusters: [2], seed: 5, version: 2 }),
  ),
];

const ADDED: readonly Step[] = [
  step("device add vda ../images/vol-a --format qcow2 --allow-devices"),
  step("device add vdb ../images/vol-b --format raw"),
  step("device add vdc ../images/vol-c --format qcow2"),
];

function onVolumes(name: string, steps: readonly Step[], more: Partial<Scenario> = {}): Scenario {
  return { name, files: filesOf([], VOLUMES), prepare: ADDED, steps, ...more };
}

/** Written to in place, and told by what a guest sees. */
const CHANGING = { "images/vol-a": "qcow2", "images/vol-b": "raw", "images/vol-d": "qcow2" } as const;

/** Another one that can have a fence, with room for what is copied into it, and files on both. */
const OTHER_VOLUME = volume(
  "images/vol-d",
  sampleQcow2({ virtualSizeBytes: 192 * KIB, dataClusters: [1, 7], seed: 9 }),
);
const ON_TWO: Partial<Scenario> = {
  files: filesOf([], [...VOLUMES, OTHER_VOLUME, OTHER]),
  prepare: [...ADDED, step("device add vdd ../images/vol-d --format qcow2")],
  changing: CHANGING,
};

/** A guest writes to an overlay of a volume. */
function writeOver(overlay: string, base: string): Step {
  const allowed = `--allow-devices --allow-path /disks/images/${base}`;
  return step(`img convert -n ${allowed} -f qcow2 -O qcow2 other.qcow2 ${overlay}`);
}

/** Volumes for overlays: one that is empty, and one that its last user left full. Both have room for what a guest writes. */
const TARGET_BYTES = 640 * KIB;
const TARGETS: readonly SampleFile[] = [
  { path: "images/vol-e", bytes: new Uint8Array(TARGET_BYTES), isDevice: true },
  { path: "images/vol-f", bytes: new Uint8Array(TARGET_BYTES).fill(0x5a), isDevice: true },
];
const OVER_TWO: Partial<Scenario> = {
  files: filesOf([], [...VOLUMES, ...TARGETS]),
  // What is on them before is nobody's, and imgtx writes to them in place.
  changing: { "images/vol-e": "overlay", "images/vol-f": "overlay" },
};

/** Volumes for mirrors: one that is empty, and one that its last user left full, as large as the raw disk. */
const ONTO_TWO: Partial<Scenario> = {
  files: filesOf(
    [],
    [
      ...VOLUMES,
      { path: "images/vol-e", bytes: new Uint8Array(TARGET_BYTES), isDevice: true },
      { path: "images/vol-g", bytes: new Uint8Array(VOLUME_BYTES).fill(0x5a), isDevice: true },
    ],
  ),
  // What a mirror holds is told by its device.
  changing: { "images/vol-e": "overlay", "images/vol-g": "overlay" },
};

/** Two devices for which volumes are made. */
const PROVISIONED: Partial<Scenario> = {
  files: filesOf([], [...VOLUMES, { path: "provisioner", bytes: new Uint8Array(1), mode: 0o755 }]),
  prepare: [
    ...ADDED,
    step(`device provision vda ${PROVISIONER}`),
    step(`device provision vdb ${PROVISIONER}`),
  ],
  changing: { "images/vol-m": "overlay", "images/vol-n": "overlay" },
};

/** A volume that its image fills to the end, with an overlay on it that a guest has written to. */
const FULL: Partial<Scenario> = {
  files: filesOf(
    [],
    [
      {
        path: "images/vol-a",
        bytes: sampleQcow2({ virtualSizeBytes: 192 * KIB, dataClusters: [3, 7], seed: 2 }),
        isDevice: true,
      },
      OTHER,
      { path: "provisioner", bytes: new Uint8Array(1), mode: 0o755 },
    ],
  ),
  prepare: [
    step("device add vda ../images/vol-a --format qcow2 --allow-devices"),
    step(`device provision vda ${PROVISIONER}`),
    step("snapshot vda a1.qcow2"),
    writeOver("a1.qcow2", "vol-a"),
  ],
  changing: { "images/vol-a": "qcow2" },
};

/** Where its redo logs and copies come to. */
const IN_PLACE: readonly Scenario[] = [
  onVolumes(
    "a volume resized, and back, by redo logs in the workspace",
    [step("resize vda 320k"), step("resize vda 64k --shrink --force")],
    ON_TWO,
  ),
  onVolumes(
    "internal snapshots of two volumes",
    [
      step("internal-snapshot create vda vdd one"),
      step("internal-snapshot apply vda vdd one"),
      step("internal-snapshot delete vda vdd one"),
    ],
    ON_TWO,
  ),
  onVolumes(
    "bitmaps and options of volumes",
    [step("bitmap add vda vdd b0"), step("amend vda vdd -o lazy_refcounts=on")],
    ON_TWO,
  ),
  onVolumes("two volumes frozen and unfrozen", [step("freeze vda vdd"), step("unfreeze vda vdd")], ON_TWO),
  onVolumes(
    "a group snapshot onto volumes",
    [step("snapshot-group vda=../images/vol-e vdb=../images/vol-f --overwrite --name one")],
    OVER_TWO,
  ),
  onVolumes(
    "two volumes mirrored onto volumes, and left for them",
    [step("mirror vda=../images/vol-e vdb=../images/vol-g --overwrite"), step("reopen vda ../images/vol-e")],
    ONTO_TWO,
  ),
  onVolumes(
    "a snapshot onto volumes that are made for it",
    [step("snapshot-group vda=../images/vol-m vdb=../images/vol-n --size 640k --name one")],
    PROVISIONED,
  ),
  onVolumes(
    "a volume that is made in a transaction of several commands, and goes when that is aborted",
    [step("txn begin"), step("snapshot vda ../images/vol-m --size 640k"), back("txn abort")],
    { ...PROVISIONED, studied: [1, 2] },
  ),
  onVolumes(
    "a volume that is made for a rollback, and one that goes with what is left",
    [step("rollback vda --to one --discard --size 640k")],
    {
      ...PROVISIONED,
      prepare: [...(PROVISIONED.prepare ?? []), step("snapshot vda ../images/vol-m --size 640k --name one")],
      changing: { "images/vol-m": "overlay", "images/vol-a-after-one": "overlay" },
    },
  ),
  onVolumes(
    "a volume that is extended for a merge, and for a bitmap after that, in a transaction of several commands",
    [step("txn begin"), step("merge vda --keep"), step("bitmap add vda b0"), step("txn commit")],
    { ...FULL, studied: [2, 3] },
  ),
  onVolumes(
    "volumes changed, mirrored and snapshotted onto others in a transaction of several commands",
    [
      step("txn begin"),
      step("resize vda 320k"),
      step("mirror vdb=../images/vol-g --overwrite"),
      step("snapshot vda ../images/vol-e --name one"),
      step("txn commit"),
    ],
    { ...ONTO_TWO, changing: { ...ONTO_TWO.changing, "images/vol-a": "qcow2" }, studied: [1, 2, 3, 4] },
  ),
  onVolumes("overlays merged into a volume of qcow2 and one of raw", [step("merge vda vdb")], {
    ...ON_TWO,
    prepare: [
      ...(ON_TWO.prepare ?? []),
      step("snapshot-group vda=a1.qcow2 vdb=b1.qcow2"),
      writeOver("a1.qcow2", "vol-a"),
      writeOver("b1.qcow2", "vol-b"),
    ],
  }),
];

/** A chain in files that moves onto volumes, the copy of its parent by the parent's name. */
const ONTO_VOLUMES: Scenario = {
  name: "a chain migrated from files onto volumes",
  files: filesOf(ONE, [
    { path: "images/a.qcow2", bytes: new Uint8Array(TARGET_BYTES), isDevice: true },
    { path: "images/top", bytes: new Uint8Array(TARGET_BYTES).fill(0x5a), isDevice: true },
  ]),
  prepare: addAll(ONE),
  steps: [
    step("migrate vda ../images/top --new-source top.qcow2 --allow-devices --overwrite"),
    step("mirror vda"),
    step("reopen vda ../images/top"),
  ],
  changing: { "images/a.qcow2": "overlay", "images/top": "overlay" },
};

/** Overlays on volumes that go when they are merged: the volumes stay, and hold nothing. */
const LET_GO: Scenario = onVolumes(
  "overlays on volumes merged, and let go",
  [step("snapshot-delete one"), step("merge vda")],
  {
    ...OVER_TWO,
    files: filesOf([], [...VOLUMES, ...TARGETS, OTHER]),
    prepare: [
      ...ADDED,
      step("snapshot vda ../images/vol-e --name one"),
      step("snapshot vda ../images/vol-f --name two --overwrite"),
    ],
    changing: { ...OVER_TWO.changing, "images/vol-a": "qcow2" },
  },
);

/** What is merged is read through the log of a change that the layer, which goes, never gets. */
const CHANGED_AND_MERGED: Scenario = onVolumes(
  "an overlay on a volume changed and merged in a transaction of several commands",
  [
    step("txn begin"),
    step("internal-snapshot apply vda s"),
    step("internal-snapshot delete vda s"),
    step("merge vda"),
    step("txn commit"),
  ],
  {
    ...OVER_TWO,
    files: filesOf([], [...VOLUMES, ...TARGETS, OTHER]),
    prepare: [
      ...ADDED,
      step("snapshot vda ../images/vol-e"),
      step("internal-snapshot create vda s"),
      writeOver("../images/vol-e", "vol-a"),
    ],
    changing: { ...OVER_TWO.changing, "images/vol-a": "qcow2" },
    studied: [4],
  },
);

/** Changed when the table has moved, by logs in the workspace: a volume has no times that would tell of it. */
const CHANGED_AND_LEFT: Scenario = onVolumes(
  "a volume changed, kept by a snapshot and left in one transaction, and back to it",
  [
    step("txn begin"),
    step("internal-snapshot apply vda s"),
    step("snapshot vda a1.qcow2"),
    step("reopen vda other.qcow2"),
    step("txn commit"),
    step("rollback vda=back.qcow2 --to 1"),
  ],
  {
    files: filesOf([], [...VOLUMES, OTHER]),
    prepare: [...ADDED, step("internal-snapshot create vda s"), writeOver("../images/vol-a", "vol-a")],
    changing: CHANGING,
    studied: [4],
  },
);

export const DEVICE_SCENARIOS: readonly Scenario[] = [
  ONTO_VOLUMES,
  LET_GO,
  CHANGED_AND_MERGED,
  CHANGED_AND_LEFT,
  onVolumes("a group snapshot of three volumes, in files", [
    step("snapshot-group vda=a1.qcow2 vdb=b1.qcow2 vdc=c1.qcow2 --name one"),
  ]),
  onVolumes("a snapshot of a volume in a transaction, and back", [
    step("txn begin"),
    step("snapshot vda a1.qcow2"),
    back("txn abort"),
  ]),
  onVolumes("a volume left and come back to, by undo and redo", [
    step("snapshot vda a1.qcow2"),
    back("undo"),
    step("redo --force"),
  ]),
  onVolumes("a volume copied to a file, and left for it", [
    step("mirror vda m.qcow2"),
    step("reopen vda m.qcow2"),
  ]),
  onVolumes("a volume that a device is reopened to", [
    step("device remove vdc"),
    step("reopen vda ../images/vol-c --format qcow2"),
  ]),
  ...IN_PLACE,
];

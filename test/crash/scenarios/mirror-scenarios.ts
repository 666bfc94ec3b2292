// Scenarios of mirrors: made, brought in sync, forgotten.

import { sampleRaw } from "../../helpers/sample-image.ts";
import {
  addAll,
  back,
  filesOf,
  ONE,
  onTwo,
  OTHER,
  qcow2,
  type SampleFile,
  type Scenario,
  step,
  write,
  TWO,
  COMMIT_UNDER_FENCES,
} from "./sample-devices.ts";
import type { Step } from "../subject.ts";

export const OTHER_RAW: SampleFile = { path: "ws/other.raw", bytes: sampleRaw(64 * 1024, 12) };

/** Writes to a device's image, as a guest would. */
const WRITE_VDA = write("a.qcow2");
const WRITE_VDB = step("img convert -n -f raw -O raw other.raw b.raw");

const WITH_MIRRORS = {
  "ws/a.qcow2": "qcow2",
  "ws/b.raw": "raw",
  "ws/m.qcow2": "qcow2",
  "ws/n.raw": "raw",
} as const;

function onMirrored(
  name: string,
  prepare: readonly Step[],
  steps: readonly Step[],
  changes: Partial<Scenario> = {},
): Scenario {
  return onTwo(name, steps, {
    files: filesOf(TWO, [OTHER, OTHER_RAW]),
    prepare: [...addAll(TWO), ...prepare],
    changing: { "ws/m.qcow2": "qcow2", "ws/n.raw": "raw" },
    ...changes,
  });
}

/** A mirror, and then something new for it. */
export const MIRRORED = [step("mirror vda m.qcow2"), WRITE_VDA];

/** A mirror of other content, with the cluster size of its device. */
const OLD_MIRROR = qcow2("ws/m.qcow2", { dataClusters: [1, 3, 20], zeroClusters: [7], seed: 13 });

export const MIRROR_SCENARIOS: readonly Scenario[] = [
  // What is in sync already needs nothing: a crash of the first must not leave a mirror that looks changed.
  onTwo("mirror", [step("mirror vda m.qcow2"), step("mirror vda")], { inSlice: true }),
  onTwo("mirror two devices side by side", [step("mirror vda=m.qcow2 vdb=n.raw --verify")]),
  onTwo("mirror the active layer alone", [step("mirror vda ../images/m.qcow2 --sync top --relative")]),
  onTwo("mirror a raw device into a compressed image", [
    step("mirror vdb m.qcow2 --format qcow2 --compress"),
  ]),
  onTwo("mirror into a data file", [step("mirror vdb m.qcow2 --format qcow2 -o data_file=m.data")], {
    files: filesOf(TWO),
  }),
  onTwo("mirror in a transaction, and abort", [
    step("txn begin"),
    step("mirror vda m.qcow2"),
    back("txn abort"),
  ]),
  onTwo(
    "mirror with a bitmap, and forget both",
    [step("mirror vda m.qcow2 --bitmap"), step("mirror vda --cancel")],
    { changing: { "ws/a.qcow2": "qcow2" } },
  ),
  onMirrored(
    "two mirrors get the sizes of their devices",
    [step("mirror vda=m.qcow2 vdb=n.raw")],
    [step("resize vda 320k"), step("resize vdb 60k --shrink --force"), step("mirror vda=m.qcow2 vdb=n.raw")],
    { changing: WITH_MIRRORS, studied: [0, 1] },
  ),
  onMirrored("a mirror that is behind grows, and is brought in sync", MIRRORED, [step("txn run batch")], {
    changing: WITH_MIRRORS,
    files: filesOf(TWO, [
      OTHER,
      { path: "ws/batch", bytes: Buffer.from("mirror vda\nresize vda +64k\nmirror vda\n") },
    ]),
  }),
  onMirrored("bring a mirror in sync", MIRRORED, [step("mirror vda"), step("mirror vda")]),
  onMirrored(
    "bring two mirrors in sync",
    [step("mirror vda=m.qcow2 vdb=n.raw"), WRITE_VDA, WRITE_VDB],
    [step("mirror vda=m.qcow2 vdb=n.raw")],
  ),
  onMirrored(
    "bring a raw mirror in sync",
    [step("mirror vdb n.raw"), WRITE_VDB],
    [step("mirror vdb"), step("mirror vdb")],
  ),
  onMirrored(
    "bring two mirrors in sync, the journal told of each step",
    [step("mirror vda=m.qcow2 vdb=n.raw"), WRITE_VDA, WRITE_VDB],
    [step("mirror vda=m.qcow2 vdb=n.raw")],
    { env: { IMGTX_MARK_EVERY: "0" } },
  ),
  onMirrored(
    "bring a mirror in sync by the new overlay alone",
    [step("mirror vda m.qcow2"), step("snapshot vda a1.qcow2"), write("a1.qcow2")],
    [step("mirror vda"), step("mirror vda")],
  ),
  onMirrored(
    "bring a mirror in sync twice in a transaction, and commit",
    MIRRORED,
    [
      step("txn begin"),
      step("mirror vda"),
      step("snapshot vda a1.qcow2"),
      step("mirror vda"),
      COMMIT_UNDER_FENCES,
    ],
    { studied: [1, 3, 4] },
  ),
  // One copy before the table moves, and one after it.
  onMirrored(
    "bring two mirrors in sync, and go over to one of them",
    [step("mirror vda=m.qcow2 vdb=n.raw"), WRITE_VDA, WRITE_VDB],
    [
      step("txn begin"),
      step("mirror vda=m.qcow2 vdb=n.raw"),
      step("reopen vda m.qcow2"),
      COMMIT_UNDER_FENCES,
    ],
    { studied: [3] },
  ),
  onMirrored(
    "bring a mirror in sync in a transaction, and abort",
    MIRRORED,
    [step("txn begin"), step("mirror vda"), back("txn abort")],
    { inSlice: true },
  ),
  onMirrored(
    "bring a mirror in sync, and go back to a savepoint",
    MIRRORED,
    [
      step("txn begin"),
      step("txn savepoint here"),
      step("mirror vda"),
      back("txn rollback-to here"),
      step("txn commit"),
    ],
    { studied: [2, 3] },
  ),
  onTwo("take an existing image for a mirror with --reuse", [step("mirror vda m.qcow2 --reuse")], {
    files: filesOf(TWO, [OLD_MIRROR]),
    changing: { "ws/m.qcow2": "qcow2" },
  }),
  {
    name: "forget a mirror",
    files: filesOf(ONE),
    prepare: [...addAll(ONE), step("mirror vda m.qcow2")],
    steps: [step("mirror vda --cancel")],
  },
];

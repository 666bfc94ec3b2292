// Scenarios in which active layers get another backing image, or none, and show what they showed.

import { addAll, DEVICES, filesOf, ONE, OTHER, qcow2, type Scenario, step, write } from "./sample-devices.ts";

/** What is written to in place. */
const CHANGING = {
  "ws/a.qcow2": "qcow2",
  "ws/e.qcow2": "qcow2",
  "ws/a1.qcow2": "qcow2",
  "ws/d1.qcow2": "qcow2",
} as const;

const OLD = DEVICES.slice(3, 4);
const ON_RAW = DEVICES.slice(4, 5);

/** Longer than a header's first sector leaves room for, and than one name may be. */
const LONG = `${"golden-images-".repeat(12)}/${"another-golden-image-".repeat(8)}.qcow2`;

/** It has some of what the other one has, and something else. */
const GOLDEN_2 = qcow2(`ws/${LONG}`, { dataClusters: [3, 20, 40], seed: 1, clusterBits: 12 });

export const PULL_SCENARIOS: readonly Scenario[] = [
  {
    name: "pull",
    files: filesOf(ONE),
    prepare: addAll(ONE),
    changing: CHANGING,
    steps: [step("pull vda")],
    inSlice: true,
  },
  {
    name: "pull 3 devices, one of an old version, one on a raw base",
    files: filesOf([...ONE, ...OLD, ...ON_RAW], [OTHER]),
    prepare: [
      ...addAll([...ONE, ...OLD, ...ON_RAW]),
      step("snapshot-group vda=a1.qcow2 vdd=d1.qcow2"),
      write("a1.qcow2"),
    ],
    changing: CHANGING,
    steps: [step("pull vda vdd vde")],
  },
  {
    name: "pull down to a base, and rebase onto what was in between, in transactions",
    files: filesOf(ONE, [OTHER]),
    prepare: [...addAll(ONE), step("snapshot vda a1.qcow2"), write("a1.qcow2")],
    changing: CHANGING,
    steps: [
      step("txn begin"),
      step("pull vda --base golden.qcow2"),
      step("txn commit"),
      step("rebase vda --onto a.qcow2"),
    ],
    studied: [1, 2, 3],
  },
  {
    name: "pull into an overlay that the same transaction makes",
    files: filesOf(OLD),
    prepare: addAll(OLD),
    changing: CHANGING,
    steps: [step("txn begin"), step("snapshot vdd d1.qcow2"), step("pull vdd"), step("txn commit")],
    studied: [3],
  },
  {
    name: "rebase",
    files: filesOf(ONE, [GOLDEN_2]),
    prepare: addAll(ONE),
    changing: CHANGING,
    steps: [step(`rebase vda --onto ${LONG}`)],
  },
  {
    name: "rebase of an old version, compressed, and back by name alone",
    files: filesOf(OLD, [OTHER]),
    prepare: [...addAll(OLD), step("snapshot vdd d1.qcow2"), write("d1.qcow2")],
    changing: CHANGING,
    steps: [step("rebase vdd -c --onto other.qcow2"), step("rebase vdd -u --onto d.qcow2")],
  },
];

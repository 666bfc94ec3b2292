// Scenarios of devices that go to another folder, with what snapshots keep of them: new files, records that are written anew,
// and sources that go.

import {
  addAll,
  filesOf,
  group,
  ONE,
  onTwo,
  qcow2,
  type SampleDevice,
  type SampleFile,
  type Scenario,
  step,
  TWO,
} from "./sample-devices.ts";

/** The folder that they go to. */
export const ELSEWHERE: SampleFile = { path: "new/notes.txt", bytes: Buffer.from("there before\n") };

const KEPT = { files: filesOf(TWO, [ELSEWHERE]), prepare: [...addAll(TWO), step(group(TWO))] };

/** A disk that stands on an image with the name of vda's, in another folder. */
const NAMESAKE: SampleDevice = {
  name: "vdn",
  image: "../images/n.qcow2",
  format: "qcow2",
  files: () => [
    qcow2("images/a.qcow2", { dataClusters: [2, 9], seed: 12 }),
    qcow2("images/n.qcow2", {
      dataClusters: [9],
      seed: 13,
      backing: { name: "a.qcow2", format: "qcow2" },
    }),
  ],
};
const NAMESAKES = [...ONE, NAMESAKE];

/** A disk that is in the folder already, on an image that is not. */
const THERE: SampleDevice = {
  name: "vdt",
  image: "../new/t.qcow2",
  format: "qcow2",
  files: () => [
    qcow2("ws/under.qcow2", { dataClusters: [2, 9], seed: 14 }),
    qcow2("new/t.qcow2", {
      dataClusters: [9],
      seed: 15,
      backing: { name: "../ws/under.qcow2", format: "qcow2" },
    }),
  ],
};

export const RELOCATE_SCENARIOS: readonly Scenario[] = [
  onTwo("relocate", [step("relocate vda vdb ../new")], KEPT),
  onTwo(
    "relocate and keep, and what comes after that",
    [step("relocate vda ../new --keep"), { ...step("undo"), orRefused: true }],
    { ...KEPT, studied: [0] },
  ),
  onTwo(
    "relocate in a transaction",
    [
      step("txn begin"),
      step("relocate vda ../new"),
      step("snapshot vda ../new/a2.qcow2"),
      step("txn commit"),
    ],
    { ...KEPT, studied: [1, 3] },
  ),
  {
    name: "relocate files of one name",
    files: filesOf(NAMESAKES, [ELSEWHERE]),
    prepare: addAll(NAMESAKES),
    steps: [step("relocate vda vdn ../new")],
  },
  {
    name: "relocate what images stand on that are there",
    files: filesOf([THERE], [ELSEWHERE]),
    prepare: [...addAll([THERE]), step("snapshot vdt ../new/t1.qcow2")],
    steps: [step("relocate vdt ../new")],
    changing: { "new/t.qcow2": "qcow2" },
  },
  onTwo(
    "relocate, aborted",
    [step("txn begin"), step("relocate vda ../new"), { ...step("txn abort"), failsForward: true }],
    {
      ...KEPT,
      studied: [1, 2],
    },
  ),
];

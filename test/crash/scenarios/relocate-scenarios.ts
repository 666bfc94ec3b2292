// Scenarios of devices that go to another folder, with what snapshots keep of them: new files, records that are written anew,
// and sources that go.

import {
  addAll,
  filesOf,
  group,
  onTwo,
  type SampleFile,
  type Scenario,
  step,
  TWO,
} from "./sample-devices.ts";

/** The folder that they go to. */
export const ELSEWHERE: SampleFile = { path: "new/notes.txt", bytes: Buffer.from("there before\n") };

const KEPT = { files: filesOf(TWO, [ELSEWHERE]), prepare: [...addAll(TWO), step(group(TWO))] };

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
  onTwo(
    "relocate, aborted",
    [step("txn begin"), step("relocate vda ../new"), { ...step("txn abort"), failsForward: true }],
    {
      ...KEPT,
      studied: [1, 2],
    },
  ),
];

// Scenarios of migrations: a chain moves to the other folder, and a device goes over to its mirror.

import { OTHER_RAW } from "./mirror-scenarios.ts";
import {
  addAll,
  back,
  filesOf,
  onTwo,
  OTHER,
  type Scenario,
  step,
  write,
  TWO,
  COMMIT_UNDER_FENCES,
} from "./sample-devices.ts";
import type { Step } from "../subject.ts";

const DEST = "../images/top.qcow2";
const BEGUN = [step(`migrate vda ${DEST} --new-source top.qcow2`), step("mirror vda")];
const MIGRATION: readonly Step[] = [...BEGUN, step(`reopen vda ${DEST}`)];

export const MIGRATE_SCENARIOS: readonly Scenario[] = [
  onTwo("migrate, mirror and reopen", MIGRATION),
  onTwo(
    "migrate, mirror and reopen in a transaction",
    [step("txn begin"), ...MIGRATION, step("txn commit")],
    {
      studied: [1, 2, 3, 4],
    },
  ),
  onTwo("migrate, mirror and reopen in a transaction, and abort", [
    step("txn begin"),
    ...MIGRATION,
    back("txn abort"),
  ]),
  onTwo("go over to the twin of a migration after writes", [step(`reopen vda ${DEST}`)], {
    files: filesOf(TWO, [OTHER]),
    prepare: [...addAll(TWO), ...BEGUN, write("top.qcow2")],
    changing: { "images/top.qcow2": "qcow2" },
  }),
  onTwo("go over to a mirror that is out of line", [step("reopen vda m.qcow2")], {
    files: filesOf(TWO, [OTHER]),
    prepare: [...addAll(TWO), step("mirror vda m.qcow2"), write("a.qcow2")],
    changing: { "ws/m.qcow2": "qcow2" },
  }),
  onTwo("go over to a raw mirror that is out of line", [step("reopen vdb n.raw")], {
    files: filesOf(TWO, [OTHER_RAW]),
    prepare: [...addAll(TWO), step("mirror vdb n.raw"), step("img convert -n -f raw -O raw other.raw b.raw")],
    changing: { "ws/n.raw": "raw" },
  }),
  onTwo(
    "go over to a mirror that is out of line in a transaction",
    [step("txn begin"), step("reopen vda m.qcow2"), step("snapshot vda a1.qcow2"), COMMIT_UNDER_FENCES],
    {
      files: filesOf(TWO, [OTHER]),
      prepare: [...addAll(TWO), step("mirror vda m.qcow2"), write("a.qcow2")],
      changing: { "ws/m.qcow2": "qcow2" },
      studied: [1, 2, 3],
    },
  ),
];

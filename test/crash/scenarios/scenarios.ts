// The registry: what both crash rigs run. A new action gets both by being listed here.
//
// A scenario is data. Its files are bytes, so that it can be laid out on the simulated disk and on a real
// one; its steps are command lines, run from the folder `ws`, which is the workspace. `prepare` runs before
// and is not cut off. Every step is cut off at each call, unless `studied` names the ones that are.

import { CHANGE_SCENARIOS } from "./change-scenarios.ts";
import { DELETE_SCENARIOS } from "./delete-scenarios.ts";
import { MERGE_SCENARIOS } from "./merge-scenarios.ts";
import { MIGRATE_SCENARIOS } from "./migrate-scenarios.ts";
import { RELOCATE_SCENARIOS } from "./relocate-scenarios.ts";
import { PULL_SCENARIOS } from "./pull-scenarios.ts";
import { MIRROR_SCENARIOS, MIRRORED, OTHER_RAW } from "./mirror-scenarios.ts";
import {
  addAll,
  back,
  DEVICES,
  filesOf,
  group,
  ONE,
  onTwo,
  OTHER,
  type SampleDevice,
  type SampleFile,
  type Scenario,
  step,
  TORN,
  TWO,
  COMMIT_UNDER_FENCES,
} from "./sample-devices.ts";
import type { Step } from "../subject.ts";
import { sampleRaw } from "../../helpers/sample-image.ts";

/** Commands of QMP: a snapshot of the first two devices, between a start and this end. */
function startedBatch(overlays: readonly [string, string], end: string): Uint8Array {
  const snapshots = overlays.map((overlay, index) => ({
    execute: "blockdev-snapshot-sync",
    arguments: { device: TWO[index]?.name, "snapshot-file": overlay },
  }));
  const commands = [{ execute: "blockdev-start-transaction" }, ...snapshots, { execute: end }];
  return Buffer.from(commands.map((command) => JSON.stringify(command)).join("\n"));
}

const TAKEN: SampleFile = { path: "ws/taken.qcow2", bytes: Buffer.from("the user's own\n") };

/** Of firmware: what is there, and what was kept of it, which is longer. */
const VARIABLES: readonly SampleFile[] = [
  { path: "ws/vars.fd", bytes: Buffer.alloc(1500, "now\n") },
  { path: "ws/kept/vars.fd", bytes: Buffer.alloc(5000, "then\n"), mode: 0o640 },
  { path: "ws/kept/other.fd", bytes: Buffer.alloc(700, "other\n"), mode: 0o600 },
];

const FROZEN = [...DEVICES.slice(0, 2), TORN];

/** Two of the three get a fence, one of them across sectors; the raw one has no place for it. */
function onFrozen(name: string, steps: readonly Step[], changes: Partial<Scenario> = {}): Scenario {
  return { name, files: filesOf(FROZEN, [OTHER]), prepare: addAll(FROZEN), steps, ...changes };
}

const RAWS: readonly SampleDevice[] = [
  ...DEVICES.slice(1, 2),
  {
    name: "vdr",
    image: "r.raw",
    format: "raw",
    files: () => [{ path: "ws/r.raw", bytes: sampleRaw(32 * 1024, 7), mode: 0o600 }],
  },
];

const OLD = DEVICES.slice(3, 4);

function onOld(name: string, steps: readonly Step[]): Scenario {
  return { name, files: filesOf(OLD, [OTHER]), prepare: addAll(OLD), steps };
}

export const SCENARIOS: readonly Scenario[] = [
  {
    name: "snapshot-group of 1",
    files: filesOf(ONE),
    prepare: addAll(ONE),
    steps: [step(group(ONE))],
    inSlice: true,
  },
  onTwo("snapshot-group of 2", [step(group(TWO))], { inSlice: true }),
  {
    name: "snapshot-group of 5",
    files: filesOf(DEVICES),
    prepare: addAll(DEVICES),
    steps: [step(group(DEVICES))],
  },
  onTwo("begin, snapshot, commit", [step("txn begin"), step("snapshot vda a1.qcow2"), step("txn commit")], {
    inSlice: true,
  }),
  onTwo("begin, snapshot, abort", [step("txn begin"), step("snapshot vda a1.qcow2"), back("txn abort")], {
    inSlice: true,
  }),
  onTwo("two snapshots of one device in a transaction", [
    step("txn begin --name nightly"),
    step("snapshot vda a1.qcow2"),
    step("snapshot vda a2.qcow2"),
    step("txn commit"),
  ]),
  onTwo("savepoint and rollback-to", [
    step("txn begin"),
    step("snapshot vda a1.qcow2"),
    step("txn savepoint here"),
    step("snapshot vdb b1.qcow2"),
    back("txn rollback-to here"),
    step("txn commit"),
  ]),
  onTwo(
    "a refused action aborts a transaction begun with --on-error abort",
    [
      step("txn begin --on-error abort"),
      { ...step("snapshot vda a1.qcow2"), orBefore: 0 },
      { ...step("snapshot vdb taken.qcow2", 14), orBefore: 0 },
    ],
    { files: filesOf(TWO, [TAKEN]) },
  ),
  onTwo(
    "a refused action is undone and the transaction goes on",
    [
      step("txn begin"),
      step("snapshot vda a1.qcow2"),
      step("refuse vdb", 14),
      step("snapshot vdb b1.qcow2"),
      step("txn commit"),
    ],
    { studied: [2, 4] },
  ),
  onTwo(
    "two transactions at once",
    [
      step("txn begin --name one"),
      step("snapshot vda a1.qcow2 --txn one"),
      step("txn begin --name two"),
      step("snapshot vdb b1.qcow2 --txn two"),
      step("txn commit --txn one"),
      back("txn abort --txn two"),
    ],
    { mixes: true },
  ),
  onTwo("a group in which one target is taken", [step("snapshot-group vda=a1.qcow2 vdb=taken.qcow2", 14)], {
    files: filesOf(TWO, [TAKEN]),
  }),
  onTwo("a batch of two snapshots", [step("txn run batch")], {
    files: filesOf(TWO, [
      { path: "ws/batch", bytes: Buffer.from("snapshot vda a1.qcow2\nsnapshot vdb b1.qcow2\n") },
    ]),
  }),
  onTwo("a batch whose last action is refused", [step("txn run batch", 14)], {
    files: filesOf(TWO, [
      { path: "ws/batch", bytes: Buffer.from("snapshot vda a1.qcow2\nsnapshot vdb b1.qcow2\nrefuse\n") },
    ]),
  }),
  onTwo("a batch of QMP that starts a transaction and commits it", [step("txn run batch")], {
    files: filesOf(TWO, [
      { path: "ws/batch", bytes: startedBatch(["a1.qcow2", "b1.qcow2"], "blockdev-commit-transaction") },
    ]),
  }),
  onTwo("a batch of QMP that starts a transaction and aborts it", [back("txn run batch")], {
    files: filesOf(TWO, [
      { path: "ws/batch", bytes: startedBatch(["a1.qcow2", "b1.qcow2"], "blockdev-abort-transaction") },
    ]),
  }),
  onTwo("a batch of QMP whose started transaction fails", [step("txn run batch", 14)], {
    files: filesOf(TWO, [
      { path: "ws/batch", bytes: startedBatch(["a1.qcow2", "taken.qcow2"], "blockdev-commit-transaction") },
      TAKEN,
    ]),
  }),
  onTwo("a relative group", [step(`${group(TWO)} --relative`)]),
  onTwo("three generations", [
    step("snapshot vda a1.qcow2"),
    step("snapshot vda a2.qcow2"),
    step("snapshot vda a3.qcow2"),
  ]),
  onTwo("reopen", [step("reopen vda other.qcow2")], { files: filesOf(TWO, [OTHER]), inSlice: true }),
  // Neither has a place for a fence.
  onTwo("reopen a raw device", [step("reopen vdb other.raw --format raw")], {
    files: filesOf(TWO, [OTHER_RAW]),
  }),
  onTwo("a shell around a raw disk, with a bitmap", [step("txn run batch")], {
    files: filesOf(TWO, [
      { path: "ws/batch", bytes: Buffer.from("reopen vdb shell.qcow2 --shell\nbitmap add vdb b0\n") },
    ]),
  }),
  {
    name: "shells around two raw disks, with bitmaps",
    files: filesOf(RAWS, [
      {
        path: "ws/batch",
        bytes: Buffer.from(
          "reopen vdb shell.qcow2 --shell\nreopen vdr other-shell.qcow2 --shell\nbitmap add vdb vdr b0\n",
        ),
      },
    ]),
    prepare: addAll(RAWS),
    steps: [step("txn run batch")],
  },
  onOld("reopen a device of version 2", [step("reopen vdd other.qcow2")]),
  onTwo(
    "reopen and snapshot in a transaction",
    [step("txn begin"), step("reopen vda other.qcow2"), step("snapshot vda a1.qcow2"), COMMIT_UNDER_FENCES],
    { files: filesOf(TWO, [OTHER]), studied: [1, 3] },
  ),
  onFrozen("freeze and unfreeze", [step("freeze vda vdb vdt"), step("unfreeze vda vdb vdt")]),
  onFrozen(
    "freeze and a group snapshot in a transaction",
    [
      step("txn begin"),
      step("freeze vda vdt"),
      step("snapshot-group vda=a1.qcow2 vdt=t1.qcow2"),
      COMMIT_UNDER_FENCES,
      step("unfreeze vda vdt"),
    ],
    { studied: [1, 3, 4] },
  ),
  onFrozen("begin, freeze, abort", [step("txn begin"), step("freeze vda vdt"), back("txn abort")], {
    inSlice: true,
  }),
  onFrozen("a batch of freeze, snapshot and unfreeze", [step("txn run batch")], {
    files: filesOf(FROZEN, [
      { path: "ws/batch", bytes: Buffer.from("freeze vdt\nsnapshot vdt t1.qcow2\nunfreeze vdt\n") },
    ]),
  }),
  onFrozen("freeze and change a header in one commit", [step("txn run begin"), step("txn run end")], {
    changing: { "ws/a.qcow2": "qcow2" },
    files: filesOf(FROZEN, [
      { path: "ws/begin", bytes: Buffer.from("freeze vda vdt\nmirror vda m.qcow2 --bitmap\n") },
      { path: "ws/end", bytes: Buffer.from("unfreeze vda vdt\nmirror vda --cancel\nfreeze vdt\n") },
    ]),
  }),
  onFrozen("a refused action takes a fence back", [step("txn run batch", 14)], {
    files: filesOf(FROZEN, [{ path: "ws/batch", bytes: Buffer.from("freeze vda vdt\nrefuse\n") }]),
  }),
  onFrozen(
    "unfreeze, taken back to a savepoint",
    [
      step("txn begin"),
      step("freeze vdt"),
      step("txn savepoint here"),
      step("unfreeze vdt"),
      back("txn rollback-to here"),
      COMMIT_UNDER_FENCES,
    ],
    { studied: [3, 4, 5] },
  ),
  onFrozen("reopen a frozen device", [step("reopen vdt other.qcow2"), step("unfreeze vdt")], {
    prepare: [...addAll(FROZEN), step("freeze vdt")],
  }),
  {
    name: "make a workspace",
    startsWithout: true,
    files: filesOf(ONE),
    prepare: [],
    // A workspace without devices is no harm: a failed init may have made it.
    steps: [{ ...step("init"), failsForward: true }, ...addAll(ONE)],
  },
  {
    name: "make a workspace by the first device",
    startsWithout: true,
    files: filesOf(ONE),
    prepare: [],
    steps: addAll(ONE).map((one) => ({ ...one, orAfter: ["init"] })),
  },
  onTwo("add and remove devices", [step("device add vdc ../images/c.qcow2"), step("device remove vdb")], {
    files: filesOf(DEVICES.slice(0, 3)),
  }),
  onTwo(
    "rename a device, and two by a third name, with what snapshots keep of them",
    [
      step("device rename vda system"),
      step("txn run swap"),
      { ...step("undo"), orRefused: true },
      { ...step("rollback --to 1"), orRefused: true },
    ],
    {
      prepare: [...addAll(TWO), step(group(TWO))],
      files: filesOf(TWO, [
        {
          path: "ws/swap",
          bytes: Buffer.from(
            "snapshot system\ndevice rename system x\ndevice rename vdb system\ndevice rename x vdb\n",
          ),
        },
      ]),
      studied: [0, 1, 2],
    },
  ),
  onTwo("trust a folder", [step("device trust vda ../images")]),
  // What was fenced and has a time that nobody knows may have been written to.
  onTwo(
    "rollback",
    [
      { ...step("rollback vda --to 1"), orRefused: true },
      { ...step("rollback --to 1 --discard"), orRefused: true },
    ],
    { prepare: [...addAll(TWO), step(group(TWO)), step("snapshot vda a2.qcow2")] },
  ),
  onTwo(
    "undo and redo",
    [
      { ...step("undo"), orRefused: true },
      { ...step("redo"), orRefused: true },
    ],
    { prepare: [...addAll(TWO), step(group(TWO))] },
  ),
  onTwo(
    "take an existing overlay with --reuse",
    [{ ...step("snapshot vda a1.qcow2 --reuse"), orRefused: true }],
    { prepare: [...addAll(TWO), step("snapshot vda a1.qcow2"), step("undo")] },
  ),
  onTwo(
    "keep files of the machine with a snapshot",
    [step(`${group(TWO)} --with vars.fd --with kept/other.fd`)],
    { files: filesOf(TWO, VARIABLES) },
  ),
  onTwo(
    "give files back with a rollback",
    [{ ...step("rollback --to 1 --with-files . --overwrite"), orRefused: true }],
    {
      files: filesOf(TWO, VARIABLES),
      prepare: [...addAll(TWO), step(`${group(TWO)} --with kept/vars.fd --with kept/other.fd`)],
      changing: { "ws/vars.fd": "raw" },
    },
  ),
  onTwo("remove an overlay that nothing needs any more", [step("gc --yes")], {
    prepare: [...addAll(TWO), step("snapshot vda a1.qcow2"), step("undo"), step("snapshot vda a2.qcow2")],
  }),
  ...MIRROR_SCENARIOS,
  ...MIGRATE_SCENARIOS,
  ...CHANGE_SCENARIOS,
  ...MERGE_SCENARIOS,
  ...PULL_SCENARIOS,
  ...DELETE_SCENARIOS,
  ...RELOCATE_SCENARIOS,
];

/** Two commands at the same time, on what a scenario's preparation left. */
export interface RaceEntry {
  readonly name: string;
  readonly files: () => readonly SampleFile[];
  readonly prepare: readonly Step[];
  readonly one: readonly string[];
  readonly other: readonly string[];
  /** Exit statuses that a loser may end with; default: busy, or a transaction in the way. */
  readonly refusals?: readonly number[];
}

function race(one: string, other: string, changes: Partial<RaceEntry> = {}): RaceEntry {
  return {
    name: `${one} against ${other}`,
    files: filesOf(TWO, [OTHER]),
    prepare: addAll(TWO),
    one: one.split(" "),
    other: other.split(" "),
    ...changes,
  };
}

const PREPARED = [...addAll(TWO), step("txn begin --name t"), step("snapshot vda a1.qcow2")];
const BEHIND = [...addAll(TWO), ...MIRRORED];
/** Busy, in a transaction, or refused because the other's effect is there already. */
const ALSO_REFUSED = [10, 11, 14];

/** They hold different devices: both succeed. */
const NEITHER: readonly number[] = [];

export const RACES: readonly RaceEntry[] = [
  race(group(TWO), group(TWO), { refusals: ALSO_REFUSED }),
  race(group(TWO), "snapshot-group vda=a2.qcow2 vdb=b2.qcow2"),
  race("snapshot vda a1.qcow2", "snapshot vdb b1.qcow2", { refusals: NEITHER }),
  race("snapshot vda a1.qcow2", "reopen vda other.qcow2"),
  race("snapshot vda a1.qcow2", "device remove vda", { refusals: ALSO_REFUSED }),
  race("device add vdc other.qcow2", "device add vdc other.qcow2", { refusals: ALSO_REFUSED }),
  race("txn begin --name one", "txn begin --name two", { refusals: NEITHER }),
  race("txn commit", "txn commit", { prepare: PREPARED }),
  race("txn commit", "txn abort", { prepare: PREPARED }),
  race("snapshot vdb b1.qcow2", "txn commit", { prepare: PREPARED }),
  race("recover", "txn abort", { prepare: PREPARED }),
  race("freeze vda", "freeze vda", { refusals: ALSO_REFUSED }),
  race("freeze vda", "snapshot vda a1.qcow2"),
  race("mirror vda m.qcow2", "mirror vda m.qcow2", { refusals: ALSO_REFUSED }),
  race("mirror vda m.qcow2", "snapshot vda a1.qcow2"),
  race("mirror vda m.qcow2", "mirror vdb n.raw", { refusals: NEITHER }),
  race("mirror vda", "mirror vda", { prepare: BEHIND }),
  race("mirror vda", "snapshot vda a1.qcow2", { prepare: BEHIND }),
  race("mirror vda", "snapshot vdb b1.qcow2", { prepare: BEHIND, refusals: NEITHER }),
  race("unfreeze vda", "snapshot vda a1.qcow2", { prepare: [...addAll(TWO), step("freeze vda")] }),
];

/** A scenario of the registry by its name. */
export function findScenario(name: string): Scenario {
  const found = SCENARIOS.find((scenario) => scenario.name === name);
  if (!found) throw new Error(`no scenario is called ${name}`);
  return found;
}

// Scenarios of copies that keep marks of how far they came. A crash may leave such a copy unfinished, which is
// neither before nor after: they have a judge of their own, copy-judge.ts, and no place among SCENARIOS.

import {
  addAll,
  filesOf,
  onTwo,
  OTHER,
  qcow2,
  type SampleFile,
  type Scenario,
  step,
  write,
  TWO,
} from "./sample-devices.ts";
import type { Step } from "../subject.ts";

export interface CopyScenario extends Scenario {
  /** The one that is cut off. */
  readonly steps: readonly [Step];
  /** The command that copies, and that goes on with what a crash left of it. */
  readonly copy: Step;
  /** Changes the source, as a guest would. */
  readonly write: Step;
  /** Images that are made, below the root. A copy that goes on lays its clusters out in another order. */
  readonly copies: readonly string[];
  /** The copy was cut off before the step begins, and is kept. */
  readonly beginsKept?: boolean;
}

/** A mark at every step of a copy. */
export const MARK_ALWAYS = { IMGTX_MARK_EVERY: "0" };

/** Names, and command lines for the devices vda and vdb. */
export const COPIES = [
  ["a qcow2 copy", "mirror vda m.qcow2"],
  ["a raw copy", "mirror vda m.raw --format raw"],
  ["a compressed copy with small clusters", "mirror vda m.qcow2 --compress -o cluster_size=512"],
  ["a copy with a data file", "mirror vda m.qcow2 -o data_file=m.data"],
  ["two copies side by side", "mirror vda=m.qcow2 vdb=n.raw"],
] as const;

const MADE = ["ws/m.qcow2", "ws/m.raw", "ws/m.data", "ws/n.raw"];

function onCopied(
  name: string,
  copy: Step,
  { cut = copy, ...changes }: Partial<CopyScenario> & { readonly cut?: Step } = {},
): CopyScenario {
  return {
    ...onTwo(name, [cut]),
    files: filesOf(TWO, [OTHER]),
    changing: { "ws/a.qcow2": "qcow2" },
    steps: [cut],
    copy,
    write: write("a.qcow2"),
    copies: MADE,
    ...changes,
  };
}

const LONG_BYTES = 4 * 1024 * 1024;
/** Of 4 KiB each: 24 runs of 128 KiB, with holes between them. */
const LONG_CLUSTERS = Array.from({ length: 24 * 32 }, (_, at) => Math.floor(at / 32) * 40 + (at % 32));

/** In place of the sample vda: long enough that the disk is at work while the copy goes on. */
const LONG: readonly SampleFile[] = [
  qcow2("ws/a.qcow2", { virtualSizeBytes: LONG_BYTES, dataClusters: LONG_CLUSTERS, seed: 21 }),
  qcow2("ws/other.qcow2", { virtualSizeBytes: LONG_BYTES, dataClusters: LONG_CLUSTERS, seed: 22 }),
];

function onLong(name: string, line: string): CopyScenario {
  return onCopied(name, step(line), {
    files: () => [...filesOf(TWO)().filter(({ path }) => path !== "ws/a.qcow2"), ...LONG],
  });
}

const [[, QCOW2], [, RAW]] = COPIES;
const DEST = "../images/top.qcow2";

export const COPY_SCENARIOS: readonly CopyScenario[] = [
  ...COPIES.map(([name, line]) => onCopied(name, step(line))),
  onCopied("a copy with a bitmap", step("mirror vda m.qcow2 --bitmap")),
  onCopied("a copy of the active layer alone", step("mirror vda m.qcow2 --sync top")),
  onCopied("a copy for the twin of a migration", step("mirror vda"), {
    prepare: [...addAll(TWO), step(`migrate vda ${DEST} --new-source top.qcow2`)],
    changing: { "ws/top.qcow2": "qcow2" },
    write: write("top.qcow2"),
    copies: ["images/top.qcow2", "images/a.qcow2"],
  }),
  onCopied("a qcow2 copy that goes on", step(QCOW2), { beginsKept: true }),
  onCopied("a raw copy that goes on", step(RAW), { beginsKept: true }),
  onCopied("an unfinished copy is removed", step(QCOW2), {
    beginsKept: true,
    cut: step("mirror --cancel vda"),
  }),
  onCopied("an unfinished copy goes with its device", step(QCOW2), {
    beginsKept: true,
    cut: step("device remove vda"),
  }),
];

/** For power cuts: a pool thread writes them, whose calls strace can't tell from the main thread's. */
export const LONG_COPIES: readonly CopyScenario[] = [
  onLong("a long qcow2 copy", QCOW2),
  onLong("a long raw copy", RAW),
];

/** A scenario of a copy by its name. */
export function findCopy(name: string): CopyScenario {
  const found = [...COPY_SCENARIOS, ...LONG_COPIES].find((scenario) => scenario.name === name);
  if (!found) throw new Error(`no copy is called ${name}`);
  return found;
}

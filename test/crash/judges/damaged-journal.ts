// Damages the journals that a dead process left, byte by byte and record by record. Recovery must refuse
// with nothing touched; only a damaged tail may instead be taken for one that never arrived, and then the
// outcome is wholly before or wholly after. (Rule 6.)

import { Content } from "../simulated/content.ts";
import { describeChange } from "../simulated/disk-log.ts";
import type { Tree } from "../simulated/disk-tree.ts";
import type { ExploreOptions } from "./explore.ts";
import { RecoveryCheck } from "./recovery-check.ts";
import {
  describePoint,
  machineAt,
  outcomesOf,
  type RecordedStep,
  type Recording,
} from "../simulated/recording.ts";
import { differences, emptyReport, type Report } from "../report.ts";
import { afterProcessDeath, SimulatedMachine } from "../simulated/simulated-disk.ts";
import { runOn, type Subject } from "../subject.ts";

interface Damage {
  readonly label: string;
  readonly bytes: Uint8Array;
  /** Whether nothing but the last record, or what follows it, differs: a torn tail looks like that. */
  readonly tailOnly: boolean;
}

const DAMAGED = 15;
const NEWLINE = 0x0a;

/** Every stride-th byte flipped and cut off. */
function* damagedBytes(bytes: Uint8Array, stride: number): Generator<Damage> {
  const lastStart = recordStarts(bytes).at(-1) ?? 0;
  for (let at = 0; at < bytes.length; at += stride) {
    for (const flip of [0x01, 0x80]) {
      const flipped = bytes.slice();
      flipped[at] = (flipped[at] ?? 0) ^ flip;
      yield { label: `byte ${at} flipped by ${flip}`, bytes: flipped, tailOnly: at >= lastStart };
    }
    yield { label: `cut off at ${at}`, bytes: bytes.slice(0, at), tailOnly: true };
  }
}

/** Every record dropped, doubled, cut off and exchanged with the next. */
function* damagedRecords(bytes: Uint8Array): Generator<Damage> {
  const starts = recordStarts(bytes);
  for (const [index, start] of starts.entries()) {
    const end = starts[index + 1] ?? bytes.length;
    const next = starts[index + 2] ?? bytes.length;
    const isLast = index === starts.length - 1;
    yield { label: `record ${index} dropped`, bytes: join(bytes, [0, start], [end]), tailOnly: isLast };
    yield { label: `record ${index} doubled`, bytes: join(bytes, [0, end], [start]), tailOnly: isLast };
    yield { label: `cut off after record ${index}`, bytes: bytes.slice(0, end), tailOnly: true };
    if (isLast) continue;
    const exchanged = join(bytes, [0, start], [end, next], [start, end], [next]);
    yield { label: `records ${index} and ${index + 1} exchanged`, bytes: exchanged, tailOnly: false };
  }
  const garbage = new Uint8Array(bytes.length + 40).fill(0xa5);
  garbage.set(bytes);
  yield { label: "garbage past the end", bytes: garbage, tailOnly: true };
}

function recordStarts(bytes: Uint8Array): number[] {
  const starts = [0];
  for (const [index, byte] of bytes.entries()) {
    if (byte === NEWLINE && index + 1 < bytes.length) starts.push(index + 1);
  }
  return starts;
}

function join(bytes: Uint8Array, ...ranges: [number, number?][]): Uint8Array {
  return Buffer.concat(ranges.map(([start, end]) => bytes.subarray(start, end ?? bytes.length)));
}

/** Damages each different journal that a crash of a studied step leaves. */
export async function damageJournals(
  recording: Recording,
  subject: Subject,
  journalsIn: (tree: Tree) => readonly string[],
  stride: number,
  options: ExploreOptions,
): Promise<Report> {
  const report = emptyReport();
  const check = new RecoveryCheck(recording, subject, report);
  const seen = new Set<string>();
  const isOver = () => report.violations.length >= options.maxViolations || Date.now() > options.deadline;
  for (const recorded of recording.steps.filter((one) => one.studied)) {
    for (let point = recorded.from; point <= recorded.to && !isOver(); point += 1) {
      const { tree } = machineAt(recording, point);
      const key = tree.key(false);
      if (seen.has(key)) continue;
      seen.add(key);
      const where = describePoint(recorded.step.argv, recording.log, recorded.from, point);
      for (const path of journalsIn(tree)) {
        const content = tree.lookUp(path, false).inode?.content ?? new Content();
        const bytes = content.slice(0, content.sizeBytes);
        // Whether a byte is found damaged hangs on the journal alone: once for each different one.
        const isNew = !seen.has(content.digest());
        seen.add(content.digest());
        for (const damage of isNew
          ? [...damagedBytes(bytes, stride), ...damagedRecords(bytes)]
          : damagedRecords(bytes)) {
          if (isOver()) return report;
          report.figures.damages += 1;
          const trail = [where, `the process dies; then ${path}: ${damage.label}`];
          const mixes = recording.plan.mixes === true;
          await tryDamage({ recorded, subject, check, tree, path, damage, trail, mixes });
        }
      }
    }
  }
  report.cutShort = Date.now() > options.deadline;
  return report;
}

interface DamageTrial {
  readonly recorded: RecordedStep;
  readonly subject: Subject;
  readonly check: RecoveryCheck;
  readonly tree: Tree;
  readonly path: string;
  readonly damage: Damage;
  readonly trail: readonly string[];
  readonly mixes: boolean;
}

async function tryDamage(trial: DamageTrial): Promise<void> {
  const { recorded, subject, check, damage, trail } = trial;
  const tree = trial.tree.fork();
  const inode = tree.lookUp(trial.path, false).inode;
  if (!inode) return;
  tree.share({ ...inode, content: Content.of(damage.bytes) });
  const machine = new SimulatedMachine({ durable: tree, boots: 3 });
  const { exit, text } = await runOn(machine, subject, subject.recover);
  const touched = machine.log.filter(
    (change) => change.kind !== "flush" && !subject.isDerived?.(change.path),
  );
  if (exit === DAMAGED) {
    // With several transactions the others are recovered all the same.
    if (touched.length === 0 || trial.mixes) return;
    const detail = `${text}\n${touched.map(describeChange).join("\n")}`;
    check.violate("a damaged journal is refused, but something was changed (rule 6)", trail, detail);
  } else if (exit !== 0) {
    const detail = `exit status ${exit}\n${text}`;
    check.violate("a damaged journal ends with a wrong exit status (rule 6)", trail, detail);
  } else if (touched.length === 0 && (await isRefusedElsewhere(subject, machine))) {
    check.violateOnce("recovery does not tell of a damaged journal (rule 6)", trail, text);
  } else if (!damage.tailOnly) {
    check.violate("a damaged journal is not refused (rule 6)", trail, text);
  } else {
    // A record that was durable and acted on looks as if it had never come. Files that it named may be
    // left over; but every device is wholly what it was, or what it was to be.
    const { observed } = await check.recover(machine, undefined, trail);
    if (observed === undefined) return;
    const wanted = new Map(
      [...outcomesOf(recorded)].map(([name, outcome]) => [name, subject.disksOf(outcome)]),
    );
    const disks = subject.disksOf(observed);
    if ([...wanted.values()].includes(disks)) return;
    check.violate("a damaged journal leads to a mixture (rule 6)", trail, differences(disks, wanted));
  }
}

/** Whether at least the commands that would change something refuse. */
async function isRefusedElsewhere(subject: Subject, machine: SimulatedMachine): Promise<boolean> {
  if (!subject.probe) return false;
  const probed = afterProcessDeath(machine);
  const { exit } = await runOn(probed, subject, subject.probe);
  return exit === DAMAGED && probed.log.length === machine.log.length;
}

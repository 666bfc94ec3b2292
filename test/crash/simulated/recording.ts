// A scenario run once without a crash: its log, where each step begins and ends in it, and what a user
// could see between the steps. Everything that a crash may leave is judged against that.

import type { Change } from "./disk-log.ts";
import { describeChange } from "./disk-log.ts";
import type { Tree } from "./disk-tree.ts";
import { afterProcessDeath, SimulatedMachine } from "./simulated-disk.ts";
import { observeCopy, runOn, type Plan, type Step, type Subject } from "../subject.ts";

export interface RecordedStep {
  readonly index: number;
  readonly step: Step;
  readonly studied: boolean;
  /** First call of the step in the log, and the one after its last. */
  readonly from: number;
  readonly to: number;
  readonly before: string;
  readonly after: string;
  /** What step.orBefore and step.orAfter allow besides. */
  readonly others: readonly OtherOutcome[];
}

interface OtherOutcome {
  readonly name: string;
  readonly observed: string;
  /** The step with which the scenario goes on from there. */
  readonly next: number;
}

/** What a crash of a step may lead to, by name. */
export function outcomesOf(recorded: RecordedStep): Map<string, string> {
  const outcomes = new Map([
    ["before", recorded.before],
    ["after", recorded.after],
  ]);
  for (const { name, observed } of recorded.others) outcomes.set(name, observed);
  return outcomes;
}

export interface Recording {
  readonly plan: Plan;
  /** Before the first step; durable. */
  readonly start: Tree;
  readonly log: readonly Change[];
  readonly steps: readonly RecordedStep[];
  readonly mutedPurposes: ReadonlySet<string>;
}

/** The start of the host in which the scenario was prepared, and in which it runs. */
export const RECORDED_BOOT = 0;

export async function record(
  plan: Plan,
  subject: Subject,
  mutedPurposes: ReadonlySet<string> = new Set(),
): Promise<Recording> {
  const first = new SimulatedMachine({ durable: plan.disk });
  for (const step of plan.prepare) await runStep(first, subject, step, plan.name);
  const start = first.tree.rebooted();
  const machine = new SimulatedMachine({ durable: start, boots: 1, boot: RECORDED_BOOT, mutedPurposes });
  const steps: RecordedStep[] = [];
  let before = await observeCopy(machine, subject);
  for (const [index, step] of plan.steps.entries()) {
    const from = machine.log.length;
    const others = await otherOutcomes(machine, subject, step, steps);
    await runStep(machine, subject, step, plan.name);
    const to = machine.log.length;
    const after = await observeCopy(machine, subject);
    const studied = plan.studied?.includes(index) ?? true;
    steps.push({ index, step, studied, from, to, before, after, others });
    before = after;
  }
  return { plan, start, log: machine.log, steps, mutedPurposes };
}

async function otherOutcomes(
  machine: SimulatedMachine,
  subject: Subject,
  step: Step,
  steps: readonly RecordedStep[],
): Promise<OtherOutcome[]> {
  const outcomes: OtherOutcome[] = [];
  const first = step.orBefore === undefined ? undefined : steps[step.orBefore];
  if (first) {
    outcomes.push({ name: "the whole transaction aborted", observed: first.before, next: first.index });
  }
  if (step.orAfter) {
    const other = afterProcessDeath(machine);
    await runStep(other, subject, { argv: step.orAfter }, "another outcome");
    const observed = await observeCopy(other, subject);
    outcomes.push({ name: `only ${step.orAfter.join(" ")}`, observed, next: steps.length });
  }
  return outcomes;
}

async function runStep(machine: SimulatedMachine, subject: Subject, step: Step, name: string): Promise<void> {
  const result = await runOn(machine, subject, step.argv);
  const wanted = step.exit ?? 0;
  if (result.exit !== wanted) {
    throw new Error(
      `${name}: \`${step.argv.join(" ")}\` ended with ${result.exit}, not ${wanted}, without any crash\n${result.text}`,
    );
  }
}

/** The machine as it is when all processes die in front of call `point`, with its page cache. */
export function machineAt(recording: Recording, point: number): SimulatedMachine {
  return new SimulatedMachine({
    durable: recording.start,
    log: recording.log.slice(0, point),
    boots: 2,
    boot: RECORDED_BOOT,
    mutedPurposes: recording.mutedPurposes,
  });
}

/** Where in a command a call lies, for reports. */
export function describePoint(
  argv: readonly string[],
  log: readonly Change[],
  from: number,
  point: number,
): string {
  const last = log[point - 1];
  const where =
    point === from || last === undefined ? "before its first call" : `after ${describeChange(last)}`;
  return `\`${argv.join(" ")}\` cut off after ${point - from} calls, ${where}`;
}

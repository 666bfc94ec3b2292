// A scenario run once on a real folder without a crash: what a user could tell between its steps, and the
// boundaries of each. What a crash leaves is judged against that.

import type { Scenario } from "../scenarios.ts";
import type { Step } from "../subject.ts";
import type { BuiltProgram } from "./built-program.ts";
import type { RealFolder } from "./real-folder.ts";
import { boundariesIn, type Boundary } from "./trace.ts";

export interface RecordedStep {
  readonly scenario: Scenario;
  readonly index: number;
  readonly step: Step;
  readonly boundaries: readonly Boundary[];
  readonly before: string;
  readonly after: string;
  /** The files outside the workspace's own folder, before. */
  readonly filesBefore: string;
  /** What step.orBefore and step.orAfter allow besides, and the step that comes next from there. */
  readonly others: readonly { readonly name: string; readonly observed: string; readonly next: number }[];
  /** What the same command does when it is run once more behind itself. */
  readonly again: { readonly exit: number; readonly observed: string };
  /** What a user can tell at the end of the scenario. */
  readonly end: string;
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

/** The step with which the scenario goes on from an outcome. */
export function nextStep(recorded: RecordedStep, observed: string): number {
  if (observed === recorded.before) return recorded.index;
  return recorded.others.find((other) => other.observed === observed)?.next ?? recorded.index + 1;
}

/** Lays out what a step starts from. */
export async function layOutBefore(folder: RealFolder, { scenario, index }: RecordedStep): Promise<void> {
  await folder.layOut(scenario.files(), [...scenario.prepare, ...scenario.steps.slice(0, index)]);
}

export async function recordScenario(
  scenario: Scenario,
  program: BuiltProgram,
  folder: RealFolder,
): Promise<RecordedStep[]> {
  const steps: Omit<RecordedStep, "end" | "others" | "again">[] = [];
  await folder.layOut(scenario.files(), scenario.prepare);
  let before = await folder.observe();
  for (const [index, step] of scenario.steps.entries()) {
    const filesBefore = folder.describeFiles();
    const end = await program.trace(step.argv, folder.workspace, `${folder.root}.trace`);
    if (end.exit !== (step.exit ?? 0)) {
      throw new Error(
        `${scenario.name}: \`${step.argv.join(" ")}\` ended with ${end.exit} without a crash\n${end.stdout}${end.stderr}`,
      );
    }
    const boundaries = boundariesIn(end.trace, folder.root);
    const after = await folder.observe();
    steps.push({ scenario, index, step, boundaries, before, after, filesBefore });
    before = after;
  }
  const recorded: RecordedStep[] = [];
  for (const one of steps) {
    if (scenario.studied?.includes(one.index) === false) continue;
    const others = await otherOutcomes(one, steps, folder);
    recorded.push({ ...one, others, again: await runAgain(one, folder), end: before });
  }
  return recorded;
}

async function runAgain(
  { scenario, index, step }: Pick<RecordedStep, "scenario" | "index" | "step">,
  folder: RealFolder,
): Promise<RecordedStep["again"]> {
  await folder.layOut(scenario.files(), [...scenario.prepare, ...scenario.steps.slice(0, index + 1)]);
  const { exit } = await folder.run(step.argv);
  return { exit, observed: await folder.observe() };
}

async function otherOutcomes(
  { scenario, index, step }: Pick<RecordedStep, "scenario" | "index" | "step">,
  steps: readonly Pick<RecordedStep, "before" | "index">[],
  folder: RealFolder,
): Promise<RecordedStep["others"]> {
  const outcomes: { name: string; observed: string; next: number }[] = [];
  const first = step.orBefore === undefined ? undefined : steps[step.orBefore];
  if (first) {
    outcomes.push({ name: "the whole transaction aborted", observed: first.before, next: first.index });
  }
  if (step.orAfter) {
    await folder.layOut(scenario.files(), [...scenario.prepare, ...scenario.steps.slice(0, index)]);
    await folder.runStep({ argv: step.orAfter });
    outcomes.push({ name: `only ${step.orAfter.join(" ")}`, observed: await folder.observe(), next: index });
  }
  return outcomes;
}

// Removes each flush in turn: every one must be missed by some crash, or be listed as redundant with its
// reason. A flush is known by its purpose. A mutant's flush returns success and persists nothing.

import { explore, type ExploreOptions } from "./explore.ts";
import { injectErrors } from "./injected-errors.ts";
import { record, type Recording } from "../simulated/recording.ts";
import { describeViolation, type Report } from "../report.ts";
import type { Plan, Subject } from "../subject.ts";

export interface Mutant {
  readonly purpose: string;
  readonly verdict: "killed" | "survived" | "cut short";
  /** The scenario that killed it, and how. */
  readonly by: string | undefined;
}

interface Trial {
  readonly plan: Plan;
  readonly subject: Subject;
}

const TRIALS_WITH_ERRORS = 4;

/** Tries the scenarios in the order given until one kills the mutant. */
export async function tryMutant(
  purpose: string,
  trials: readonly Trial[],
  options: ExploreOptions,
): Promise<Mutant> {
  let cutShort = false;
  for (const attempt of attemptsFor(trials, options)) {
    const recording = await record(attempt.plan, attempt.subject, new Set([purpose]));
    const report = await attempt.run(recording, attempt.subject);
    const [violation] = report.violations;
    if (violation) return { purpose, verdict: "killed", by: describeViolation(violation) };
    cutShort ||= report.cutShort;
  }
  return { purpose, verdict: cutShort ? "cut short" : "survived", by: undefined };
}

interface Attempt extends Trial {
  readonly run: (recording: Recording, subject: Subject) => Promise<Report>;
}

/** What kills most comes first: one crash in every scenario, then two, then injected errors, then three. */
function* attemptsFor(trials: readonly Trial[], options: ExploreOptions): Generator<Attempt> {
  const single = { ...options, maxViolations: 1 };
  const crashes = function* (depth: number): Generator<Attempt> {
    if (depth > options.depth) return;
    for (const trial of trials) {
      yield { ...trial, run: (recording, subject) => explore(recording, subject, { ...single, depth }) };
    }
  };
  yield* crashes(1);
  yield* crashes(2);
  // Some are needed only for what an exit status promises when something else fails.
  for (const trial of trials.slice(0, TRIALS_WITH_ERRORS)) {
    yield { ...trial, run: (recording, subject) => injectErrors(recording, subject, single) };
  }
  yield* crashes(3);
}

/**
 * What is wrong with the list of redundant flushes: survivors that it lacks, killed or unknown ones that
 * it has. One sentence each. Flushes that errors alone lead to are met, and are not removed.
 */
export function judgeMutants(
  mutants: readonly Mutant[],
  redundant: Readonly<Record<string, string>>,
  met: ReadonlySet<string> = new Set(),
): string[] {
  const problems: string[] = [];
  for (const { purpose, verdict } of mutants) {
    const listed = Object.hasOwn(redundant, purpose);
    if (verdict === "killed" && listed) problems.push(`"${purpose}" is listed as redundant, but is needed`);
    if (verdict === "survived" && !listed)
      problems.push(`removing "${purpose}" breaks no test, and it is not listed`);
  }
  const known = new Set([...met, ...mutants.map((mutant) => mutant.purpose)]);
  for (const purpose of Object.keys(redundant)) {
    if (!known.has(purpose)) problems.push(`"${purpose}" is listed as redundant, but no flush is for that`);
  }
  return problems;
}

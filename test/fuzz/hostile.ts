// The hostile fuzzer at length: so many cases, their figures, and each failure shrunk to the fewest mutations
// that show it.

import * as fc from "fast-check";
import { SamplingJudge } from "./hostile-judge.ts";
import { loadSubject } from "./hostile-subject.ts";
import { type CaseOutcome, type HostileCase, hostileCases, runCase } from "./hostile-case.ts";

export interface HostileOptions {
  readonly seed: number;
  readonly cases: number;
  /** Milliseconds since 1970 by which it has to be over. */
  readonly deadline: number;
  readonly say: (line: string) => void;
}

export interface HostileResult {
  readonly problems: readonly string[];
  readonly figures: readonly string[];
}

/** Cases of one seed: a failure ends them, and the next seed goes on. */
const BATCH_CASES = 500;
/** One of so many goes to qemu-img check. */
const JUDGED_EVERY = 40;
const PROBLEMS_MAX = 20;
const MEMORY_BYTES_MAX = 256 * 1024 * 1024;

export class HostileFigures {
  cases = 0;
  slowestMs = 0;
  slowest = "";
  readonly #codes = new Map<string, Map<string, number>>();

  add(each: HostileCase, outcome: CaseOutcome): void {
    this.cases += 1;
    for (const { step, code } of outcome.ends) {
      const codes = this.#codes.get(step) ?? new Map<string, number>();
      codes.set(code, (codes.get(code) ?? 0) + 1);
      this.#codes.set(step, codes);
    }
    if (outcome.longestMs > this.slowestMs) {
      this.slowestMs = outcome.longestMs;
      this.slowest = `${outcome.longestStep} of ${describeCase(each)}`;
    }
  }

  lines(): string[] {
    return [...this.#codes].map(([step, codes]) => {
      const counts = [...codes].sort((a, b) => b[1] - a[1]).map(([code, count]) => `${code} ${count}`);
      return `  ${step}: ${counts.join(", ")}`;
    });
  }
}

/** As a test holds it. */
function describeCase(each: HostileCase): string {
  return JSON.stringify(each, (_, value: unknown) =>
    typeof value === "bigint" ? `${value}n` : value,
  ).replace(/"(\d+n)"/g, "$1");
}

export async function tortureHostile(options: HostileOptions): Promise<HostileResult> {
  const began = Date.now();
  const figures = new HostileFigures();
  const problems: string[] = [];
  const baseBytes = process.resourceUsage().maxRSS * 1024;
  const judge = new SamplingJudge(JUDGED_EVERY);
  for (let batch = 0; figures.cases < options.cases && Date.now() < options.deadline; batch += 1) {
    const numRuns = Math.min(BATCH_CASES, options.cases - figures.cases);
    const problem = await runBatch(options.seed * 1_000_000 + batch, numRuns, figures, judge);
    if (problem !== undefined) {
      problems.push(problem);
      options.say(problem);
    }
    if (problems.length === PROBLEMS_MAX) break;
    if (batch % 20 === 19) options.say(`hostile: ${figures.cases} cases, ${problems.length} failures`);
  }
  const grownBytes = process.resourceUsage().maxRSS * 1024 - baseBytes;
  if (grownBytes > MEMORY_BYTES_MAX) problems.push(`the cases took ${mebibytes(grownBytes)} MiB of memory`);
  return {
    problems,
    figures: [
      `hostile images, ${Math.round((Date.now() - began) / 1000)} s:`,
      `  cases ${figures.cases}, failures ${problems.length}, memory ${mebibytes(grownBytes)} MiB at most`,
      `  judged by qemu-img check ${judge.judged}, of these without an answer ${judge.unanswered}`,
      ...figures.lines(),
      `  slowest step ${Math.round(figures.slowestMs)} ms: ${figures.slowest}`,
    ],
  };
}

/** What went wrong first, shrunk; undefined where nothing did. */
export async function runBatch(
  seed: number,
  numRuns: number,
  figures: HostileFigures,
  judge?: SamplingJudge,
): Promise<string | undefined> {
  judge?.calm();
  const property = fc.asyncProperty(hostileCases, async (each) => {
    const outcome = await runCase(each);
    figures.add(each, outcome);
    await judge?.judge(loadSubject(each.subject), outcome);
  });
  const result = await fc.check(property, { seed, numRuns });
  if (!result.failed || result.counterexample === null) return undefined;
  const error = result.errorInstance instanceof Error ? result.errorInstance : undefined;
  const cause = error?.cause instanceof Error ? error.cause.stack : undefined;
  const where = cause?.split("\n").slice(0, 6).join("\n") ?? "";
  return `hostile, seed ${seed}: ${error?.message ?? "failed"}\n${describeCase(result.counterexample[0])}\n${where}`;
}

function mebibytes(bytes: number): number {
  return Math.round(bytes / 1024 / 1024);
}

// The second rig: the built command line as a real process, killed at each system call that changes
// something, and with each one failed. The page cache survives; what is tried is the real code with its
// real calls. Power cuts are for the simulated disk and for power-cut.ts.

import { CopyJudge, type CopyState } from "../judges/copy-judge.ts";
import { type CopyScenario, MARK_ALWAYS } from "../scenarios/copy-scenarios.ts";
import { SINGLE_FILE } from "../../helpers/program.ts";
import { RealBench } from "./real-bench.ts";
import { fingerprintFolder } from "./real-folder.ts";
import { differences, type Violation } from "../report.ts";
import type { Scenario } from "../scenarios/sample-devices.ts";
import { runPlain, type Injection } from "./strace.ts";
import { BadState, ownStatus, type Step } from "../subject.ts";

interface ProcessFigures {
  /** Calls at which the process was killed. */
  kills: number;
  /** Calls that were made to fail. */
  errors: number;
  /** Calls that could not be hit, because threads met them in another order. */
  missed: number;
  /** How often an unfinished copy was seen to be kept. */
  kept: number;
}

export interface ProcessReport {
  readonly figures: ProcessFigures;
  readonly violations: Violation[];
  /** The calls that could not be hit. */
  readonly missed: string[];
  cutShort: boolean;
}

export interface ProcessOptions {
  readonly program: string;
  readonly kinds: readonly Injection["kind"][];
  /** Indices of steps to try; the scenario's own choice when left out. */
  readonly steps?: readonly number[];
  /** Tries each n-th call only. */
  readonly stride?: number;
  readonly deadline: number;
  /** Asks qemu-img about each new state too. */
  readonly askQemu: boolean;
}

/** What comes next after a crash: any command recovers. */
const NEXT_COMMANDS: readonly (readonly string[])[] = [["recover"], ["txn", "status"], ["device", "list"]];
/** The single file's pool has two threads at least, and either of them may get a flush. */
const TRIES = SINGLE_FILE === undefined ? 8 : 40;

export async function tryProcess(scenario: Scenario, options: ProcessOptions): Promise<ProcessReport> {
  const { name, files, startsWithout = false, recover } = scenario;
  const bench = new RealBench(
    `${name} (process)`,
    { ...scenario, files: files() },
    { program: options.program, asksQemu: options.askQemu },
  );
  const report = emptyReport(bench);
  try {
    for (const step of scenario.prepare) await bench.do(step);
    const befores: string[] = [];
    for (const [index, step] of scenario.steps.entries()) {
      befores.push(await bench.observe());
      const wanted = options.steps ?? scenario.studied ?? scenario.steps.map((_, each) => each);
      if (wanted.includes(index)) {
        const run = { bench, options, report, step, startsWithout, recover };
        await tryStep(run, befores);
      } else await bench.do(step);
    }
    return report;
  } finally {
    bench.remove();
  }
}

/** A copy that keeps marks, with what may come of it when it is left unfinished. */
export async function tryCopy(scenario: CopyScenario, options: ProcessOptions): Promise<ProcessReport> {
  const { name, files } = scenario;
  const [step] = scenario.steps;
  const { program, askQemu } = options;
  const bench = new RealBench(
    `${name} (process)`,
    { ...scenario, files: files() },
    { program, asksQemu: askQemu, env: MARK_ALWAYS },
  );
  const report = emptyReport(bench);
  try {
    const judge = await CopyJudge.make(bench, scenario);
    await tryCalls({ bench, options, report, step }, async ({ exit, text }, _, trail) => {
      const allowed = statesAllowed(exit, scenario);
      if (allowed) await judge.judge(allowed, trail);
      else bench.violate("a wrong exit status", trail, `exit status ${exit}\n${text}`);
    });
    report.figures.kept = judge.kept;
    return report;
  } finally {
    bench.remove();
  }
}

/** What the exit status allows; undefined for one that is not to be. A killed process has none. */
function statesAllowed(
  exit: number | undefined,
  { beginsKept }: CopyScenario,
): readonly CopyState[] | undefined {
  if (exit === undefined) return ["before", "kept", "after"];
  if (exit === 0 || exit === 16) return ["after"];
  if (exit !== 13) return undefined;
  // What fails takes its copy back, the one that was kept included, unless it failed before it had it.
  return beginsKept === true ? ["before", "kept"] : ["before"];
}

function emptyReport({ violations }: RealBench): ProcessReport {
  return { figures: { kills: 0, errors: 0, missed: 0, kept: 0 }, violations, missed: [], cutShort: false };
}

/** A step under trial. */
interface StepRun {
  readonly bench: RealBench;
  readonly options: ProcessOptions;
  readonly report: ProcessReport;
  readonly step: Step;
}

type Judge = (
  result: { exit: number | undefined; text: string },
  index: number,
  trail: readonly string[],
) => Promise<void>;

interface Trial extends StepRun {
  readonly startsWithout: boolean;
  readonly recover: Scenario["recover"];
  readonly outcomes: ReadonlyMap<string, string>;
  readonly before: string;
}

/** Tries every call of a step, and leaves the folder as the step without a crash does. */
async function tryStep(
  run: StepRun & Pick<Trial, "startsWithout" | "recover">,
  befores: readonly string[],
): Promise<void> {
  const { bench, step } = run;
  const before = befores.at(-1) ?? "";
  bench.save();
  const outcomes = new Map([["before", before]]);
  if (step.orBefore !== undefined) outcomes.set("aborted", befores[step.orBefore] ?? "");
  if (step.orAfter) {
    await bench.do({ argv: step.orAfter });
    outcomes.set(`only ${step.orAfter.join(" ")}`, await bench.observe());
    await bench.restore();
  }
  await bench.do(step);
  outcomes.set("after", await bench.observe());
  await bench.restore();
  await tryCalls(run, async (result, index, trail) => {
    await judgeStep({ ...run, outcomes, before }, result, index, trail);
  });
  await bench.restore();
  await bench.do(step);
}

const FLUSH = /^f(?:data)?sync /;

/** Cuts the step off at each call. The bench was saved before it, and is in that state. */
async function tryCalls(run: StepRun, judge: Judge): Promise<void> {
  const { bench, step, options } = run;
  const plain = bench.trace(step.argv);
  if (plain.exit !== (step.exit ?? 0)) throw new Error(`${step.argv.join(" ")}: ${plain.text}`);
  for (const kind of options.kinds) {
    // Who is killed at a flush leaves what he leaves at the next call: the page cache lives on.
    const calls = kind === "KILL" ? plain.calls.filter(({ label }) => !FLUSH.test(label)) : plain.calls;
    for (const [index, call] of calls.entries()) {
      if (index % (options.stride ?? 1) !== 0) continue;
      if (Date.now() > options.deadline) run.report.cutShort = true;
      else await tryCall(run, { call, kind }, index, judge);
    }
  }
}

async function tryCall(run: StepRun, injection: Injection, index: number, judge: Judge): Promise<void> {
  const { bench, step, report } = run;
  let { number } = injection.call;
  for (let tries = 0; tries < TRIES; tries += 1) {
    await bench.restore();
    const result = bench.trace(step.argv, { ...injection, call: { ...injection.call, number } });
    const trail = [`\`${step.argv.join(" ")}\`: ${injection.kind} at call ${index}, ${injection.call.label}`];
    if (result.timedOut) {
      bench.violate("the process hangs", trail, result.text);
      return;
    }
    if (!result.hit) {
      // Node opens more or fewer files of its own: aim at where the call was in this run, or further on.
      number = result.calls.find(({ label }) => label === injection.call.label)?.number ?? number + 1;
      continue;
    }
    if (injection.kind === "KILL") report.figures.kills += 1;
    else report.figures.errors += 1;
    await judge({ exit: result.exit, text: result.text }, index, trail);
    return;
  }
  report.figures.missed += 1;
  report.missed.push(`\`${step.argv.join(" ")}\`: ${injection.kind} at ${injection.call.label}`);
}

async function judgeStep(
  trial: Trial,
  result: { exit: number | undefined; text: string },
  index: number,
  trail: readonly string[],
): Promise<void> {
  const { bench, step } = trial;
  const exit = ownStatus(step.argv, result);
  const wanted = outcomesAllowed(trial, exit);
  if (!wanted) {
    bench.violate("a wrong exit status", trail, `exit status ${result.exit}\n${result.text}`);
    return;
  }
  // What fails while it is being taken back can only be left to the next command.
  const takesBack = step.failsForward === true || (step.exit ?? 0) !== 0;
  if (exit === 13 && !takesBack && !bench.hasFilesOf(trial.before)) {
    bench.violate("exit status 13, but not rolled back", trail, result.text);
  }
  try {
    const next = trial.recover ?? NEXT_COMMANDS[index % NEXT_COMMANDS.length] ?? [];
    // In this process, as all that is not cut off; the single file recovers by itself.
    const mended = await (SINGLE_FILE === undefined ? bench.ask(next) : runPlain(bench.launch, next));
    if (mended.exit !== 0 && !(trial.startsWithout && mended.exit === 14)) {
      const detail = `\`${next.join(" ")}\` ends with ${mended.exit}\n${mended.text}`;
      bench.violate("the next command fails", trail, detail);
      return;
    }
    const settled = fingerprintFolder(bench.live);
    await bench.ask(trial.recover ?? ["recover"]);
    if (fingerprintFolder(bench.live) !== settled) {
      bench.violate("a second recovery changes something (rule 5)", trail, mended.text);
    }
    const observed = await bench.observe();
    if ([...wanted.values()].includes(observed)) return;
    const detail = `${mended.text}\n${differences(observed, wanted)}`;
    bench.violate(`not wholly ${[...wanted.keys()].join(" or ")}`, trail, detail);
  } catch (error) {
    if (!(error instanceof BadState)) throw error;
    bench.violate("a disk that no disk may be (rule 3)", trail, error.message);
  }
}

/** What the exit status allows; undefined for one that is not to be. A killed process has none. */
function outcomesAllowed(trial: Trial, exit: number | undefined): Map<string, string> | undefined {
  const allowed = new Map(trial.outcomes);
  if (exit === undefined) return allowed;
  if (exit === 0 || exit === 16) return new Map([["after", trial.outcomes.get("after") ?? ""]]);
  if (exit !== 13 && exit !== trial.step.exit) return undefined;
  if (!trial.step.failsForward) allowed.delete("after");
  return allowed;
}

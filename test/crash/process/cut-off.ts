// Cuts a step off at one boundary, by a kill or by an error, runs another command as an operator would, and
// judges what is there then.

import { differences, type Violation } from "../report.ts";
import type { Step } from "../subject.ts";
import { KILLED, type BuiltProgram, type ProcessEnd, type TracedEnd } from "./built-program.ts";
import { judgeWithQemu } from "./qemu-judge.ts";
import { isLackingWorkspace, type RealFolder } from "./real-folder.ts";
import { layOutBefore, nextStep, outcomesOf, type RecordedStep } from "./recorded-scenario.ts";
import { countInjected, labelsAt, type Boundary } from "./trace.ts";

const ROLLED_BACK = 13;
const UNFINISHED = 16;
/** How often a boundary is tried at which the injection does not fire, since a call came to another thread. */
const TRIES = 3;

export type Injection = "kill" | "EIO" | "ENOSPC";

export interface Cut {
  readonly recorded: RecordedStep;
  readonly boundary: Boundary;
  readonly injection: Injection;
  /** Chooses the command that comes next. */
  readonly number: number;
  readonly asksQemu: boolean;
}

export interface CutResult {
  readonly violations: readonly Violation[];
  /** The name of the outcome; undefined where there was none, or where another call was hit. */
  readonly outcome: string | undefined;
}

/** Commands that an operator may come with after a crash. Undefined: the one that was cut off. */
const NEXT_COMMANDS: readonly (readonly string[] | undefined)[] = [
  ["recover"],
  ["txn", "status"],
  ["device", "list"],
  undefined,
];

export async function cutOff(cut: Cut, program: BuiltProgram, folder: RealFolder): Promise<CutResult> {
  return await new Trial(cut, program, folder).run();
}

class Trial {
  readonly #cut: Cut;
  readonly #program: BuiltProgram;
  readonly #folder: RealFolder;
  readonly #violations: Violation[] = [];
  readonly #trail: string[];

  constructor(cut: Cut, program: BuiltProgram, folder: RealFolder) {
    this.#cut = cut;
    this.#program = program;
    this.#folder = folder;
    const { step } = cut.recorded;
    const { call, nth, label } = cut.boundary;
    this.#trail = [`\`${step.argv.join(" ")}\`: ${cut.injection} at ${label} (${call}, number ${nth})`];
  }

  async run(): Promise<CutResult> {
    const end = await this.#inject();
    if (!end) return this.#result(undefined);
    const { recorded, boundary, injection } = this.#cut;
    const isHit = labelsAt(end.trace, this.#folder.root, boundary).includes(boundary.label);
    const wanted = injection === "kill" ? this.#wantedAfterKill(isHit) : this.#wantedAfterError(end);
    if (!wanted) return this.#result(undefined);
    try {
      const observed = await this.#nextCommand(wanted);
      if (observed === undefined) return this.#result(undefined);
      await this.#recoverAgain();
      if (this.#cut.asksQemu) await judgeWithQemu(this.#folder);
      const outcome = [...wanted].find(([, text]) => text === observed)?.[0];
      if (outcome !== undefined) await this.#goOn(observed);
      return this.#result(isHit && recorded.before !== recorded.after ? outcome : undefined);
    } catch (error) {
      this.#violate("what is left is no correct disk (rule 3)", textOf(error));
      return this.#result(undefined);
    }
  }

  #result(outcome: string | undefined): CutResult {
    return { violations: this.#violations, outcome };
  }

  #violate(rule: string, detail: string): void {
    const { scenario } = this.#cut.recorded;
    this.#violations.push({ scenario: scenario.name, rule, trail: this.#trail, detail });
  }

  async #inject(): Promise<TracedEnd | undefined> {
    const { recorded, boundary, injection } = this.#cut;
    const what = injection === "kill" ? "signal=KILL" : `error=${injection}`;
    const rule = `${boundary.call}:${what}:when=${boundary.nth}`;
    for (let tries = 0; tries < TRIES; tries += 1) {
      await layOutBefore(this.#folder, recorded);
      const { workspace, root } = this.#folder;
      const end = await this.#program.trace(recorded.step.argv, workspace, `${root}.trace`, rule);
      const fired = injection === "kill" ? end.exit === KILLED : countInjected(end.trace) > 0;
      if (fired) return end;
    }
    this.#violate("the injection does not fire", `inject=${rule}`);
    return undefined;
  }

  /** The result is printed behind everything else, so a kill there takes nothing back. */
  #wantedAfterKill(isHit: boolean): Map<string, string> {
    const { recorded, boundary } = this.#cut;
    if (boundary.isResult && isHit) return new Map([["after", recorded.after]]);
    return outcomesOf(recorded);
  }

  /** What the exit status promises; undefined, and reported, for one that it may not end with. */
  #wantedAfterError(end: ProcessEnd): Map<string, string> | undefined {
    const { recorded } = this.#cut;
    const { exit } = end;
    const ownExit = recorded.step.exit ?? 0;
    this.#trail.push(`exit status ${exit}`);
    if (exit !== ownExit) this.#checkMessage(end);
    if (exit === 0 || exit === UNFINISHED) return new Map([["after", recorded.after]]);
    if (exit !== ROLLED_BACK && exit !== ownExit) {
      this.#violate("an injected error ends with a wrong exit status", `${end.stdout}${end.stderr}`);
      return undefined;
    }
    const outcomes = outcomesOf(recorded);
    if (recorded.step.failsForward === true) return outcomes;
    if (recorded.before !== recorded.after) outcomes.delete("after");
    const files = this.#folder.describeFiles();
    if (files !== recorded.filesBefore) {
      const detail = differences(files, new Map([["before", recorded.filesBefore]]));
      this.#violate("rolled back by its exit status, but not in the folder", `${end.stderr}${detail}`);
    }
    return outcomes;
  }

  /** The message names the file that could not be changed, or a new name or a folder of it. */
  #checkMessage({ exit, stderr }: ProcessEnd): void {
    const isNamed = this.#cut.boundary.paths.length === 0 || stderr.includes(this.#folder.root);
    if (/^error: ./m.test(stderr) && isNamed) return;
    this.#violate(`the message of exit status ${exit} names nothing`, stderr || "(no message)");
  }

  /** Runs the next command and tells what is there then; undefined, and reported, if that may not be. */
  async #nextCommand(wanted: ReadonlyMap<string, string>): Promise<string | undefined> {
    const { recorded, number } = this.#cut;
    const next = NEXT_COMMANDS[number % NEXT_COMMANDS.length];
    if (next === undefined) return await this.#sameCommand(wanted);
    const end = await this.#program.run(next, this.#folder.workspace);
    this.#trail.push(`then \`${next.join(" ")}\``);
    if (end.exit !== 0 && !this.#isLacking(end)) {
      this.#violate("the next command fails", `exit status ${end.exit}\n${end.stdout}${end.stderr}`);
      return undefined;
    }
    const observed = await this.#folder.observe();
    if ([...wanted.values()].includes(observed)) return observed;
    const rule = `not wholly ${[...wanted.keys()].join(" or ")} (rules 1, 2, 4 and 7)`;
    const told = recorded.scenario.startsWithout === true ? "" : `${end.stderr}\n`;
    this.#violate(rule, `${told}${differences(observed, wanted)}`);
    return undefined;
  }

  #isLacking({ exit, stdout, stderr }: ProcessEnd): boolean {
    const lacks = isLackingWorkspace({ exit, text: `${stdout}${stderr}` });
    return this.#cut.recorded.scenario.startsWithout === true && lacks;
  }

  /** The command that was cut off, once more: it does its work, or finds it done. */
  async #sameCommand(wanted: ReadonlyMap<string, string>): Promise<string | undefined> {
    const { recorded } = this.#cut;
    const { step, again, after } = recorded;
    const end = await this.#program.run(step.argv, this.#folder.workspace);
    this.#trail.push(`then the same command, exit status ${end.exit}`);
    const observed = await this.#folder.observe();
    const done = wanted.has("before") && end.exit === (step.exit ?? 0) && observed === after;
    const doneTwice = wanted.has("after") && end.exit === again.exit && observed === again.observed;
    const other = recorded.others.length > 0;
    if (done || doneTwice || other) return observed;
    const named = new Map([
      ["after", after],
      ["run twice", again.observed],
    ]);
    const detail = `${end.stdout}${end.stderr}\n${differences(observed, named)}`;
    this.#violate("the same command does not end as it should after a crash", detail);
    return undefined;
  }

  /** Rule 5. */
  async #recoverAgain(): Promise<void> {
    const before = this.#folder.snapshot();
    const end = await this.#program.run(["recover"], this.#folder.workspace);
    const after = this.#folder.snapshot();
    if (before === after && (end.exit === 0 || this.#isLacking(end))) return;
    const detail = differences(after, new Map([["before it", before]]));
    this.#violate(
      "a second recovery changes something (rule 5)",
      `exit status ${end.exit}\n${end.stdout}${end.stderr}${detail}`,
    );
  }

  /** The rest of the scenario ends as it does without a crash. */
  async #goOn(observed: string): Promise<void> {
    const { recorded } = this.#cut;
    const { steps } = recorded.scenario;
    for (const step of steps.slice(nextStep(recorded, observed))) await this.#folder.runStep(step as Step);
    const end = await this.#folder.observe();
    if (end === recorded.end) return;
    const detail = differences(end, new Map([["without a crash", recorded.end]]));
    this.#violate("the scenario ends differently after a crash", detail);
  }
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

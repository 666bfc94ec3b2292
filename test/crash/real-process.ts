// The second rig: the built command line as a real process, killed at each system call that changes
// something, and with each one failed. The page cache survives; what is tried is the real code with its
// real calls. Power cuts are for the simulated disk and for power-cut.ts.

import { execFileSync } from "node:child_process";
import { mkdtempSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run } from "../../src/cli/main.ts";
import { makeNodeStorage } from "../../src/storage/index.ts";
import { guestDigest, openGuest, openHostImage } from "../helpers/guest-content.ts";
import { describeFiles, describeWorkspace, type WorkspacePlace } from "./observation.ts";
import { copyFolder, fingerprintFolder, layOutFiles, viewFolder } from "./real-folder.ts";
import { differences, type Violation } from "./report.ts";
import { WORKSPACE, type SampleFile, type Scenario } from "./scenarios.ts";
import { runPlain, runTraced, type Injection, type Launch } from "./strace.ts";
import { BadState, type RunResult, type Step } from "./subject.ts";

export interface ProcessFigures {
  /** Calls at which the process was killed. */
  kills: number;
  /** Calls that were made to fail. */
  errors: number;
  /** Calls that could not be hit, because threads met them in another order. */
  missed: number;
}

export interface ProcessReport {
  readonly figures: ProcessFigures;
  readonly violations: Violation[];
  cutShort: boolean;
}

export interface ProcessOptions {
  readonly program: string;
  readonly kinds: readonly Injection["kind"][];
  /** Indices of steps to try; the scenario's own choice when left out. */
  readonly steps?: readonly number[];
  readonly deadline: number;
  /** Asks qemu-img about each new state too. */
  readonly askQemu: boolean;
}

/** What comes next after a crash: any command recovers. */
const NEXT_COMMANDS: readonly (readonly string[])[] = [["recover"], ["txn", "status"], ["device", "list"]];
const TRIES = 8;

export async function tryProcess(scenario: Scenario, options: ProcessOptions): Promise<ProcessReport> {
  const bench = new RealBench(scenario.name, scenario.files(), options);
  try {
    for (const step of scenario.prepare) await bench.do(step);
    const befores: string[] = [];
    for (const [index, step] of scenario.steps.entries()) {
      befores.push(await bench.observe());
      const wanted = options.steps ?? scenario.studied ?? scenario.steps.map((_, each) => each);
      if (wanted.includes(index)) await tryStep(bench, step, befores, scenario.startsWithout === true);
      else await bench.do(step);
    }
    return bench.report;
  } finally {
    bench.remove();
  }
}

/** Tries every call of a step, and leaves the folder as the step without a crash does. */
async function tryStep(
  bench: RealBench,
  step: Step,
  befores: readonly string[],
  startsWithout: boolean,
): Promise<void> {
  const before = befores.at(-1) ?? "";
  bench.save();
  const outcomes = new Map([["before", before]]);
  if (step.orBefore !== undefined) outcomes.set("aborted", befores[step.orBefore] ?? "");
  if (step.orAfter) {
    await bench.do({ argv: step.orAfter });
    outcomes.set(`only ${step.orAfter.join(" ")}`, await bench.observe());
    bench.restore();
  }
  const plain = await bench.trace(step.argv);
  if (plain.exit !== (step.exit ?? 0)) throw new Error(`${step.argv.join(" ")}: ${plain.text}`);
  outcomes.set("after", await bench.observe());
  const trial: Trial = { bench, step, outcomes, before, startsWithout };
  for (const kind of bench.options.kinds) {
    for (const [index, call] of plain.calls.entries()) {
      if (Date.now() > bench.options.deadline) bench.report.cutShort = true;
      else await tryCall(trial, { call, kind }, index);
    }
  }
  bench.restore();
  await bench.do(step);
}

interface Trial {
  readonly bench: RealBench;
  readonly step: Step;
  readonly outcomes: ReadonlyMap<string, string>;
  readonly before: string;
  readonly startsWithout: boolean;
}

async function tryCall(trial: Trial, injection: Injection, index: number): Promise<void> {
  const { bench, step } = trial;
  let { number } = injection.call;
  for (let tries = 0; tries < TRIES; tries += 1) {
    bench.restore();
    const result = await bench.trace(step.argv, { ...injection, call: { ...injection.call, number } });
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
    if (injection.kind === "KILL") bench.report.figures.kills += 1;
    else bench.report.figures.errors += 1;
    await judge(trial, { exit: result.exit, text: result.text }, index, trail);
    return;
  }
  bench.report.figures.missed += 1;
}

async function judge(
  trial: Trial,
  result: { exit: number | undefined; text: string },
  index: number,
  trail: readonly string[],
): Promise<void> {
  const { bench } = trial;
  const wanted = outcomesAllowed(trial, result.exit);
  if (!wanted) {
    bench.violate("a wrong exit status", trail, `exit status ${result.exit}\n${result.text}`);
    return;
  }
  if (result.exit === 13 && !trial.step.failsForward && !bench.hasFilesOf(trial.before)) {
    bench.violate("exit status 13, but not rolled back", trail, result.text);
  }
  try {
    const next = NEXT_COMMANDS[index % NEXT_COMMANDS.length] ?? [];
    const mended = await runPlain(bench.launch, next);
    if (mended.exit !== 0 && !(trial.startsWithout && mended.exit === 14)) {
      const detail = `\`${next.join(" ")}\` ends with ${mended.exit}\n${mended.text}`;
      bench.violate("the next command fails", trail, detail);
      return;
    }
    const settled = fingerprintFolder(bench.live);
    await bench.ask(["recover"]);
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

/** A scenario's folder, which is put back before each trial. */
class RealBench {
  readonly live: string;
  readonly launch: Launch;
  readonly options: ProcessOptions;
  readonly report: ProcessReport = {
    figures: { kills: 0, errors: 0, missed: 0 },
    violations: [],
    cutShort: false,
  };
  readonly #name: string;
  readonly #scratch: string;
  readonly #saved: string;
  readonly #place: WorkspacePlace;
  readonly #judgedByQemu = new Set<string>();

  constructor(name: string, files: readonly SampleFile[], options: ProcessOptions) {
    this.#name = name;
    this.#scratch = mkdtempSync(join(tmpdir(), "imgtx-crash-"));
    this.live = join(this.#scratch, "live");
    this.#saved = join(this.#scratch, "saved");
    this.options = options;
    const workspace = join(this.live, WORKSPACE);
    this.#place = { workspace, original: new Set(files.map(({ path }) => join(this.live, path))) };
    this.launch = {
      program: options.program,
      cwd: workspace,
      root: this.live,
      traceFile: join(this.#scratch, "trace"),
    };
    layOutFiles(this.live, files);
  }

  remove(): void {
    rmSync(this.#scratch, { recursive: true, force: true });
  }

  /** Keeps the present state for restore. */
  save(): void {
    rmSync(this.#saved, { recursive: true, force: true });
    renameSync(this.live, this.#saved);
    copyFolder(this.#saved, this.live);
  }

  restore(): void {
    rmSync(this.live, { recursive: true, force: true });
    copyFolder(this.#saved, this.live);
  }

  trace(argv: readonly string[], injection?: Injection): ReturnType<typeof runTraced> {
    return runTraced(this.launch, argv, injection);
  }

  violate(rule: string, trail: readonly string[], detail: string): void {
    this.report.violations.push({ scenario: `${this.#name} (process)`, rule, trail, detail });
  }

  /** Runs a step in this process, which is faster. */
  async do({ argv, exit }: Step): Promise<void> {
    const result = await this.ask(argv);
    if (result.exit !== (exit ?? 0))
      throw new Error(`${argv.join(" ")} ends with ${result.exit}\n${result.text}`);
  }

  async ask(argv: readonly string[]): Promise<RunResult & { readonly out: string }> {
    let out = "";
    let err = "";
    const exit = await run(argv, {
      storage: makeNodeStorage(),
      cwd: this.launch.cwd,
      env: {},
      stdout: { write: (text) => void (out += text), isTTY: false, columns: undefined },
      stderr: { write: (text) => void (err += text), isTTY: false, columns: undefined },
      stdin: () => Promise.resolve(""),
    });
    return { exit, text: `${out}${err}`, out };
  }

  hasFilesOf(observed: string): boolean {
    const files = describeFiles(viewFolder(this.live), this.#place);
    return files.join("\n") === observed.split("\n").slice(-files.length).join("\n");
  }

  async observe(): Promise<string> {
    const devices = await this.ask(["device", "list", "--json"]);
    const view = viewFolder(this.live);
    if (devices.exit === 14) return describeWorkspace(view, this.#place, undefined);
    const transactions = await this.ask(["txn", "status", "--json"]);
    for (const { exit, text } of [devices, transactions]) {
      if (exit !== 0) throw new BadState(`a query ends with ${exit}:\n${text}`);
    }
    const answers = { devices: devices.out, transactions: transactions.out };
    const observed = describeWorkspace(view, this.#place, answers);
    if (this.options.askQemu && !this.#judgedByQemu.has(observed)) this.#askQemu(devices.out);
    this.#judgedByQemu.add(observed);
    return observed;
  }

  /** qemu-img must find each image clean, and read from it what the reader of these tests reads. */
  #askQemu(answer: string): void {
    const { devices } = JSON.parse(answer) as { devices: { image: string; format: string }[] };
    const raw = join(this.#scratch, "guest.raw");
    for (const { image, format } of devices) {
      if (format === "qcow2") execFileSync("qemu-img", ["check", "-q", "-f", format, image]);
      execFileSync("qemu-img", ["convert", "-f", format, "-O", "raw", image, raw]);
      const [own, qemus] = [openGuest(openHostImage, image, format), openGuest(openHostImage, raw, "raw")];
      if (guestDigest(own) !== guestDigest(qemus))
        throw new BadState(`${image}: qemu-img reads it differently`);
    }
  }
}

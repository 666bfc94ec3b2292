// Lets each changing call of a command fail: once, or from then on (a full disk, a dying one). The exit
// status must say what the disk then holds, also if the power fails right after it; and the next
// command, on a disk that works again, must mend everything.

import type { Change } from "../simulated/disk-log.ts";
import { describeChange } from "../simulated/disk-log.ts";
import { DiskStates } from "../simulated/disk-states.ts";
import { spread } from "../simulated/crash-states.ts";
import type { ExploreOptions } from "./explore.ts";
import { notePurposes, type Recovered, RecoveryCheck } from "./recovery-check.ts";
import { machineAt, outcomesOf, type RecordedStep, type Recording } from "../simulated/recording.ts";
import { differences, emptyReport, type Report } from "../report.ts";
import { afterProcessDeath, SimulatedMachine, type Fault } from "../simulated/simulated-disk.ts";
import { runOn, type RunResult, type Subject } from "../subject.ts";

const ROLLED_BACK = 13;
const UNFINISHED = 16;

const KINDS: readonly Omit<Fault, "call">[] = [
  { kind: "io", stays: false },
  { kind: "no-space", stays: false },
  { kind: "no-space", stays: true },
  { kind: "io", stays: true },
];

/** Runs each studied step with each call failing, and recovery of dead processes of it likewise. */
export async function injectErrors(
  recording: Recording,
  subject: Subject,
  options: ExploreOptions,
): Promise<Report> {
  return await injectInto(recording, subject, options, async (injector, recorded) => {
    for (const kind of KINDS) await injector.failCommand(recorded, kind);
    for (const point of spread(recorded, options.nestedDeaths)) {
      for (const kind of KINDS) await injector.failRecovery(recorded, kind, point);
    }
  });
}

/** The same of flushes alone, each failing once, and of commands. */
export async function injectLostFlushes(
  recording: Recording,
  subject: Subject,
  options: ExploreOptions,
): Promise<Report> {
  return await injectInto(recording, subject, options, async (injector, recorded) => {
    await injector.failCommand(recorded, { kind: "io", stays: false });
  });
}

async function injectInto(
  recording: Recording,
  subject: Subject,
  options: ExploreOptions,
  inject: (injector: ErrorInjector, recorded: RecordedStep) => Promise<void>,
): Promise<Report> {
  const report = emptyReport();
  const check = new RecoveryCheck(recording, subject, report);
  const injector = new ErrorInjector(recording, subject, options, report, check);
  for (const recorded of recording.steps) if (recorded.studied) await inject(injector, recorded);
  report.cutShort = Date.now() > options.deadline;
  return report;
}

class ErrorInjector {
  readonly #recording: Recording;
  readonly #subject: Subject;
  readonly #options: ExploreOptions;
  readonly #report: Report;
  readonly #check: RecoveryCheck;

  constructor(
    recording: Recording,
    subject: Subject,
    options: ExploreOptions,
    report: Report,
    check: RecoveryCheck,
  ) {
    this.#recording = recording;
    this.#subject = subject;
    this.#options = options;
    this.#report = report;
    this.#check = check;
  }

  #isOver(): boolean {
    return (
      this.#report.violations.length >= this.#options.maxViolations || Date.now() > this.#options.deadline
    );
  }

  async failCommand(recorded: RecordedStep, kind: Omit<Fault, "call">): Promise<void> {
    for (let call = 0; !this.#isOver(); call += 1) {
      const machine = machineAt(this.#recording, recorded.from);
      const filesBefore = this.#subject.files(machine.tree);
      const start = machine.log.length;
      machine.arm({ ...kind, call });
      const result = await runOn(machine, this.#subject, recorded.step.argv);
      if (machine.timesFired === 0) return;
      machine.disarm();
      notePurposes(this.#report, machine.log.slice(start));
      this.#report.figures.errors += 1;
      const trail = [describeFault(recorded.step.argv, kind, call, machine.log, start)];
      const wanted = this.#wantedAfter(recorded, result, kind.stays && kind.kind === "io", trail);
      if (!wanted) continue;
      // What fails while it is being taken back can only be left to the next command.
      const takesBack = recorded.step.failsForward === true || (recorded.step.exit ?? 0) !== 0;
      const mustBeBack = result.exit === ROLLED_BACK && !kind.stays && !takesBack;
      if (mustBeBack && this.#subject.files(machine.tree) !== filesBefore) {
        const detail = differences(this.#subject.files(machine.tree), new Map([["before", filesBefore]]));
        this.#check.violate("exit status 13, but not rolled back", trail, `${result.text}\n${detail}`);
      }
      await this.#mends(recorded, machine, wanted, trail);
      await this.#survivesPowerLoss(machine, start, recorded, wanted, trail);
    }
  }

  /** What the exit status promises; undefined, and reported, for one that it may not end with. */
  #wantedAfter(
    recorded: RecordedStep,
    { exit, text }: RunResult,
    isDying: boolean,
    trail: readonly string[],
  ): Map<string, string> | undefined {
    // On a disk that takes no more writes nothing can be promised but to be whole.
    if ((exit === ROLLED_BACK || exit === UNFINISHED) && isDying) return outcomesOf(recorded);
    if (exit === 0 || exit === UNFINISHED) return new Map([["after", recorded.after]]);
    if (exit === ROLLED_BACK || exit === recorded.step.exit) return rolledBack(recorded);
    this.#check.violate(
      "an injected error ends with a wrong exit status",
      trail,
      `exit status ${exit}\n${text}`,
    );
    return undefined;
  }

  async #mends(
    recorded: RecordedStep,
    machine: SimulatedMachine,
    wanted: ReadonlyMap<string, string>,
    trail: readonly string[],
  ): Promise<void> {
    const recovered = await this.#check.recover(afterProcessDeath(machine), undefined, trail);
    if (recovered.observed === undefined) return;
    await this.#staysMended(machine, recovered, wanted, trail);
    if (![...wanted.values()].includes(recovered.observed)) {
      const detail = differences(recovered.observed, wanted);
      this.#check.violate("the next command does not bring what the exit status said", trail, detail);
      return;
    }
    await this.#check.goOn(recorded, recovered, trail, true);
  }

  /** What a failed flush lost must have been written anew: else it is gone with the page cache. */
  async #staysMended(
    machine: SimulatedMachine,
    { log, observed }: Recovered,
    wanted: ReadonlyMap<string, string>,
    trail: readonly string[],
  ): Promise<void> {
    const isLost = log.some((change) => change.kind === "flush" && change.outcome === "failed");
    if (!isLost || observed === undefined) return;
    const states = new DiskStates(machine.durable);
    for (const change of log) states.advance(change);
    const where = "the power fails after the next command";
    // Nobody was told that an open transaction holds what the failed command left: the next record secures it.
    const isOpen = /^transaction /m.test(observed);
    const mended = new Map([...(isOpen ? wanted : []), ["mended", observed] as const]);
    await this.#tryStates(states, mended, [...trail, where], log.length);
  }

  /** The exit status was seen, so it binds even when the power fails now; before it, either may come. */
  async #survivesPowerLoss(
    machine: SimulatedMachine,
    start: number,
    recorded: RecordedStep,
    wanted: ReadonlyMap<string, string>,
    trail: readonly string[],
  ): Promise<void> {
    const states = new DiskStates(machine.durable);
    const failedFlush = machine.log.findIndex(
      (change) => change.kind === "flush" && change.outcome === "failed",
    );
    for (const [index, change] of machine.log.entries()) {
      states.advance(change);
      const isEnd = index === machine.log.length - 1;
      const isBehindFailedFlush = failedFlush >= 0 && index >= failedFlush;
      if (index < start || (!isEnd && !isBehindFailedFlush)) continue;
      const allowed = isEnd ? wanted : outcomesOf(recorded);
      const where = isEnd
        ? "the power fails after its exit"
        : `the power fails after ${describeChange(change)}`;
      await this.#tryStates(states, allowed, [...trail, where], index);
    }
  }

  async #tryStates(
    states: DiskStates,
    allowed: ReadonlyMap<string, string>,
    trail: readonly string[],
    seed: number,
  ): Promise<void> {
    for (const state of states.states(this.#options.nestedLimits, this.#options.seed + seed)) {
      if (this.#isOver()) return;
      const here = [...trail, `missing on disk: ${state.missing.join("; ") || "nothing"}`];
      const machine = new SimulatedMachine({ durable: state.tree, boots: 4 });
      const { observed, isNew } = await this.#check.recover(machine, state.key, here);
      if (isNew) this.#report.figures.states += 1;
      if (observed === undefined || [...allowed.values()].includes(observed)) continue;
      this.#check.violate(
        "the exit status does not hold after a power loss",
        here,
        differences(observed, allowed),
      );
    }
  }

  async failRecovery(recorded: RecordedStep, kind: Omit<Fault, "call">, point: number): Promise<void> {
    const start = machineAt(this.#recording, point);
    for (let call = 0; !this.#isOver(); call += 1) {
      const machine = afterProcessDeath(start);
      machine.arm({ ...kind, call });
      const result = await runOn(machine, this.#subject, this.#subject.recover);
      if (machine.timesFired === 0) return;
      machine.disarm();
      this.#report.figures.errors += 1;
      const trail = [
        `\`${recorded.step.argv.join(" ")}\`: the process dies after ${point - recorded.from} calls`,
        describeFault(this.#subject.recover, kind, call, machine.log, point),
      ];
      if (![0, ROLLED_BACK, UNFINISHED].includes(result.exit)) {
        const detail = `exit status ${result.exit}\n${result.text}`;
        this.#check.violate("an injected error in recovery ends with a wrong exit status", trail, detail);
        continue;
      }
      const wanted =
        point < recorded.to && result.exit !== UNFINISHED
          ? outcomesOf(recorded)
          : new Map([["after", recorded.after]]);
      await this.#mends(recorded, machine, wanted, trail);
    }
  }
}

/** All but "after". */
function rolledBack(recorded: RecordedStep): Map<string, string> {
  const outcomes = outcomesOf(recorded);
  if (!recorded.step.failsForward) outcomes.delete("after");
  return outcomes;
}

function describeFault(
  argv: readonly string[],
  kind: Omit<Fault, "call">,
  call: number,
  log: readonly Change[],
  start: number,
): string {
  const last = log[Math.min(start + call, log.length) - 1];
  const where = call === 0 || !last ? "its first" : `number ${call}, after ${describeChange(last)}`;
  return `\`${argv.join(" ")}\`: ${kind.kind === "io" ? "EIO" : "ENOSPC"} at call ${where}${kind.stays ? ", and ever after" : ""}`;
}

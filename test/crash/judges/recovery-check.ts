// Runs the real recovery on a crashed machine and judges it by itself: it succeeds, what it leaves is a
// correct disk, and running it again changes nothing. Equal disks are recovered once.

import type { Change } from "../simulated/disk-log.ts";
import { describeChange } from "../simulated/disk-log.ts";
import type { Tree } from "../simulated/disk-tree.ts";
import { isAlikeButForMirror } from "./generations.ts";
import { likenessOf } from "./likeness.ts";
import { RECORDED_BOOT, type RecordedStep, type Recording } from "../simulated/recording.ts";
import { differences, type Report } from "../report.ts";
import { afterProcessDeath, SimulatedMachine } from "../simulated/simulated-disk.ts";
import { goOnOn, observeCopy, runOn, type Subject } from "../subject.ts";

export interface Recovered {
  /** Undefined where a violation was reported. */
  readonly observed: string | undefined;
  /** The log of the machine with the recovery at its end. */
  readonly log: readonly Change[];
  readonly tree: Tree | undefined;
  /** The start of the host that it ran in. */
  readonly boot: number;
  /** Whether this disk was met for the first time. */
  readonly isNew: boolean;
}

/** The exit status of a commit that finds an image changed. */
const REFUSED = 14;

/** More crashes than any rig nests. */
export const LATER = 9;

export class RecoveryCheck {
  readonly #recording: Recording;
  readonly #subject: Subject;
  readonly #report: Report;
  readonly #recovered = new Map<string, Recovered>();
  /** Observations of disks that recovery left and that stay as they are when it runs again, once for all that are alike. */
  readonly #settled = new Map<string, string>();
  readonly #gone = new Set<string>();
  /** Where the scenario leads from each step on, if the host is started anew before it. */
  readonly #endsAnew = new Map<number, string>();
  /** Where it leads if the commit that is this step is refused. */
  readonly #endsRefused = new Map<number, string>();

  constructor(recording: Recording, subject: Subject, report: Report) {
    this.#recording = recording;
    this.#subject = subject;
    this.#report = report;
  }

  violate(rule: string, trail: readonly string[], detail: string): void {
    this.#report.violations.push({ scenario: this.#recording.plan.name, rule, trail, detail });
  }

  /** For what is as it is everywhere: told once a scenario. */
  violateOnce(rule: string, trail: readonly string[], detail: string): void {
    if (this.#report.violations.every((violation) => violation.rule !== rule)) {
      this.violate(rule, trail, detail);
    }
  }

  /** Recovers the machine's disk; `key` is equal for disks on which that must give the same. */
  async recover(
    machine: SimulatedMachine,
    key: string | undefined,
    trail: readonly string[],
  ): Promise<Recovered> {
    const known = key === undefined ? undefined : this.#recovered.get(key);
    if (known) return { ...known, isNew: false };
    const fresh = await this.#recoverNow(machine, trail);
    if (key !== undefined) this.#recovered.set(key, fresh);
    return fresh;
  }

  async #recoverNow(machine: SimulatedMachine, trail: readonly string[]): Promise<Recovered> {
    const running = afterProcessDeath(machine, { boots: machine.boots });
    const failed = {
      observed: undefined,
      log: running.log,
      tree: undefined,
      boot: running.boot,
      isNew: true,
    };
    try {
      const { exit, text } = await runOn(running, this.#subject, this.#subject.recover);
      notePurposes(this.#report, running.log.slice(machine.log.length));
      if (exit !== 0) {
        this.violate("recovery fails", trail, `exit status ${exit}\n${text}`);
        return failed;
      }
      const key = likenessOf(running.tree, true);
      let observed = this.#settled.get(key);
      if (observed === undefined) {
        if (!(await this.#isSettled(running, trail))) return failed;
        observed = this.#withoutDoubt(await observeCopy(running, this.#subject));
        this.#settled.set(key, observed);
      }
      return { observed, log: running.log, tree: running.tree, boot: running.boot, isNew: true };
    } catch (error) {
      this.violate("recovery leaves a disk that no disk may be (rule 3)", trail, textOf(error));
      return failed;
    }
  }

  /** Where a fence's lifting may be cut off before its time is put back, a snapshot of the image may be in doubt. */
  #withoutDoubt(observed: string): string {
    if (this.#recording.plan.steps.every(({ orRefused }) => orRefused !== true)) return observed;
    return observed.replaceAll(/^snapshot .*$/gm, (line) => line.replaceAll(" changed", ""));
  }

  /** Rule 5: a second recovery writes nothing. */
  async #isSettled(running: SimulatedMachine, trail: readonly string[]): Promise<boolean> {
    const again = afterProcessDeath(running);
    const { exit, text } = await runOn(again, this.#subject, this.#subject.recover);
    const changes = again.log.slice(running.log.length).filter((change) => change.kind !== "flush");
    if (exit === 0 && changes.length === 0) return true;
    const calls = changes.map(describeChange).join("\n");
    this.violate(
      "a second recovery changes something (rule 5)",
      trail,
      `exit status ${exit}\n${text}\n${calls}`,
    );
    return false;
  }

  /** The step with which the scenario goes on from what a crash of the recorded step led to. */
  nextStep(recorded: RecordedStep, observed: string): number {
    if (observed === recorded.before) return recorded.index;
    if (observed === recorded.after) return recorded.index + 1;
    const other = recorded.others.find((one) => one.observed === observed)?.next;
    const earlier = this.#recording.steps.findLast(
      ({ index, before }) => index < recorded.index && before === observed,
    );
    return other ?? earlier?.index ?? recorded.index + 1;
  }

  /**
   * The rest of the scenario must end as it does without a crash. After a power cut: as it does where the host was
   * started anew at that point, since a mirror is then brought in sync anew, and a rollback may be refused in doubt.
   * After the death of a process either: what recovery did in its stead it has not seen for itself. A mirror
   * in doubt may be compared once more, by a generation of its own. Where the lifting of a fence may have been cut off
   * between its bytes and its time, a commit may be refused, and its transaction stays open: see Step.orRefused.
   */
  async goOn(
    recorded: RecordedStep,
    recovered: Recovered,
    trail: readonly string[],
    wasCutOff: boolean,
  ): Promise<void> {
    const { tree, observed, boot } = recovered;
    if (!tree || observed === undefined) return;
    const next = this.nextStep(recorded, observed);
    const isSameBoot = boot === RECORDED_BOOT;
    // Whether a recovery was cut off matters where a commit may be refused after it, and nowhere else.
    const refused = wasCutOff ? await this.#endRefused(next) : undefined;
    // Where no step is left, and the host was not started anew, it ends as it was observed.
    const isOver = isSameBoot && next === this.#recording.plan.steps.length;
    const how = `${next} ${isSameBoot} ${refused !== undefined}`;
    if (isOver ? !this.#isFirst(`${how} ${observed}`) : !this.#isFirstDisk(how, tree)) return;
    const start = { durable: tree, boots: LATER };
    const machine = new SimulatedMachine(isSameBoot ? { ...start, boot } : start);
    try {
      const end = isOver ? observed : this.#withoutDoubt((await this.runRest(machine, next)).end);
      const anew = await this.#endAnew(next);
      const wanted = new Map([["the end without a crash, the host started anew", anew]]);
      if (isSameBoot) wanted.set("the end without a crash", this.#end(next));
      if (refused !== undefined) wanted.set("the commit refused", refused);
      if ([...wanted.values()].some((one) => isAlikeButForMirror(end, this.#withoutDoubt(one)))) return;
      this.violate("the scenario ends differently after recovery", trail, differences(end, wanted));
    } catch (error) {
      this.violate("the scenario ends in a bad disk after recovery", trail, textOf(error));
    }
  }

  #isFirstDisk(how: string, tree: Tree): boolean {
    return this.#isFirst(`${how} ${tree.key(true)}`) && this.#isFirst(`${how} ${likenessOf(tree)}`);
  }

  #isFirst(key: string): boolean {
    if (this.#gone.has(key)) return false;
    this.#gone.add(key);
    return true;
  }

  /** How each step from this one on ends, and what is left; and what they said. */
  async runRest(machine: SimulatedMachine, next: number): Promise<{ end: string; said: string }> {
    const ends: string[] = [];
    let said = "";
    for (const { argv } of this.#recording.plan.steps.slice(next)) {
      const { exit, text } = await goOnOn(machine, this.#subject, argv);
      ends.push(describeEnd(argv, exit));
      said += text;
    }
    return { end: [...ends, await observeCopy(machine, this.#subject)].join("\n"), said };
  }

  #end(next: number): string {
    const { plan, steps } = this.#recording;
    const ends = plan.steps.slice(next).map(({ argv, exit }) => describeEnd(argv, exit ?? 0));
    return [...ends, steps.at(-1)?.after ?? ""].join("\n");
  }

  /** Where the commit that may be refused was, and its transaction stays open. */
  async #endRefused(next: number): Promise<string | undefined> {
    const { plan, steps } = this.#recording;
    const refused = steps.find(({ index, step }) => index >= next && step.orRefused === true);
    if (!refused) return undefined;
    const ends = plan.steps.slice(next, refused.index).map(({ argv, exit }) => describeEnd(argv, exit ?? 0));
    const known = this.#endsRefused.get(refused.index);
    const rest = known ?? (await this.#runFrom(refused.from, refused.index + 1, RECORDED_BOOT));
    this.#endsRefused.set(refused.index, rest);
    return [...ends, describeEnd(refused.step.argv, REFUSED), rest].join("\n");
  }

  async #endAnew(next: number): Promise<string> {
    const known = this.#endsAnew.get(next);
    if (known !== undefined) return known;
    const { log, steps } = this.#recording;
    const end = await this.#runFrom(steps[next]?.from ?? log.length, next);
    this.#endsAnew.set(next, end);
    return end;
  }

  /** The rest of the scenario from this step on, on the disk as it was at that call. boot: default, the host is started anew. */
  async #runFrom(point: number, next: number, boot?: number): Promise<string> {
    const { start, log } = this.#recording;
    const { tree } = new SimulatedMachine({ durable: start, log: log.slice(0, point) });
    const durable = boot === undefined ? tree.rebooted() : tree;
    const machine = new SimulatedMachine({ durable, boots: LATER, ...(boot !== undefined && { boot }) });
    return (await this.runRest(machine, next)).end;
  }
}

function describeEnd(argv: readonly string[], exit: number): string {
  return `\`${argv.join(" ")}\` ends with ${exit}`;
}

/** Adds what the flushes of a log were for to the report. */
export function notePurposes(report: Report, log: readonly Change[]): void {
  for (const change of log) if (change.kind === "flush") report.purposes.add(change.purpose);
}

function textOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

// Cuts a scenario off at every call, works out what the disk may hold then, runs the real recovery on
// each such disk, and holds the result against the invariants of the crash model. Then it does the same
// to the recovery, and to the recovery of that.
//
// Two kinds of crash: the power fails (a choice of what was pending is lost), or the process dies (the
// page cache lives on, and what was pending still is: the power may fail later, during recovery).

import { seededRandom } from "../../helpers/random.ts";
import type { Boundaries } from "../simulated/boundary-kinds.ts";
import { spread } from "../simulated/crash-states.ts";
import { applyChange, type Change, describeChange } from "../simulated/disk-log.ts";
import { DiskStates } from "../simulated/disk-states.ts";
import type { Tree } from "../simulated/disk-tree.ts";
import { isHistoryAlike } from "./generations.ts";
import { notePurposes, RecoveryCheck } from "./recovery-check.ts";
import {
  describePoint,
  outcomesOf,
  RECORDED_BOOT,
  type RecordedStep,
  type Recording,
} from "../simulated/recording.ts";
import { differences, emptyReport, type Report, withoutIds } from "../report.ts";
import { FULL_LIMITS, type SelectionLimits } from "../simulated/selections.ts";
import { afterProcessDeath, SimulatedMachine } from "../simulated/simulated-disk.ts";
import { goOnOn, observeCopy, type Subject } from "../subject.ts";

export interface ExploreOptions {
  /** Disks tried at each crash point of a command. */
  readonly limits: SelectionLimits;
  /** Disks tried at each crash point inside a recovery. */
  readonly nestedLimits: SelectionLimits;
  /** At how many calls a recovery is cut off, a seeded choice of them; its end is always one. */
  readonly nestedPoints: number;
  /** How many crashes one inside the other: 1 is a crash of the command only. */
  readonly depth: number;
  /** Of how many disks one has its recovery cut off too. */
  readonly nestEvery: number;
  /** At how many calls of a step, spread over all of them, a dead process may have its recovery cut off too. */
  readonly nestedDeaths: number;
  /** At which of its calls a step is cut off. Default: at all. */
  readonly kinds?: Boundaries;
  /** Of the dead processes of a step that recover by the same calls, how many have their recovery cut off too. */
  readonly nestAlike: number;
  readonly seed: number;
  /** Stop at this moment (milliseconds since 1970), with the report marked as cut short. */
  readonly deadline: number;
  readonly maxViolations: number;
}

export const EXPLORE_ALL: ExploreOptions = {
  limits: FULL_LIMITS,
  nestedLimits: { exhaustiveItems: 6, randomSubsets: 16, most: 64 },
  nestedPoints: Number.POSITIVE_INFINITY,
  depth: 3,
  nestEvery: 16,
  nestedDeaths: Number.POSITIVE_INFINITY,
  nestAlike: Number.POSITIVE_INFINITY,
  seed: 1,
  deadline: Number.POSITIVE_INFINITY,
  maxViolations: 10,
};

/** What may be observed after recovery: names for reports, and the observations. */
type Wanted = ReadonlyMap<string, string>;

/** A stretch of a log that is cut off at each of its calls. */
interface Cut {
  readonly recorded: RecordedStep;
  readonly durable: Tree;
  readonly log: readonly Change[];
  /** The start of the host that it runs in. */
  readonly boot: number;
  readonly from: number;
  readonly to: number;
  /** Wanted while the stretch is under way, and once its exit status 0 was seen. */
  readonly during: Wanted;
  readonly atEnd: Wanted;
  readonly argv: readonly string[];
  readonly trail: readonly string[];
  /** 1 for the command, 2 for its recovery, 3 for the recovery of that. */
  readonly level: number;
}

/** What a crash of each kind may still lead to. */
interface Ahead {
  power: Wanted;
  process: Wanted;
}

/** One crash: the machine as it comes up again. */
interface Crash {
  readonly cut: Cut;
  readonly machine: SimulatedMachine;
  readonly kind: "power" | "process";
  /** Equal for disks that need not be tried twice. */
  readonly key: string | undefined;
  readonly wanted: Wanted;
  /** What a power loss may lead to, now or while the recovery from this crash is under way. */
  readonly wantedOfPower: Wanted;
  readonly trail: readonly string[];
  readonly mayNest: boolean;
}

export async function explore(
  recording: Recording,
  subject: Subject,
  options: ExploreOptions,
): Promise<Report> {
  const report = emptyReport();
  notePurposes(report, recording.log);
  const explorer = new Explorer(recording, subject, options, report);
  for (const recorded of recording.steps) if (recorded.studied) await explorer.studyStep(recorded);
  report.cutShort = Date.now() > options.deadline;
  return report;
}

class Explorer {
  readonly #recording: Recording;
  readonly #subject: Subject;
  readonly #options: ExploreOptions;
  readonly #report: Report;
  readonly #check: RecoveryCheck;
  readonly #nestedKeys = new Set<string>();
  /** How often a dead process's recovery was cut off, by its calls. */
  readonly #nestedAlike = new Map<string, number>();
  /** The first call after which the disk may differ from what it is with all flushes. */
  readonly #firstOther: number;

  constructor(recording: Recording, subject: Subject, options: ExploreOptions, report: Report) {
    this.#recording = recording;
    this.#subject = subject;
    this.#options = options;
    this.#report = report;
    this.#check = new RecoveryCheck(recording, subject, report);
    this.#firstOther = options.depth === 1 ? firstMuted(recording) : 0;
  }

  studyStep(recorded: RecordedStep): Promise<void> {
    return this.#cutOff({
      recorded,
      durable: this.#recording.start,
      log: this.#recording.log,
      boot: RECORDED_BOOT,
      from: recorded.from,
      to: recorded.to,
      during: outcomesOf(recorded),
      atEnd: new Map([["after", recorded.after]]),
      argv: recorded.step.argv,
      trail: [],
      level: 1,
    });
  }

  #isOver(): boolean {
    return (
      this.#report.violations.length >= this.#options.maxViolations || Date.now() > this.#options.deadline
    );
  }

  async #cutOff(cut: Cut): Promise<void> {
    const states = new DiskStates(cut.durable);
    const cached = cut.durable.fork();
    // Once a crash led to "after", there is no way back: a later one has at least as much on the disk.
    const ahead: Ahead = { power: cut.during, process: cut.during };
    const points = this.#choosePoints(cut);
    const deaths = cut.level === 1 ? spread(cut, this.#options.nestedDeaths) : points;
    for (let point = 0; point <= cut.to && !this.#isOver(); point += 1) {
      if (points.has(point)) {
        if (cut.level === 1) this.#report.figures.points += 1;
        await this.#powerFails(cut, point, states, ahead);
        const mayNest = deaths.has(point) && cut.level < this.#options.depth;
        if (mayNest || !isAfterFlush(cut, point, points)) {
          await this.#processDies(cut, point, cached, ahead, mayNest);
        }
      }
      const change = cut.log[point];
      if (!change) continue;
      states.advance(change);
      applyChange(cached, change);
    }
  }

  #choosePoints(cut: Cut): ReadonlySet<number> {
    const first = cut.level === 1 ? Math.max(cut.from, this.#firstOther) : cut.from + 1;
    const points = Array.from({ length: Math.max(0, cut.to + 1 - first) }, (_, index) => first + index);
    if (cut.level === 1) {
      const chosen = this.#options.kinds?.choose(this.#recording, cut.recorded);
      return new Set(points.filter((point) => chosen?.has(point) ?? true));
    }
    if (points.length <= this.#options.nestedPoints) return new Set(points);
    const random = seededRandom(this.#options.seed + sample(cut.trail.join()));
    const chosen = new Set([cut.to]);
    while (chosen.size < this.#options.nestedPoints) chosen.add(first + random.below(points.length));
    return chosen;
  }

  async #powerFails(cut: Cut, point: number, states: DiskStates, ahead: Ahead): Promise<void> {
    const limits = cut.level === 1 ? this.#options.limits : this.#options.nestedLimits;
    const where = describePoint(cut.argv, cut.log, cut.from, point);
    let isFirst = true;
    for (const state of states.states(limits, this.#options.seed + point)) {
      if (this.#isOver()) return;
      const missing = state.missing.length === 0 ? "nothing" : state.missing.join("; ");
      const observed = await this.#comesBack({
        cut,
        machine: this.#machine(cut, state.tree, []),
        kind: "power",
        key: state.key,
        wanted: point === cut.to ? cut.atEnd : ahead.power,
        wantedOfPower: ahead.power,
        trail: [...cut.trail, where, `the power fails; missing on disk: ${missing}`],
        mayNest: true,
      });
      // The first state has nothing that was pending: every other has more.
      if (isFirst) ahead.power = narrowed(ahead.power, observed);
      isFirst = false;
    }
  }

  async #processDies(cut: Cut, point: number, cached: Tree, ahead: Ahead, mayNest: boolean): Promise<void> {
    if (this.#isOver()) return;
    const where = describePoint(cut.argv, cut.log, cut.from, point);
    const observed = await this.#comesBack({
      cut,
      machine: this.#machine(cut, cut.durable, cut.log.slice(0, point), cached),
      kind: "process",
      // Where its recovery is cut off, it matters what was pending.
      key: mayNest ? undefined : `process ${cut.level} ${cut.boot} ${cached.key(true)}`,
      wanted: point === cut.to ? cut.atEnd : ahead.process,
      wantedOfPower: point === cut.to ? cut.atEnd : ahead.power,
      trail: [...cut.trail, where, "the process dies; the page cache lives on"],
      mayNest,
    });
    ahead.process = narrowed(ahead.process, observed);
  }

  #machine(cut: Cut, durable: Tree, log: readonly Change[], cached?: Tree): SimulatedMachine {
    return new SimulatedMachine({
      durable,
      log,
      // A process dies within a start of the host, and a power cut leads to another one.
      ...(cached ? { cached, boot: cut.boot } : {}),
      boots: 1 + cut.level,
      mutedPurposes: this.#recording.mutedPurposes,
    });
  }

  /** Recovers, checks, and cuts the recovery off in turn. Gives what was observed. */
  async #comesBack(crash: Crash): Promise<string | undefined> {
    const recovered = await this.#check.recover(crash.machine, crash.key, crash.trail);
    if (recovered.isNew) {
      this.#report.figures.states += 1;
      if (crash.cut.level > 1) this.#report.figures.nested += 1;
    }
    if (recovered.observed === undefined) return undefined;
    if (![...crash.wanted.values()].includes(recovered.observed)) {
      this.#check.violate(
        `not wholly ${[...crash.wanted.keys()].join(" or ")} (rules 1, 2, 4 and 7)`,
        crash.trail,
        differences(recovered.observed, crash.wanted),
      );
      return undefined;
    }
    await this.#check.goOn(crash.cut.recorded, recovered, crash.trail, crash.cut.level > 1);
    if (this.#isNested(crash, recovered.log)) {
      await this.#cutRecoveryOff(crash, recovered.log, recovered.observed);
      if (crash.kind === "process" && crash.cut.level === 1) {
        await this.#cutNextCommandOff(crash, recovered.observed);
      }
    }
    return recovered.observed;
  }

  #isNested(crash: Crash, log: readonly Change[]): boolean {
    if (!crash.mayNest || crash.cut.level >= this.#options.depth) return false;
    if (crash.key === undefined && crash.cut.level === 1) {
      const calls = log.slice(crash.machine.log.length).map(describeChange);
      const alike = `${crash.cut.recorded.index} ${withoutIds(calls.join("\n"))}`;
      const count = (this.#nestedAlike.get(alike) ?? 0) + 1;
      this.#nestedAlike.set(alike, count);
      return count <= this.#options.nestAlike;
    }
    const key = `${crash.cut.level} ${crash.key ?? crash.trail.join()}`;
    if (this.#nestedKeys.has(key) || sample(key) % this.#options.nestEvery !== 0) return false;
    this.#nestedKeys.add(key);
    return true;
  }

  /** The scenario's next command instead of a recovery: it recovers, and does its own work on top of that. */
  async #cutNextCommandOff(crash: Crash, observed: string): Promise<void> {
    const next = this.#recording.steps[this.#check.nextStep(crash.cut.recorded, observed)];
    if (!next || this.#recording.plan.mixes) return;
    const { argv, exit } = next.step;
    const running = afterProcessDeath(crash.machine, { boots: crash.machine.boots });
    const result = await goOnOn(running, this.#subject, argv);
    if (result.exit !== (exit ?? 0)) {
      const detail = `\`${argv.join(" ")}\` ends with ${result.exit}\n${result.text}`;
      this.#check.violate("the next command fails", crash.trail, detail);
      return;
    }
    const isSame = next.index === crash.cut.recorded.index;
    const known = isSame ? crash.wantedOfPower : addOutcome(crash.wantedOfPower, next);
    // After recovery in a dead process's stead nobody can tell who wrote in between: a mirror may be brought in sync
    // once more, which makes a generation more. The disks have to be what they are without a crash.
    const observedEnd = await observeCopy(running, this.#subject);
    const isAlike =
      this.#guestsOf(observedEnd) === this.#guestsOf(next.after) && isHistoryAlike(observedEnd, next.after);
    const end = isAlike ? observedEnd : next.after;
    const during = new Map([...known, ["as the uninterrupted command", end]]);
    await this.#cutOff({
      recorded: next,
      durable: crash.machine.durable,
      log: running.log,
      boot: running.boot,
      from: crash.machine.log.length,
      to: running.log.length,
      during,
      // A command that was refused has promised nothing.
      atEnd: result.exit === 0 ? new Map([["after", end]]) : during,
      argv,
      trail: crash.trail,
      level: 2,
    });
  }

  /** What is on the disks, whatever the number of the generation. */
  #guestsOf(observed: string): string {
    return this.#subject.disksOf(observed).replace(/^generation .*$/m, "");
  }

  #cutRecoveryOff(crash: Crash, log: readonly Change[], observed: string): Promise<void> {
    const end: Wanted = new Map([["as the uninterrupted recovery", observed]]);
    // What a dead process had added to an open transaction is read from the page cache, and recovery
    // leaves it there. What is committed is durable after it.
    const sameDisks = [...crash.wantedOfPower].filter(
      ([, outcome]) => this.#subject.disksOf(outcome) === this.#subject.disksOf(observed),
    );
    return this.#cutOff({
      recorded: crash.cut.recorded,
      durable: crash.machine.durable,
      log,
      boot: crash.machine.boot,
      from: crash.machine.log.length,
      to: log.length,
      // All of the disk was durable after a power loss, so what recovery once decided is decided. A dead
      // process may have left a commit mark in the page cache only: either outcome is still possible.
      during: crash.kind === "power" ? end : crash.wantedOfPower,
      atEnd: crash.kind === "power" ? end : new Map([...end, ...sameDisks]),
      argv: this.#subject.recover,
      trail: crash.trail,
      level: crash.cut.level + 1,
    });
  }
}

/** What a dead process leaves after a flush it left before that as well: a power cut alone would tell, and comes on its own. */
function isAfterFlush({ log, from, to }: Cut, point: number, points: ReadonlySet<number>): boolean {
  return point > from && point < to && log[point - 1]?.kind === "flush" && points.has(point - 1);
}

/** Of a recording that lacks no flush the first call. A recovery that is cut off lacks flushes of its own, from any call on. */
function firstMuted({ log, mutedPurposes }: Recording): number {
  const isMuted = (change: Change): boolean => change.kind === "flush" && mutedPurposes.has(change.purpose);
  return Math.max(0, log.findIndex(isMuted));
}

/** What a crash of the next command may lead to: all that one before it could, and its own effect. */
function addOutcome(earlier: Wanted, next: RecordedStep): Wanted {
  const named = [...earlier].map(([name, outcome]) => [`before it: ${name}`, outcome] as const);
  return new Map([
    ...named,
    ...next.others.map(({ name, observed }) => [name, observed] as const),
    ["after", next.after],
  ]);
}

/** Once "after" was seen, only "after" is wanted, where it can be told from the others. */
function narrowed(wanted: Wanted, observed: string | undefined): Wanted {
  const after = wanted.get("after");
  const alike = [...wanted.values()].filter((outcome) => outcome === after);
  return observed !== undefined && observed === after && alike.length === 1
    ? new Map([["after", after]])
    : wanted;
}

function sample(key: string): number {
  let sum = 0;
  for (let index = 0; index < key.length; index += 1) sum = (sum * 31 + key.charCodeAt(index)) >>> 0;
  return sum;
}

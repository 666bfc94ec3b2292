// A guest is started between a crash and its recovery, as a host starts its guests when it comes up: it opens what the
// view leads to, writes, and flushes. And the fingerprint may lie: after the write all times are put back.
//
// What is asked of recovery then
// - Each device reads with what its guest has written, and is else what it is without a guest; or
// - the move waits, and says so: for which device, for what image, and with which command it ends. Then all devices
//   are wholly before or wholly after, and the command leads there, with the image that the guest wrote to untouched.
//   Never where the device goes over to its mirror: what was written is brought along.
// - The scenario goes on as from where recovery leads without a guest, with the same write there. So a mirror is not
//   taken for in sync, and a later move leaves nothing behind.

import { type CrashLimits, type CrashState, crashStates } from "../simulated/crash-states.ts";
import type { Tree } from "../simulated/disk-tree.ts";
import { isAlikeButForMirror } from "./generations.ts";
import { findWritten, guestLine, isDoubtSaid, withoutMirrorsInSync, withoutWritten } from "./guest-writes.ts";
import { LATER, type Recovered, RecoveryCheck } from "./recovery-check.ts";
import { describePoint, type RecordedStep, type Recording } from "../simulated/recording.ts";
import { differences, emptyReport, type Report } from "../report.ts";
import { afterProcessDeath, SimulatedMachine } from "../simulated/simulated-disk.ts";
import { startProcess } from "../simulated/simulated-process.ts";
import {
  type GuestPlace,
  type GuestWrite,
  observeCopy,
  runOn,
  type RunResult,
  type Subject,
} from "../subject.ts";
import { findWaitProblems, findWayOutProblem } from "./waits.ts";

export interface GuestOptions extends CrashLimits {
  /** Of the ways to write (which guest, where, with a lie or not), how many are tried at each crash, in turn. */
  readonly ways: number;
  /** At how many of its calls the recovery after a guest's write is cut off in turn. */
  readonly cutsOfRecovery: number;
  readonly deadline: number;
  readonly maxViolations: number;
}

export const GUESTS_ALL: GuestOptions = {
  limits: { exhaustiveItems: 4, randomSubsets: 8, most: 32 },
  points: Number.POSITIVE_INFINITY,
  ways: Number.POSITIVE_INFINITY,
  cutsOfRecovery: Number.POSITIVE_INFINITY,
  seed: 1,
  deadline: Number.POSITIVE_INFINITY,
  maxViolations: 10,
};

interface Way {
  readonly name: string;
  readonly place: GuestPlace;
  readonly lies: boolean;
}

/** Where the rest of a scenario leads without a guest, and with its write on top of that. */
interface Ends {
  readonly unnoticed: string | undefined;
  readonly without: string | undefined;
}

const NO_ENDS: Ends = { unnoticed: undefined, without: undefined };

interface Met {
  readonly recorded: RecordedStep;
  readonly plain: Recovered & { readonly observed: string };
  readonly way: Way;
  readonly write: GuestWrite;
  /** As recovery finds it. */
  readonly machine: SimulatedMachine;
  readonly trail: readonly string[];
}

export async function meetGuests(
  recording: Recording,
  subject: Subject,
  options: GuestOptions,
): Promise<Report> {
  const report = emptyReport();
  const rig = new GuestRig(recording, subject, options, report);
  for (const recorded of recording.steps) {
    if (!recorded.studied) continue;
    for (const crash of crashStates(recording, recorded, options)) {
      if (rig.isOver()) break;
      await rig.meet(recorded, crash);
    }
  }
  report.cutShort = Date.now() > options.deadline;
  return report;
}

class GuestRig {
  readonly #subject: Subject;
  readonly #options: GuestOptions;
  readonly #report: Report;
  readonly #check: RecoveryCheck;
  /** Where the scenario leads with a write that comes after recovery; undefined where no guest starts then. */
  readonly #ends = new Map<string, string | undefined>();
  #turn = 0;

  constructor(recording: Recording, subject: Subject, options: GuestOptions, report: Report) {
    this.#subject = subject;
    this.#options = options;
    this.#report = report;
    this.#check = new RecoveryCheck(recording, subject, report);
  }

  isOver(): boolean {
    const { maxViolations, deadline } = this.#options;
    return this.#report.violations.length >= maxViolations || Date.now() > deadline;
  }

  async meet(recorded: RecordedStep, crash: CrashState): Promise<void> {
    const plain = await this.#check.recover(crash.machine(), crash.key, crash.trail);
    const { observed } = plain;
    if (observed === undefined) return;
    if (plain.isNew) this.#report.figures.states += 1;
    for (const way of this.#chooseWays(recorded)) {
      const machine = crash.machine();
      const write = await this.#start(machine, way);
      this.#report.figures[write ? "guests" : "keptOut"] += 1;
      if (!write) continue;
      const trail = [...crash.trail, write.text, ...(way.lies ? ["all its times are put back"] : [])];
      const found = way.lies ? await putTimesBack(machine, crash, write) : afterDeath(machine);
      // Wherever its disk may end by then.
      const same = { ...way, place: write.offset };
      await this.#judge({ recorded, plain: { ...plain, observed }, way: same, write, machine: found, trail });
    }
  }

  #chooseWays({ before, after }: RecordedStep): Way[] {
    const names = this.#subject.devicesOf?.(`${before}\n${after}`) ?? [];
    const all = [...new Set(names)].flatMap((name) =>
      (["data", "hole", "end"] as const).flatMap((place) =>
        [false, true].map((lies): Way => ({ name, place, lies })),
      ),
    );
    const count = Math.min(this.#options.ways, all.length);
    // A number that has no divisor in common with theirs: in the end each has its turn.
    return Array.from({ length: count }, () => all[(this.#turn += 7) % all.length]).filter(
      (way) => way !== undefined,
    );
  }

  #start(machine: SimulatedMachine, { name, place }: Way): Promise<GuestWrite | undefined> {
    return this.#subject.startGuest?.(machine, name, place) ?? Promise.resolve(undefined);
  }

  async #judge(met: Met): Promise<void> {
    const { machine, trail, write } = met;
    try {
      const from = machine.log.length;
      const result = await runOn(machine, this.#subject, this.#subject.recover);
      const observed = await observeCopy(machine, this.#subject);
      await this.#cutOff(met, from, { observed, exit: result.exit });
      if (result.exit !== 0) return await this.#judgeWaiting(met, observed, result);
      const isKnown = this.#subject.devicesOf?.(observed).includes(write.device) === true;
      const line = await this.#lineOfWrite(met, observed);
      if (!isKnown || line !== undefined) {
        await this.#judgeFinished(
          { ...met, write: { ...write, line: line ?? write.line } },
          observed,
          result,
        );
      } else if (!met.way.lies || !isDoubtSaid(result.text, write)) {
        const without = new Map([["without a guest", met.plain.observed]]);
        const detail = `${result.text}\n${write.line}\n${differences(observed, without)}`;
        this.#check.violate("a guest's write is lost (rule 10)", trail, detail);
      }
    } catch (error) {
      this.#check.violate("after a guest's write no correct disk (rule 10)", trail, String(error));
    }
  }

  /** What the device reads as, where the write is there: as it was left, or on what the step makes of the disk. */
  async #lineOfWrite({ plain, way, write }: Met, observed: string): Promise<string | undefined> {
    const found = observed.split("\n");
    if (found.includes(write.line) || !plain.tree) return found.find((line) => line === write.line);
    const machine = new SimulatedMachine({ durable: plain.tree, boots: LATER - 1 });
    const onNew = (await this.#start(machine, way))?.line;
    return found.find((line) => line === onNew);
  }

  /** Wherever recovery dies, the next one ends as it would have: it waits, or finishes with the write where it belongs. */
  async #cutOff(
    { machine, trail }: Met,
    from: number,
    wanted: { readonly observed: string; readonly exit: number },
  ): Promise<void> {
    const count = Math.min(this.#options.cutsOfRecovery, machine.log.length - from);
    const stride = (machine.log.length - from) / count;
    for (let cut = 0; cut < count && !this.isOver(); cut += 1) {
      const point = machine.log.length - Math.floor(cut * stride);
      const dead = new SimulatedMachine({
        durable: machine.durable,
        log: machine.log.slice(0, point),
        boots: machine.boots + 1,
        boot: machine.boot,
        mutedPurposes: machine.mutedPurposes,
      });
      const { exit, text } = await runOn(dead, this.#subject, this.#subject.recover);
      const observed = await observeCopy(dead, this.#subject);
      if (exit === wanted.exit && observed === wanted.observed) continue;
      const where = describePoint(this.#subject.recover, machine.log, from, point);
      const detail = `exit ${exit}\n${text}\n${differences(observed, new Map([["uninterrupted", wanted.observed]]))}`;
      this.#check.violate("a recovery after a guest's write, cut off (rule 10)", [...trail, where], detail);
    }
  }

  async #judgeFinished(met: Met, observed: string, { text }: RunResult): Promise<void> {
    const { machine, trail, write, plain } = met;
    const expected = plain.observed.replace(guestLine(write), write.line);
    const written = findWritten([expected, observed], write, text);
    const wanted = withoutWritten(expected, written, write);
    const found = withoutWritten(observed, written, write);
    if (found !== wanted) {
      const detail = `${text}\n${differences(found, new Map([["without a guest, but for its write", wanted]]))}`;
      this.#check.violate("a guest's write leads elsewhere (rule 10)", trail, detail);
      return;
    }
    const again = afterDeath(machine);
    await runOn(again, this.#subject, this.#subject.recover);
    const changes = again.log.slice(machine.log.length).filter(({ kind }) => kind !== "flush");
    if (changes.length > 0) {
      this.#check.violate("a second recovery changes something (rule 5)", trail, text);
      return;
    }
    await this.#goOn(met);
  }

  async #judgeWaiting(met: Met, observed: string, result: RunResult): Promise<void> {
    const { machine, trail, write, recorded } = met;
    this.#report.figures.waits += 1;
    if (goesToMirror(recorded, write.device)) {
      this.#check.violate(
        "a move to a mirror waits, which could be synced anew (rule 10)",
        trail,
        result.text,
      );
      return;
    }
    const waiting = { recorded, observed, result, device: write.device, image: write.image };
    const problems = findWaitProblems(this.#subject, waiting);
    if (problems.length > 0) {
      this.#check.violate("what waits is no state of the transaction (rule 10)", trail, problems.join("\n"));
      return;
    }
    const problem = await findWayOutProblem(afterDeath(machine), this.#subject, waiting, this.#turn);
    if (problem !== undefined) this.#check.violate("a way out leads nowhere (rule 10)", trail, problem);
  }

  /**
   * As from where recovery leads without a guest, and the same write there. Where times lie nobody may notice the write:
   * then the scenario may go on as without it, if the device has it all the same, or somebody said what was left behind.
   */
  async #goOn(met: Met): Promise<void> {
    const { plain, recorded, machine, trail, write, way } = met;
    const next = this.#check.nextStep(recorded, plain.observed);
    const written = await this.#endWritten(met, next);
    const later = new SimulatedMachine({ durable: machine.tree, boots: LATER });
    const { end, said } = await this.#check.runRest(later, next);
    const found = this.#guestsIn(end);
    const isEnd = (one: string | undefined) =>
      one !== undefined && isAlikeButForMirror(...withoutMirrorsInSync(found, one));
    if (written === undefined || isEnd(written)) return;
    const { without, unnoticed } = way.lies ? await this.#endWithout(met, next) : NO_ENDS;
    if (isEnd(unnoticed) || (isEnd(without) && isDoubtSaid(said, write))) return;
    const ends = new Map([["the write after recovery", written]]);
    if (unnoticed !== undefined) ends.set("the write unnoticed", unnoticed);
    const detail = `${said}\n${differences(found, ends)}`;
    this.#check.violate("the scenario ends differently after a guest's write (rule 10)", trail, detail);
  }

  async #endWritten({ plain, way }: Met, next: number): Promise<string | undefined> {
    if (!plain.tree) return undefined;
    const key = `${next} ${way.name} ${way.place} ${plain.tree.key(false)}`;
    if (this.#ends.has(key)) return this.#ends.get(key);
    const written = new SimulatedMachine({ durable: plain.tree, boots: LATER - 1 });
    const isWritten = (await this.#start(written, way)) !== undefined;
    const end = isWritten ? await this.#endOf(written.tree, next) : undefined;
    this.#ends.set(key, end);
    return end;
  }

  async #endOf(tree: Tree, next: number): Promise<string> {
    const machine = new SimulatedMachine({ durable: tree, boots: LATER });
    return this.#guestsIn((await this.#check.runRest(machine, next)).end);
  }

  /** The end without a guest, and the same with its write on top of it. */
  async #endWithout({ plain, way }: Met, next: number): Promise<Ends> {
    if (!plain.tree) return NO_ENDS;
    const machine = new SimulatedMachine({ durable: plain.tree, boots: LATER });
    const without = this.#guestsIn((await this.#check.runRest(machine, next)).end);
    const digest = new RegExp(`^guest of ${way.name}: .* (\\S+)$`, "m").exec(without)?.[1];
    const line = (await this.#start(afterDeath(machine), way))?.line;
    const now = line === undefined ? undefined : /\S+$/.exec(line)?.[0];
    const isTold = digest !== undefined && now !== undefined;
    return { without, unnoticed: isTold ? without.replaceAll(digest, now) : undefined };
  }

  /** How the steps end, and what devices and mirrors hold, wherever in their files that is. */
  #guestsIn(end: string): string {
    const disks = new Set(this.#subject.disksOf(end).split("\n"));
    return (
      end
        .split("\n")
        .filter((line) => /^`|^guest of the mirror |^history /.test(line) || disks.has(line))
        // Whether it was written before the move or after it.
        .map((line) => line.replace(" (and what was written until then)", ""))
        .join("\n")
    );
  }
}

/** Whether the step has the device stand on what was its mirror. */
function goesToMirror({ before, after }: RecordedStep, name: string): boolean {
  const mirror = new RegExp(`^mirror of ${name}: (\\S+) `, "m").exec(before)?.[1];
  const images = new RegExp(`^device ${name}: .*$`, "m").exec(after)?.[0] ?? "";
  return mirror !== undefined && images.includes(`${mirror} (`);
}

function afterDeath(machine: SimulatedMachine): SimulatedMachine {
  return afterProcessDeath(machine, { boots: machine.boots });
}

/**
 * As far as a lie can go: within a boot somebody sets the time of modification, as `touch -r` does, and the change time
 * tells of it. By another power cut, after which what was flushed is there and its times are not, both are as before.
 */
async function putTimesBack(
  machine: SimulatedMachine,
  crash: CrashState,
  { files }: GuestWrite,
): Promise<SimulatedMachine> {
  const befores = files.map((path) => {
    const { inode } = crash.machine().tree.lookUp(path, true);
    if (!inode) throw new Error(`${path} was there`);
    return { path, inode };
  });
  if (crash.kind === "process") {
    const process = startProcess(machine);
    for (const { path, inode } of befores) {
      const file = await process.openFile(path, "write", { mayBeDevice: true });
      await file.setModified(String(inode.modifiedNs));
      await file.close();
    }
    return afterDeath(machine);
  }
  const tree = machine.tree.fork();
  for (const { inode } of befores) {
    const { number, modifiedNs, changedNs } = inode;
    tree.share({ ...tree.get(number), modifiedNs, changedNs });
  }
  return new SimulatedMachine({
    durable: tree,
    boots: machine.boots + 1,
    mutedPurposes: machine.mutedPurposes,
  });
}

// A disk that is away when recovery runs, and comes back: a power cut, and the backup disk is not mounted yet; or a process
// dies, and somebody takes the disk away. The workspace lies on a third disk, which stays. What a missing mount shows is an
// empty folder of another file system.
//
// What is asked of recovery while a disk is away
// - Nothing is made in the empty mount point, and nothing fails that only reads.
// - All devices are wholly before or wholly after, as far as the table goes.
// - What can't be ended waits, and says so: for which device, for what image, and that its disk has to be mounted. Held
//   are devices of that transaction, and no others.
// - A second recovery changes nothing.
// And when the disk is back, the next command leads to where recovery leads without all that.

import { type CrashLimits, type CrashState, crashStates } from "../simulated/crash-states.ts";
import { describeChange } from "../simulated/disk-log.ts";
import { makeInode } from "../simulated/disk-tree.ts";
import { RecoveryCheck } from "./recovery-check.ts";
import type { RecordedStep, Recording } from "../simulated/recording.ts";
import { differences, emptyReport, type Report } from "../report.ts";
import { afterProcessDeath, SimulatedMachine } from "../simulated/simulated-disk.ts";
import { observeCopy, runOn, type RunResult, type Subject } from "../subject.ts";

export interface AwayOptions extends CrashLimits {
  readonly deadline: number;
  readonly maxViolations: number;
}

export const AWAY_ALL: AwayOptions = {
  limits: { exhaustiveItems: 4, randomSubsets: 8, most: 32 },
  points: Number.POSITIVE_INFINITY,
  seed: 1,
  deadline: Number.POSITIVE_INFINITY,
  maxViolations: 10,
};

/** What the rig needs to know besides a subject. */
export interface AwaySubject extends Subject {
  /** Mount points of the disks that may be away. */
  readonly disks: readonly string[];
  /** Commands that come when the disk is back, where `RETURNS` have nothing to recover. */
  readonly returns?: readonly (readonly string[])[];
  /** Each device's active layer and state, as the program says it. Throws where a command that reads fails. */
  lookAtDevices(machine: SimulatedMachine): Promise<readonly SeenDevice[]>;
}

export interface SeenDevice {
  readonly name: string;
  readonly image: string;
  readonly state: string;
}

/** Commands that come when the disk is back, in turn: each recovers before its own work. */
const RETURNS: readonly (readonly string[])[] = [["recover"], ["device", "list"], ["txn", "status"]];

export async function takeDisksAway(
  recording: Recording,
  subject: AwaySubject,
  options: AwayOptions,
): Promise<Report> {
  const report = emptyReport();
  const rig = new AwayRig(recording, subject, report);
  const isOver = () => report.violations.length >= options.maxViolations || Date.now() > options.deadline;
  for (const recorded of recording.steps) {
    if (!recorded.studied) continue;
    for (const crash of crashStates(recording, recorded, options)) {
      if (isOver()) break;
      await rig.meet(recorded, crash);
    }
  }
  report.cutShort = Date.now() > options.deadline;
  return report;
}

class AwayRig {
  readonly #subject: AwaySubject;
  readonly #report: Report;
  readonly #recording: Recording;
  readonly #check: RecoveryCheck;
  #turn = 0;

  constructor(recording: Recording, subject: AwaySubject, report: Report) {
    this.#subject = subject;
    this.#report = report;
    this.#recording = recording;
    this.#check = new RecoveryCheck(recording, subject, report);
  }

  async meet(recorded: RecordedStep, crash: CrashState): Promise<void> {
    const { observed, isNew } = await this.#check.recover(crash.machine(), crash.key, crash.trail);
    if (observed === undefined) return;
    if (isNew) this.#report.figures.states += 1;
    this.#turn += 1;
    const { disks } = this.#subject;
    // Each alone, and all of them.
    const which = this.#turn % (disks.length + 1);
    const gone = which < disks.length ? disks.slice(which, which + 1) : disks;
    const trail = [...crash.trail, `away: ${gone.join(", ")}`];
    const machine = crash.machine();
    const away = takeAway(machine, gone);
    try {
      const result = await runOn(away, this.#subject, this.#subject.recover);
      await this.#judgeAway({ recorded, gone, trail, result }, away);
      await this.#judgeReturn(putBack(machine, away, gone), observed, { trail, said: result.text });
    } catch (error) {
      this.#check.violate("with a disk away no correct disk (rule 11)", trail, String(error));
    }
  }

  async #judgeAway({ recorded, gone, trail, result }: Away, away: SimulatedMachine): Promise<void> {
    this.#report.figures.away += 1;
    const problems: string[] = [];
    for (const folder of gone) {
      const made = [...(away.tree.lookUp(folder, true).inode?.names.keys() ?? [])];
      if (made.length > 0) problems.push(`in the empty ${folder} there is ${made.join(", ")}`);
    }
    const again = afterProcessDeath(away, { boots: away.boots });
    await runOn(again, this.#subject, this.#subject.recover);
    const devices = await this.#subject.lookAtDevices(again);
    const changes = again.log.slice(away.log.length).filter(({ kind }) => kind !== "flush");
    if (changes.length > 0)
      problems.push("what comes after recovery changes something", ...changes.map(describeChange));
    if (![recorded.before, recorded.after].some((side) => isOn(side, devices)))
      problems.push(`the devices are neither before nor after: ${JSON.stringify(devices)}`);
    const concerned = concernedBy(recorded, this.#scriptOf(recorded));
    const waiting = devices.filter(({ state }) => state === "waiting");
    for (const { name } of waiting) {
      if (!concerned.has(name)) problems.push(`'${name}' is held, and has nothing to do with it`);
      if (!result.text.includes(`'${name}'`))
        problems.push(`'${name}' is held, and recovery does not say so`);
    }
    if (waiting.length > 0) {
      this.#report.figures.waits += 1;
      if (!gone.some((folder) => result.text.includes(`${folder}/`)))
        problems.push("it names no image there");
      if (!/mount/.test(result.text)) problems.push("it does not say that a disk is to be mounted");
    }
    if (problems.length === 0) return;
    this.#check.violate("with a disk away (rule 11)", trail, `${problems.join("\n")}\n${result.text}`);
  }

  /** What a batch says. */
  #scriptOf({ step }: RecordedStep): string {
    const [folder = ""] = this.#subject.disks;
    const { names } = this.#recording.start.lookUp(folder, true).inode ?? {};
    return step.argv
      .flatMap((word) => names?.get(word) ?? [])
      .map((number) => {
        const { content } = this.#recording.start.get(number);
        return Buffer.from(content.slice(0, content.sizeBytes)).toString();
      })
      .join("\n");
  }

  async #judgeReturn(
    back: SimulatedMachine,
    wanted: string,
    { trail, said }: { readonly trail: readonly string[]; readonly said: string },
  ): Promise<void> {
    const { returns = RETURNS } = this.#subject;
    const command = returns[this.#turn % returns.length] ?? [];
    const { exit, text } = await runOn(back, this.#subject, command);
    const told = `\`${command.join(" ")}\` ends with ${exit}\n${text}`;
    if (exit !== 0)
      return this.#check.violate("the disk is back, and it goes on waiting (rule 11)", trail, told);
    const observed = withoutLeft(await observeCopy(back, this.#subject), said);
    if (observed !== wanted) {
      const detail = `${told}\n${differences(observed, new Map([["with no disk away", wanted]]))}`;
      this.#check.violate("a disk that was away leads elsewhere (rule 11)", trail, detail);
      return;
    }
    const again = afterProcessDeath(back, { boots: back.boots });
    await runOn(again, this.#subject, this.#subject.recover);
    const changes = again.log.slice(back.log.length).filter(({ kind }) => kind !== "flush");
    if (changes.length > 0) this.#check.violate("a second recovery changes something (rule 5)", trail, told);
  }
}

interface Away {
  readonly recorded: RecordedStep;
  readonly gone: readonly string[];
  readonly trail: readonly string[];
  /** What recovery ended with. */
  readonly result: RunResult;
}

/** Unmounted in order: what was written is on the disks, and empty mount points are left. */
function takeAway(machine: SimulatedMachine, folders: readonly string[]): SimulatedMachine {
  const tree = machine.tree.fork();
  for (const path of folders) {
    const { folder, name } = tree.lookUp(path, false);
    const inode = tree.freeNumber();
    tree.share(makeInode(inode, "folder", 0o755, machine.clockNs));
    tree.assign({ folder, name, inode }, machine.clockNs);
  }
  return new SimulatedMachine({
    durable: tree,
    boots: machine.boots,
    boot: machine.boot,
    mutedPurposes: machine.mutedPurposes,
  });
}

/** The disks that were taken from the machine, mounted anew. */
function putBack(
  before: SimulatedMachine,
  away: SimulatedMachine,
  folders: readonly string[],
): SimulatedMachine {
  const tree = away.tree.fork();
  for (const path of folders) {
    const { folder, name, inode } = before.tree.lookUp(path, false);
    if (!inode) throw new Error(`${path} was there`);
    tree.assign({ folder, name, inode: inode.number }, away.clockNs);
  }
  return new SimulatedMachine({
    durable: tree,
    boots: away.boots + 1,
    boot: away.boot,
    mountings: away.mountings + 1,
    mutedPurposes: away.mutedPurposes,
  });
}

/** Without the overlays of which recovery has said that they stay where their disk is away, for somebody to remove. */
function withoutLeft(observed: string, said: string): string {
  const left = [...said.matchAll(/'(\/[^']*\/)\.imgtx-[^']*(-\d+)' stays, on a disk that is not there/g)];
  return observed
    .split("\n")
    .filter((line) => {
      const [, folder, end] = /^file (.*\/)\.imgtx-ID\S*(-\d+) /.exec(line) ?? [];
      return folder === undefined || !left.some(([, inFolder, at]) => inFolder === folder && at === end);
    })
    .join("\n");
}

function isOn(observed: string, devices: readonly SeenDevice[]): boolean {
  const told = [...observed.matchAll(/^device (\S+): (\S+) /gm)].map(([, name, image]) => `${name} ${image}`);
  return (
    told.sort().join() ===
    devices
      .map(({ name, image }) => `${name} ${image}`)
      .sort()
      .join()
  );
}

/** Devices of which anything differs between before and after, or that a transaction holds. */
function concernedBy({ before, after, step }: RecordedStep, script: string): ReadonlySet<string> {
  const [one, other] = [new Set(before.split("\n")), new Set(after.split("\n"))];
  const differing = [...one, ...other].filter((line) => !one.has(line) || !other.has(line));
  const names = [...`${before}\n${after}`.matchAll(/^device (\S+): /gm)].map(([, name]) => name ?? "");
  const words = `${step.argv.join(" ")}\n${script}`;
  const held = [...`${before}\n${after}`.matchAll(/^transaction .*?, devices (.*?), actions/gm)].flatMap(
    ([, list]) => (list ?? "").split(" "),
  );
  return new Set([
    ...held,
    ...names.filter(
      (name) =>
        new RegExp(`\\b${name}\\b`).test(words) ||
        differing.some((line) =>
          new RegExp(
            `^(device|guest of|mirror of|guest of the mirror of) ${name}:|^snapshot .* ${name} `,
          ).test(line),
        ),
    ),
  ]);
}

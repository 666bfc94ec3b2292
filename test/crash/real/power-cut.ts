// A real power cut: a file system on a loop device that is shut down, without writing its log, while the
// command works. What had not been flushed is gone, as the real ext4 or XFS loses it. Needs root.

import { spawnSync } from "node:child_process";
import { closeSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import koffi from "koffi";
import { findingLoop } from "../../helpers/finding-loop.ts";
import { seededRandom, type Random } from "../../helpers/random.ts";
import { CopyJudge } from "../judges/copy-judge.ts";
import { type CopyScenario, MARK_ALWAYS } from "../scenarios/copy-scenarios.ts";
import { RealBench } from "./real-bench.ts";
import { differences, type Violation } from "../report.ts";
import type { Scenario } from "../scenarios/sample-devices.ts";
import { runPlain, type ProcessResult, type TracedCall } from "./strace.ts";
import { BadState, type Step } from "../subject.ts";

export interface PowerOptions {
  readonly program: string;
  readonly fileSystem: "ext4" | "xfs";
  /** Of all steps together. */
  readonly rounds: number;
  readonly seed: number;
  readonly deadline: number;
}

export interface PowerReport {
  /** Power cuts, and how many of them came while the command was at work, and after its commit. */
  readonly cuts: number;
  readonly during: number;
  readonly committed: number;
  /** How often an unfinished copy was seen to be kept. */
  readonly kept: number;
  readonly violations: readonly Violation[];
}

const DISK_BYTES = 320 * 1024 * 1024;
/** FS_IOC_SHUTDOWN, which XFS calls XFS_IOC_GOINGDOWN; 2: drop the log, as a power cut does. */
const SHUTDOWN = 0x8004587d;
const WITHOUT_LOG = 2;

/** A step under trial, on a bench that was saved before it. */
interface Target {
  readonly bench: RealBench;
  readonly step: Step;
  /** Whether it is committed. */
  readonly judge: (result: ProcessResult, trail: readonly string[]) => Promise<boolean>;
}

/** Cuts the power under each step of a scenario that is studied, with the steps before it as preparation. */
export async function cutPower(scenario: Scenario, options: PowerOptions): Promise<PowerReport> {
  const { steps, studied = steps.map((_, each) => each) } = scenario;
  return await onDisk(options, async (disk, cutter) => {
    for (const [index, each] of studied.entries()) {
      await disk.withBench(scenario, options, {}, async (bench) => {
        for (const step of [...scenario.prepare, ...steps.slice(0, each)]) await bench.do(step);
        const step = steps[each];
        if (!step) throw new Error(`${scenario.name} has no step ${each}`);
        const before = await bench.observe();
        bench.save();
        await bench.do(step);
        const outcomes = { before, after: await bench.observe() };
        const judge: Target["judge"] = async (result, trail) =>
          (await recoverAndObserve(bench, result, outcomes, trail)) === outcomes.after;
        await cutter.cut({ bench, step, judge }, shareOf(options, index, studied.length));
      });
    }
    return 0;
  });
}

/** Cuts the power under a copy that keeps marks. */
export async function cutCopy(scenario: CopyScenario, options: PowerOptions): Promise<PowerReport> {
  const [step] = scenario.steps;
  return await onDisk(options, async (disk, cutter) => {
    let kept = 0;
    await disk.withBench(scenario, options, MARK_ALWAYS, async (bench) => {
      const copies = await CopyJudge.make(bench, scenario);
      const judge: Target["judge"] = async ({ exit }, trail) =>
        (await copies.judge(exit === 0 ? ["after"] : ["before", "kept", "after"], trail)) === "after";
      await cutter.cut({ bench, step, judge }, options);
      kept = copies.kept;
    });
    return kept;
  });
}

/** Rounds and time for one of several steps. */
function shareOf(
  { rounds, deadline }: PowerOptions,
  index: number,
  count: number,
): Pick<PowerOptions, "rounds" | "deadline"> {
  return {
    rounds: Math.ceil(rounds / count),
    deadline: Date.now() + (deadline - Date.now()) / (count - index),
  };
}

async function onDisk(
  options: PowerOptions,
  cutAll: (disk: LoopDisk, cutter: Cutter) => Promise<number>,
): Promise<PowerReport> {
  const disk = LoopDisk.make(options.fileSystem);
  try {
    const cutter = new Cutter(disk, seededRandom(options.seed));
    const kept = await cutAll(disk, cutter);
    return { ...cutter.counts, kept, violations: disk.violations };
  } finally {
    disk.remove();
  }
}

class Cutter {
  readonly counts = { cuts: 0, during: 0, committed: 0 };
  readonly #disk: LoopDisk;
  readonly #random: Random;

  constructor(disk: LoopDisk, random: Random) {
    this.#disk = disk;
    this.#random = random;
  }

  /** In turn at a moment of the step, with all that is under way then, and after one of its calls. */
  async cut(target: Target, { rounds, deadline }: Pick<PowerOptions, "rounds" | "deadline">): Promise<void> {
    const { bench, step } = target;
    await bench.restore();
    const calls = shuffle(bench.trace(step.argv).calls, this.#random);
    // What has nothing to do, since a mirror is in sync, can't be cut off.
    if (calls.length === 0) return;
    await bench.restore();
    const started = Date.now();
    await runPlain(bench.launch, step.argv);
    const longestMs = Date.now() - started;
    for (let round = 0; round < rounds && Date.now() < deadline; round += 1) {
      await bench.restore();
      spawnSync("sync", ["-f", this.#disk.mountPoint]);
      const { result, when } =
        round % 2 === 0
          ? await this.#cutAtMoment(target, longestMs)
          : await this.#cutAtCall(target, calls[((round - 1) / 2) % calls.length]);
      this.#disk.remount();
      this.counts.cuts += 1;
      if (result.exit !== 0) this.counts.during += 1;
      const trail = [
        `\`${step.argv.join(" ")}\`, round ${round}: the power is cut ${when}, exit status ${result.exit}`,
      ];
      if (await target.judge(result, trail)) this.counts.committed += 1;
    }
  }

  async #cutAtMoment(
    { bench, step }: Target,
    longestMs: number,
  ): Promise<{ result: ProcessResult; when: string }> {
    const waitMs = this.#random.below(longestMs);
    const running = runPlain(bench.launch, step.argv);
    await new Promise((resolve) => setTimeout(resolve, waitMs));
    this.#disk.shutDown();
    return { result: await running, when: `${waitMs} ms after the start` };
  }

  async #cutAtCall(
    { bench, step }: Target,
    call: TracedCall | undefined,
  ): Promise<{ result: ProcessResult; when: string }> {
    if (!call) throw new Error(`${step.argv.join(" ")} makes no call`);
    const result = bench.trace(step.argv, { call, kind: "KILL" });
    this.#disk.shutDown();
    return { result, when: `at ${call.label}` };
  }
}

/** In an order of its own, so that each call has its turn before one has a second. */
function shuffle(calls: readonly TracedCall[], random: Random): TracedCall[] {
  const keyed = calls.map((call) => ({ call, key: random.below(2 ** 31) }));
  return keyed.sort((one, other) => one.key - other.key).map(({ call }) => call);
}

async function recoverAndObserve(
  bench: RealBench,
  result: ProcessResult,
  { before, after }: { before: string; after: string },
  trail: readonly string[],
): Promise<string | undefined> {
  try {
    const recovered = await bench.ask(["recover"]);
    if (recovered.exit !== 0) {
      bench.violate("recovery fails", trail, recovered.text);
      return undefined;
    }
    const observed = await bench.observe();
    const wanted = new Map([["after", after]]);
    // The shutdown fails every later call, so the command ends with an error, and 16 is a doubt too.
    if (result.exit !== 0) wanted.set("before", before);
    if (![...wanted.values()].includes(observed)) {
      const rule = `not wholly ${[...wanted.keys()].join(" or ")}`;
      bench.violate(rule, trail, `${result.text}\n${recovered.text}\n${differences(observed, wanted)}`);
    }
    return observed;
  } catch (error) {
    if (!(error instanceof BadState)) throw error;
    bench.violate("a disk that no disk may be (rule 3)", trail, error.message);
    return undefined;
  }
}

/** A file system in a file, mounted. */
class LoopDisk {
  readonly mountPoint: string;
  /** Of all benches. */
  readonly violations: Violation[] = [];
  readonly #folder: string;
  readonly #image: string;

  static make(fileSystem: "ext4" | "xfs"): LoopDisk {
    const folder = mkdtempSync(join(tmpdir(), "imgtx-power-"));
    const disk = new LoopDisk(folder);
    const descriptor = openSync(disk.#image, "wx");
    ftruncateSync(descriptor, DISK_BYTES);
    closeSync(descriptor);
    mkdirSync(disk.mountPoint);
    command(`mkfs.${fileSystem}`, fileSystem === "ext4" ? ["-q", disk.#image] : ["-q", "-f", disk.#image]);
    disk.#mount();
    return disk;
  }

  constructor(folder: string) {
    this.#folder = folder;
    this.#image = join(folder, "disk.img");
    this.mountPoint = join(folder, "mnt");
  }

  /** Lays a scenario out on it for as long as the work takes. */
  async withBench(
    scenario: Scenario,
    { program, fileSystem }: PowerOptions,
    env: Readonly<Record<string, string>>,
    work: (bench: RealBench) => Promise<void>,
  ): Promise<void> {
    const name = `${scenario.name} (${fileSystem}, power)`;
    const disks = { ...scenario, files: scenario.files() };
    const bench = new RealBench(name, disks, { program, asksQemu: true, folder: this.mountPoint, env });
    // Where it fails its folder goes with the disk, which may be one that is shut down: that would be told instead.
    await work(bench);
    this.violations.push(...bench.violations);
    bench.remove();
  }

  shutDown(): void {
    const ioctl = koffi.load("libc.so.6").func("int ioctl(int fd, unsigned long request, uint32_t *flags)");
    const descriptor = openSync(this.mountPoint, "r");
    try {
      if (ioctl(descriptor, SHUTDOWN, [WITHOUT_LOG]) !== 0) throw new Error("the shutdown ioctl failed");
    } finally {
      closeSync(descriptor);
    }
  }

  remount(): void {
    command("umount", [this.mountPoint]);
    this.#mount();
  }

  #mount(): void {
    const [program, ...words] = findingLoop("mount", "-o", "loop", this.#image, this.mountPoint);
    command(program, words);
  }

  remove(): void {
    command("umount", [this.mountPoint]);
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function command(program: string, args: readonly string[]): void {
  const { status, stderr } = spawnSync(program, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${program} ${args.join(" ")} ended with ${status}: ${stderr}`);
}

// A real power cut: a file system on a loop device that is shut down, without writing its log, while the
// command works. What had not been flushed is gone, as the real ext4 or XFS loses it. Needs root.

import { spawnSync } from "node:child_process";
import { closeSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import koffi from "koffi";
import { seededRandom, type Random } from "../helpers/random.ts";
import { RealBench } from "./real-bench.ts";
import { differences, type Violation } from "./report.ts";
import type { Scenario } from "./sample-devices.ts";
import { runPlain, type ProcessResult } from "./strace.ts";
import { BadState } from "./subject.ts";

export interface PowerOptions {
  readonly program: string;
  readonly fileSystem: "ext4" | "xfs";
  readonly rounds: number;
  readonly seed: number;
  readonly deadline: number;
}

export interface PowerReport {
  /** Power cuts, and how many of them came while the command was at work, and behind its commit. */
  readonly cuts: number;
  readonly during: number;
  readonly committed: number;
  readonly violations: readonly Violation[];
}

const DISK_BYTES = 320 * 1024 * 1024;
/** FS_IOC_SHUTDOWN, which XFS calls XFS_IOC_GOINGDOWN; 2: drop the log, as a power cut does. */
const SHUTDOWN = 0x8004587d;
const WITHOUT_LOG = 2;
/** A command takes about so long; the cut comes at a moment of it. */
const LONGEST_MS = 250;

export async function cutPower(scenario: Scenario, options: PowerOptions): Promise<PowerReport> {
  const disk = LoopDisk.make(options.fileSystem);
  const random = seededRandom(options.seed);
  const violations: Violation[] = [];
  const counts = { cuts: 0, during: 0, committed: 0 };
  try {
    for (; counts.cuts < options.rounds && Date.now() < options.deadline; counts.cuts += 1) {
      const round = await oneCut(scenario, options, disk, random, counts.cuts);
      violations.push(...round.violations);
      if (round.wasRunning) counts.during += 1;
      if (round.isAfter) counts.committed += 1;
    }
    return { ...counts, violations };
  } finally {
    disk.remove();
  }
}

async function oneCut(
  scenario: Scenario,
  options: PowerOptions,
  disk: LoopDisk,
  random: Random,
  round: number,
): Promise<{ violations: readonly Violation[]; wasRunning: boolean; isAfter: boolean }> {
  const name = `${scenario.name} (${options.fileSystem}, power)`;
  const bench = new RealBench(
    name,
    { ...scenario, files: scenario.files() },
    options.program,
    false,
    disk.mountPoint,
  );
  try {
    for (const step of scenario.prepare) await bench.do(step);
    const [step] = scenario.steps;
    if (!step) throw new Error(`${scenario.name} has no step`);
    const before = await bench.observe();
    bench.save();
    await bench.do(step);
    const after = await bench.observe();
    await bench.restore();
    spawnSync("sync", ["-f", disk.mountPoint]);
    const waitMs = random.below(LONGEST_MS);
    const running = runPlain(bench.launch, step.argv);
    await new Promise((resolve) => setTimeout(resolve, waitMs));
    disk.shutDown();
    const result = await running;
    disk.remount();
    const trail = [
      `round ${round}: the power is cut ${waitMs} ms after the start, exit status ${result.exit}`,
    ];
    const observed = await recoverAndObserve(bench, result, { before, after }, trail);
    return { violations: bench.violations, wasRunning: result.exit !== 0, isAfter: observed === after };
  } finally {
    bench.remove();
  }
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
    command("mount", ["-o", "loop", this.#image, this.mountPoint]);
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

// All of what the rigs on real disks have: every scenario killed and failed at every call, races of two
// processes, and power cuts.

import { spawnSync } from "node:child_process";
import { COPY_SCENARIOS, LONG_COPIES } from "../scenarios/copy-scenarios.ts";
import { cutCopy, cutPower, type PowerOptions, type PowerReport } from "./power-cut.ts";
import { tryCopy, tryProcess, type ProcessOptions, type ProcessReport } from "./real-process.ts";
import { raceProcesses } from "./real-races.ts";
import type { Violation } from "../report.ts";
import { IMAGE_SCENARIOS } from "../scenarios/image-scenarios.ts";
import { LAYOUT_SCENARIOS } from "../scenarios/layout-scenarios.ts";
import { findScenario, RACES, SCENARIOS } from "../scenarios/scenarios.ts";

export interface RealOptions {
  readonly program: string;
  readonly seed: number;
  readonly deadline: number;
  readonly say: (line: string) => void;
  readonly only: string;
}

export interface RealResult {
  readonly violations: readonly Violation[];
  readonly figures: readonly string[];
}

const RACE_ROUNDS = 20;
const CUTS = 100;
const FILE_SYSTEMS = ["ext4", "xfs"] as const;
/** Races on real processes get this share of the time that is left; the calls get the rest. */
const CALL_SHARE = 0.9;
const CUT_SCENARIOS = [
  "snapshot-group of 2",
  "snapshot-group of 5",
  "mirror two devices side by side",
  "mirror with a bitmap, and forget both",
  "bring a mirror in sync",
  "migrate, mirror and reopen",
  "migrate, mirror and reopen in a transaction",
  "migrate, mirror and reopen in a transaction, and abort",
  "go over to the twin of a migration after writes",
  "go over to a mirror that is out of line",
  "go over to a mirror that is out of line in a transaction",
  "resize 5 devices in a transaction",
  "bitmaps of 2 devices in a transaction",
  "amend 2 devices in a transaction",
  "repair 2 devices in a transaction",
  "merge in the middle of two chains",
  "merge three overlays and their bitmaps in a transaction",
  "pull down to a base, and rebase onto what was in between, in transactions",
];

export async function tortureProcess(options: RealOptions): Promise<RealResult> {
  requireTools("strace", "qemu-img");
  const violations: Violation[] = [];
  const total = { kills: 0, errors: 0, missed: 0, kept: 0 };
  const trials = processTrials().filter(({ name }) => name.includes(options.only));
  const end = Date.now() + (options.deadline - Date.now()) * CALL_SHARE;
  for (const [index, { name, run }] of trials.entries()) {
    const deadline = Date.now() + (end - Date.now()) / (trials.length - index);
    const { program } = options;
    const report = await run({ program, kinds: ["KILL", "EIO", "ENOSPC"], deadline, askQemu: true });
    const { kills, errors, missed, kept } = report.figures;
    total.kills += kills;
    total.errors += errors;
    total.missed += missed;
    total.kept += kept;
    violations.push(...report.violations);
    const cut = report.cutShort ? ", cut short" : "";
    for (const missed of report.missed) options.say(`process: missed: ${name}: ${missed}`);
    options.say(
      `process: ${name}: ${kills} kills, ${errors} errors, ${missed} missed${sayKept(kept)}; ${report.violations.length} violations${cut}`,
    );
  }
  let rounds = 0;
  let refused = 0;
  for (const entry of RACES.filter(({ name }) => name.includes(options.only))) {
    const { program, deadline } = options;
    const report = await raceProcesses(entry, { program, rounds: RACE_ROUNDS, deadline });
    rounds += report.rounds;
    refused += report.refused;
    violations.push(...report.violations);
    options.say(`process: ${entry.name}: ${report.rounds} races; ${report.violations.length} violations`);
  }
  return {
    violations,
    figures: [
      `  killed at ${total.kills} system calls, failed ${total.errors}, missed ${total.missed}${sayKept(total.kept)}`,
      `  races ${rounds}, in ${refused} of them one was refused`,
    ],
  };
}

export async function torturePower(options: RealOptions): Promise<RealResult> {
  if (process.getuid?.() !== 0) throw new Error("power cuts need root: they mount file systems");
  requireTools("mkfs.ext4", "mkfs.xfs", "strace", "qemu-img");
  const violations: Violation[] = [];
  const figures: string[] = [];
  const trials = powerTrials().filter(({ name }) => name.includes(options.only));
  const runs = trials.flatMap((trial) => FILE_SYSTEMS.map((fileSystem) => ({ ...trial, fileSystem })));
  for (const [index, { name, run, fileSystem }] of runs.entries()) {
    const report = await run({
      program: options.program,
      fileSystem,
      rounds: CUTS,
      seed: options.seed,
      deadline: Date.now() + (options.deadline - Date.now()) / (runs.length - index),
    });
    violations.push(...report.violations);
    const line = `${name} on ${fileSystem}: power cuts ${report.cuts}, while at work ${report.during}, committed by then ${report.committed}${sayKept(report.kept)}`;
    options.say(`power: ${line}; ${report.violations.length} violations`);
    figures.push(`  ${line}`);
  }
  return { violations, figures };
}

interface Trial<Options, Report> {
  readonly name: string;
  readonly run: (options: Options) => Promise<Report>;
}

type ProcessTrial = Trial<ProcessOptions, ProcessReport>;
type PowerTrial = Trial<PowerOptions, PowerReport>;

function processTrials(): ProcessTrial[] {
  return [
    ...[...SCENARIOS, ...LAYOUT_SCENARIOS, ...IMAGE_SCENARIOS].map(
      (one): ProcessTrial => ({ name: one.name, run: (options) => tryProcess(one, options) }),
    ),
    ...COPY_SCENARIOS.map(
      (one): ProcessTrial => ({ name: one.name, run: (options) => tryCopy(one, options) }),
    ),
  ];
}

function powerTrials(): PowerTrial[] {
  return [
    ...CUT_SCENARIOS.map(
      (name): PowerTrial => ({ name, run: (options) => cutPower(findScenario(name), options) }),
    ),
    ...[...COPY_SCENARIOS, ...LONG_COPIES].map(
      (one): PowerTrial => ({ name: one.name, run: (options) => cutCopy(one, options) }),
    ),
  ];
}

/** Of unfinished copies; nothing where there were none. */
function sayKept(count: number): string {
  return count === 0 ? "" : `, kept ${count}`;
}

function requireTools(...tools: string[]): void {
  const missing = tools.filter((tool) => spawnSync("which", [tool]).status !== 0);
  if (missing.length > 0) throw new Error(`this rig needs ${missing.join(" and ")}`);
}

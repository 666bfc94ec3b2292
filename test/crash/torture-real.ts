// All of what the rigs on real disks have: every scenario killed and failed at every call, races of two
// processes, and power cuts.

import { spawnSync } from "node:child_process";
import { cutPower } from "./power-cut.ts";
import { tryProcess } from "./real-process.ts";
import { raceProcesses } from "./real-races.ts";
import type { Violation } from "./report.ts";
import { findScenario, RACES, SCENARIOS } from "./scenarios.ts";

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
/** Races on real processes get this share of the time that is left; the calls get the rest. */
const CALL_SHARE = 0.9;
const CUT_SCENARIOS = [
  "snapshot-group of 2",
  "snapshot-group of 5",
  "mirror two devices side by side",
  "mirror with a bitmap, and forget both",
  "bring a mirror in line",
];

export async function tortureProcess(options: RealOptions): Promise<RealResult> {
  requireTools("strace", "qemu-img");
  const violations: Violation[] = [];
  const total = { kills: 0, errors: 0, missed: 0 };
  const scenarios = SCENARIOS.filter(({ name }) => name.includes(options.only));
  const end = Date.now() + (options.deadline - Date.now()) * CALL_SHARE;
  for (const [index, scenario] of scenarios.entries()) {
    const deadline = Date.now() + (end - Date.now()) / (scenarios.length - index);
    const report = await tryProcess(scenario, {
      program: options.program,
      kinds: ["KILL", "EIO", "ENOSPC"],
      deadline,
      askQemu: true,
    });
    const { kills, errors, missed } = report.figures;
    total.kills += kills;
    total.errors += errors;
    total.missed += missed;
    violations.push(...report.violations);
    const cut = report.cutShort ? ", cut short" : "";
    for (const missed of report.missed) options.say(`process: missed: ${scenario.name}: ${missed}`);
    options.say(
      `process: ${scenario.name}: ${kills} kills, ${errors} errors, ${missed} missed; ${report.violations.length} violations${cut}`,
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
      `  killed at ${total.kills} system calls, failed ${total.errors}, missed ${total.missed}`,
      `  races ${rounds}, in ${refused} of them one was refused`,
    ],
  };
}

export async function torturePower(options: RealOptions): Promise<RealResult> {
  if (process.getuid?.() !== 0) throw new Error("power cuts need root: they mount file systems");
  requireTools("mkfs.ext4", "mkfs.xfs");
  const violations: Violation[] = [];
  const figures: string[] = [];
  const runs = CUT_SCENARIOS.filter((name) => name.includes(options.only)).flatMap((name) => [
    { name, fileSystem: "ext4" as const },
    { name, fileSystem: "xfs" as const },
  ]);
  for (const [index, { name, fileSystem }] of runs.entries()) {
    const report = await cutPower(findScenario(name), {
      program: options.program,
      fileSystem,
      rounds: CUTS,
      seed: options.seed,
      deadline: Date.now() + (options.deadline - Date.now()) / (runs.length - index),
    });
    violations.push(...report.violations);
    const line = `${name} on ${fileSystem}: power cuts ${report.cuts}, while at work ${report.during}, committed by then ${report.committed}`;
    options.say(`power: ${line}; ${report.violations.length} violations`);
    figures.push(`  ${line}`);
  }
  return { violations, figures };
}

function requireTools(...tools: string[]): void {
  const missing = tools.filter((tool) => spawnSync("which", [tool]).status !== 0);
  if (missing.length > 0) throw new Error(`this rig needs ${missing.join(" and ")}`);
}

// Two real processes at the same time on the same folder. The outcome must be one that the two give one
// after the other, or that one gives alone while the other is refused; who is refused changes nothing. (Rule 8.)

import { RealBench } from "./real-bench.ts";
import { differences, type Violation } from "../report.ts";
import type { RaceEntry } from "../scenarios/scenarios.ts";
import { runPlain } from "./strace.ts";

export interface RealRaceOptions {
  readonly program: string;
  readonly rounds: number;
  readonly deadline: number;
}

export interface RealRaceReport {
  /** Rounds, and those in which both processes were at work and one was refused. */
  readonly rounds: number;
  readonly refused: number;
  readonly violations: readonly Violation[];
}

/** Milliseconds by which the second process is late, round by round: they meet at different places. */
const LATE_MS = [0, 5, 10, 20, 30];

export async function raceProcesses(entry: RaceEntry, options: RealRaceOptions): Promise<RealRaceReport> {
  const bench = new RealBench(
    `${entry.name} (processes)`,
    { files: entry.files() },
    { ...options, asksQemu: false },
  );
  let rounds = 0;
  let refused = 0;
  try {
    for (const step of entry.prepare) await bench.do(step);
    bench.save();
    const allowed = await serialOutcomes(bench, entry);
    for (; rounds < options.rounds && Date.now() < options.deadline; rounds += 1) {
      await bench.restore();
      const [one, other] = await Promise.all([
        runPlain(bench.launch, entry.one),
        later(LATE_MS[rounds % LATE_MS.length] ?? 0).then(() => runPlain(bench.launch, entry.other)),
      ]);
      const exits = [one.exit, other.exit];
      const text = `${one.text}\n${other.text}`;
      const trail = [`round ${rounds}: exit statuses ${exits.join(" and ")}`];
      if (exits.some((exit) => exit !== 0)) refused += 1;
      if (exits.some((exit) => exit !== 0 && !(entry.refusals ?? [10, 11]).includes(exit ?? -1))) {
        bench.violate("a race ends with a wrong exit status (rule 8)", trail, text);
        continue;
      }
      const wanted = allowed.get(winners(exits));
      if (!wanted) {
        bench.violate("no order of the two commands gives these exit statuses (rule 8)", trail, text);
        continue;
      }
      const observed = await bench.observe();
      if (wanted.has(observed)) continue;
      const named = new Map([...wanted].map((outcome, index) => [`outcome ${index}`, outcome]));
      bench.violate("the outcome of no order (rule 8)", trail, `${text}\n${differences(observed, named)}`);
    }
    return { rounds, refused, violations: bench.violations };
  } finally {
    bench.remove();
  }
}

async function serialOutcomes(bench: RealBench, entry: RaceEntry): Promise<Map<string, Set<string>>> {
  const allowed = new Map<string, Set<string>>();
  const add = (exits: readonly number[], observed: string) => {
    const key = winners(exits);
    allowed.set(key, (allowed.get(key) ?? new Set()).add(observed));
  };
  for (const [first, second, swapped] of [
    [entry.one, entry.other, false],
    [entry.other, entry.one, true],
  ] as const) {
    await bench.restore();
    const ordered = (exits: [number, number]) => (swapped ? exits.toReversed() : exits);
    const firstExit = (await bench.ask(first)).exit;
    // The second may find the first at work, and be turned away before it could see its effect.
    add(ordered([firstExit, 1]), await bench.observe());
    add(ordered([firstExit, (await bench.ask(second)).exit]), await bench.observe());
  }
  return allowed;
}

function winners(exits: readonly (number | undefined)[]): string {
  return exits.map((exit) => (exit === 0 ? "wins" : "loses")).join(",");
}

function later(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

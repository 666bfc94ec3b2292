// How the parts of the bench measure, and the table of what they found.

import { spawnSync } from "node:child_process";
import { closeSync, openSync, rmSync, writeSync } from "node:fs";
import { PROGRAM, wordsToStart } from "../helpers/program.ts";

/** What is measured: the launcher on Node, or the single file where IMGTX_BIN names one. */
const [START, ...FIRST_WORDS] = wordsToStart(PROGRAM);

// It makes Node read certificates at each start.
const { NODE_EXTRA_CA_CERTS: _slow, ...inherited } = process.env;
const ENV = { ...inherited, NO_COLOR: "1" };

/** Does what is measured once; the milliseconds that it took. */
export type Job = () => number;

/** What a ratio of two medians ought to be. Without either it is only shown. */
interface Goal {
  readonly atLeast?: number;
  readonly atMost?: number;
}

export interface Bench {
  /** A folder on a real disk, for this run. */
  readonly scratch: string;
  readonly report: Report;
}

/** Takes medians in milliseconds, of imgtx and of what it is held against, and their ratio. */
export type Report = (
  what: string,
  ours: number,
  against: string,
  theirs: number,
  ratio: number,
  goal: Goal,
) => void;

/**
 * Runs each job `rounds` times, one after the other in turns; the medians in milliseconds, as the jobs stand. Every other
 * turn goes backwards: on a virtual machine that gives back what it does not use, who comes after a pause finds no memory
 * there, and takes several times as long to write the same.
 */
export function inTurns<const Jobs extends readonly Job[]>(
  rounds: number,
  jobs: Jobs,
): { readonly [Index in keyof Jobs]: number } {
  const times = jobs.map((): number[] => []);
  for (let round = 0; round < rounds; round += 1) {
    const turn = [...jobs.entries()];
    for (const [index, job] of round % 2 === 0 ? turn : turn.toReversed()) times[index]?.push(job());
  }
  const medians = times.map((each) => each.sort((a, b) => a - b)[Math.floor(each.length / 2)] ?? 0);
  return medians as { readonly [Index in keyof Jobs]: number };
}

const WARM_MIB = 2048;

/**
 * Has the machine's own host give it memory for what comes next: a virtual one may have given back what is free, and each new
 * page of its cache costs a fault there then, a second for each GiB, for whichever program comes to it.
 */
export function warmMemory(folder: string): void {
  const path = `${folder}/warm`;
  const file = openSync(path, "w");
  const piece = new Uint8Array(2 ** 20);
  for (let written = 0; written < WARM_MIB; written += 1) writeSync(file, piece);
  closeSync(file);
  rmSync(path);
}

/** Milliseconds that the program took. Throws when it fails: a failure is not fast. */
export function run(cwd: string, program: string, args: readonly string[]): number {
  const start = performance.now();
  const { status, stderr } = spawnSync(program, args, { cwd, env: ENV, stdio: ["ignore", "ignore", "pipe"] });
  const milliseconds = performance.now() - start;
  if (status !== 0) {
    throw new Error(`${program} ${args.join(" ")}: exit status ${status}\n${stderr.toString()}`);
  }
  return milliseconds;
}

/** imgtx with these words, in that folder; milliseconds. */
export function runWords(cwd: string, words: readonly string[]): number {
  return run(cwd, START, [...FIRST_WORDS, ...words]);
}

/** imgtx in that folder, which is its workspace; milliseconds. */
export function runImgtx(workspace: string, ...args: readonly string[]): number {
  // init takes its folder from here, and --version needs none.
  const needsNone = args.includes("init") || args.includes("--version");
  const words = needsNone ? args : ["--workspace", ".", ...args];
  return runWords(workspace, words);
}

export class Results {
  readonly #rows: (readonly string[])[] = [];
  #missed = 0;

  readonly report: Report = (what, ours, against, theirs, ratio, { atLeast, atMost }) => {
    const reached = ratio >= (atLeast ?? -Infinity) && ratio <= (atMost ?? Infinity);
    if (!reached) this.#missed += 1;
    const goal =
      atLeast !== undefined ? `at least ${atLeast}` : atMost !== undefined ? `at most ${atMost}` : "";
    this.#rows.push([
      what,
      `${ours.toFixed(1)} ms`,
      against,
      `${theirs.toFixed(1)} ms`,
      ratio.toFixed(2),
      goal,
      reached ? "" : "NOT REACHED",
    ]);
  };

  /** Names what is not reached, without failing: a ratio on a noisy machine is for people to judge. */
  print(): void {
    const lines = [["imgtx", "median", "against", "median", "ratio", "reach", ""], ...this.#rows];
    const widthOf = (column: number) => Math.max(...lines.map((line) => line[column]?.length ?? 0));
    for (const line of lines) {
      console.log(
        line
          .map((cell, column) => cell.padEnd(widthOf(column)))
          .join("  ")
          .trimEnd(),
      );
    }
    if (this.#missed > 0) console.log(`${this.#missed} not reached`);
  }
}

// The differential fuzzer at length: so many sequences, each in a folder of its own, with their figures. The seed
// that is printed with a failure is a sequence's own, and shows it again.

import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { judgeSequence } from "./differential-judge.ts";
import { Sequence } from "./differential-sequence.ts";
import { Tools } from "./differential-tools.ts";

export interface DifferentialOptions {
  /** Of the first sequence; the others follow. */
  readonly seed: number;
  readonly sequences: number;
  /** Milliseconds since 1970 by which it has to be over. */
  readonly deadline: number;
  readonly say: (line: string) => void;
}

export interface DifferentialResult {
  readonly problems: readonly string[];
  readonly figures: readonly string[];
}

const PROBLEMS_MAX = 30;
const TOLD_EVERY = 100;

/** What went wrong, with the commands that led there; undefined where nothing did. */
export async function trySequence(
  seed: number,
  count: (commands: readonly string[], changes: readonly string[]) => void = () => undefined,
): Promise<string | undefined> {
  const folder = realpathSync(mkdtempSync(`${tmpdir()}/imgtx-differential-`));
  const tools = new Tools(folder);
  try {
    const sequence = new Sequence(tools, seed);
    await sequence.run();
    await judgeSequence(tools, sequence);
    return undefined;
  } catch (error) {
    const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return `differential, seed ${seed}: ${message}\n${tools.log.map((line) => `  ${line}`).join("\n")}`;
  } finally {
    count(tools.log, tools.changes);
    rmSync(folder, { recursive: true, force: true });
  }
}

export async function tortureDifferential(options: DifferentialOptions): Promise<DifferentialResult> {
  const began = Date.now();
  const problems: string[] = [];
  const counts = { byQemu: 0, byImgtx: 0 };
  const inPlace = new Map<string, number>();
  let done = 0;
  while (done < options.sequences && Date.now() < options.deadline && problems.length < PROBLEMS_MAX) {
    const problem = await trySequence(options.seed + done, (commands, changes) => {
      for (const change of changes) inPlace.set(change, (inPlace.get(change) ?? 0) + 1);
      const own = commands.filter((line) => line.startsWith("imgtx")).length;
      counts.byImgtx += own;
      counts.byQemu += commands.length - own;
    });
    done += 1;
    if (problem !== undefined) {
      problems.push(problem);
      options.say(problem);
    }
    if (done % TOLD_EVERY === 0) options.say(`differential: ${done} sequences, ${problems.length} failures`);
  }
  return {
    problems,
    figures: [
      `differential, ${Math.round((Date.now() - began) / 1000)} s:`,
      `  sequences ${done}, failures ${problems.length}`,
      `  commands by QEMU ${counts.byQemu}, by imgtx ${counts.byImgtx}`,
      `  changes in place: ${[...inPlace].map(([what, times]) => `${what} ${times}`).join(", ")}`,
    ],
  };
}

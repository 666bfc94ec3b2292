// Many runs of the model, each by a seed of its own, until all are done or the time is up.

import { runModel } from "./run.ts";

export interface ModelRequest {
  /** Of the first run; the others follow. */
  readonly seed: number;
  readonly runs: number;
  /** Milliseconds since 1970 by which it has to be over. */
  readonly deadline: number;
  readonly say: (line: string) => void;
}

const PROBLEMS_MAX = 20;
const TOLD_EVERY = 100;

export async function tortureModel({ seed, runs, deadline, say }: ModelRequest) {
  const problems: string[] = [];
  const totals: Record<string, number> = {};
  let done = 0;
  while (done < runs && Date.now() < deadline && problems.length < PROBLEMS_MAX) {
    const problem = await runModel(seed + done, totals);
    done += 1;
    if (problem !== undefined) {
      problems.push(problem);
      say(`model: ${problem}`);
    }
    if (done % TOLD_EVERY === 0) say(`model: ${done} runs, ${problems.length} with a fault`);
  }
  const figures = Object.entries(totals).map(([what, count]) => `${what} ${count}`);
  return { problems, totals, figures: [`model, runs ${done}: ${figures.sort().join(", ")}`] };
}

// Staged changes at length: `npm run torture -- staged`. The cases of the tests with other seeds, and more of them.

import { type CaseFigures, runFileCase } from "./file-cases.ts";
import { runWriterCase } from "./writer-cases.ts";

interface StagedRun {
  readonly seed: number;
  readonly deadline: number;
  readonly cases: number;
  readonly say: (line: string) => void;
}

const FILE = ["file", runFileCase] as const;
const WRITER = ["writer", runWriterCase] as const;

/** Runs so many cases, half of them with the qcow2 writer, or as many as the time allows. */
export async function tortureStaged({ seed, deadline, cases, say }: StagedRun): Promise<{
  readonly problems: readonly string[];
  readonly figures: readonly string[];
}> {
  const started = Date.now();
  const problems: string[] = [];
  const figures: CaseFigures = { cases: 0, cuts: 0, changes: 0 };
  for (let number = 0; number < cases && Date.now() < deadline; number += 1) {
    const own = seed * 1_000_000 + number;
    const [kind, run] = number % 2 === 0 ? FILE : WRITER;
    const problem = await run(own, figures).catch((error: unknown) => String(error));
    if (problem !== undefined) problems.push(`${kind} case ${own}: ${problem}`);
    if ((number + 1) % 5000 === 0) say(`staged: ${number + 1} cases, ${problems.length} problems`);
  }
  const seconds = Math.round((Date.now() - started) / 1000);
  return {
    problems,
    figures: [
      `staged changes, ${seconds} s: ${figures.cases} cases, ${figures.cuts} applications cut off, ` +
        `${figures.changes} changes made after them`,
    ],
  };
}

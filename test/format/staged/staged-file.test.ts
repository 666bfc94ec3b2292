// A staged file is the file that the same calls make directly, before and after its log is applied.

import { expect, test } from "vitest";
import { type CaseFigures, runFileCase } from "./file-cases.ts";

const [BLOCKS, CASES_IN_BLOCK] = [8, 250];

test.each(Array.from({ length: BLOCKS }, (_, block) => block * CASES_IN_BLOCK))(
  "any calls through the log, applied and cut off anywhere, equal the same calls made directly: seeds from %i on",
  async (first) => {
    const figures: CaseFigures = { cases: 0, cuts: 0, changes: 0 };
    const problems: string[] = [];
    for (let seed = first; seed < first + CASES_IN_BLOCK; seed += 1) {
      const problem = await runFileCase(seed, figures);
      if (problem !== undefined) problems.push(`seed ${seed}: ${problem}`);
    }
    expect(problems).toEqual([]);
    expect(figures.cases).toBe(CASES_IN_BLOCK);
    expect(figures.cuts).toBeGreaterThan(CASES_IN_BLOCK);
  },
);

// Today's writer over a staged storage: the image is what the same calls make directly.

import { describe, expect, test } from "vitest";
import type { CaseFigures } from "./file-cases.ts";
import { runWriterCase } from "./writer-cases.ts";

const [BLOCKS, CASES_IN_BLOCK] = [16, 125];

describe("any changes of a qcow2 image through its log", () => {
  test.each(Array.from({ length: BLOCKS }, (_, block) => block * CASES_IN_BLOCK))(
    "applied and cut off anywhere, equal the same made directly, and a check is clean: seeds from %i on",
    async (first) => {
      const figures: CaseFigures = { cases: 0, cuts: 0, changes: 0 };
      const problems: string[] = [];
      for (let seed = first; seed < first + CASES_IN_BLOCK; seed += 1) {
        const problem = await runWriterCase(seed, figures).catch((error: unknown) => String(error));
        if (problem !== undefined) problems.push(`seed ${seed}: ${problem}`);
      }
      expect(problems).toEqual([]);
      expect(figures.cases).toBe(CASES_IN_BLOCK);
      expect(figures.cuts).toBeGreaterThan(CASES_IN_BLOCK);
    },
  );
});

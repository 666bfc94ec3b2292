// A slice of the random walk. `npm run torture -- walk` takes thousands of steps.

import { describe, expect } from "vitest";
import { oracle } from "../helpers/oracles.ts";
import { PROGRAM } from "../helpers/program.ts";
import { walkIn } from "./torture-walk.ts";

const tools = oracle("qemu-img", "qemu-io", "strace");

const STEPS = 100;

describe("a random walk", () => {
  for (const seed of [1, 2]) {
    tools.test(`of seed ${seed} leaves every device with what its guest has written`, async () => {
      const report = await walkIn({
        program: PROGRAM,
        seed,
        steps: STEPS,
        deadline: Number.POSITIVE_INFINITY,
        runsHere: true,
      });
      expect(report.fault).toBeUndefined();
      expect(report.steps).toBe(STEPS);
      expect(report.figures["commands"]).toBeGreaterThan(STEPS / 2);
    });
  }
});

// A slice of the random walk. `npm run torture -- walk` takes thousands of steps.

import { describe, expect } from "vitest";
import { oracle } from "../helpers/oracles.ts";
import { PROGRAM } from "../helpers/program.ts";
import { walkIn } from "./torture-walk.ts";

const tools = oracle("qemu-img", "qemu-io", "strace");

/** Each walk takes the same steps on each machine; on a slow one, fewer of them. */
const STEPS = 100;
const BUDGET_MS = 120_000;

describe("a random walk", () => {
  for (const seed of [1, 2]) {
    tools.test(`of seed ${seed} leaves every device with what its guest has written`, async () => {
      const report = await walkIn({ program: PROGRAM, seed, steps: STEPS, deadline: Date.now() + BUDGET_MS });
      expect(report.fault).toBeUndefined();
      expect(report.steps).toBeGreaterThan(0);
      expect(report.figures["commands"]).toBeGreaterThan(report.steps / 2);
    });
  }
});

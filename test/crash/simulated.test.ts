import { expect, test } from "vitest";
import { trialOf } from "./command-line.ts";
import { explore, EXPLORE_ALL } from "./explore.ts";
import { record } from "./recording.ts";
import { describeViolation } from "./report.ts";
import { SCENARIOS } from "./scenarios.ts";

for (const scenario of SCENARIOS) {
  test(scenario.name, async () => {
    const { plan, subject } = await trialOf(scenario);
    const recording = await record(plan, subject);
    const started = Date.now();
    const report = await explore(recording, subject, {
      ...EXPLORE_ALL,
      maxViolations: 2,
      depth: 1,
      limits: { exhaustiveItems: 5, randomSubsets: 16, most: 64 },
    });
    console.log(scenario.name, recording.log.length, report.figures, Date.now() - started);
    expect(report.violations.map(describeViolation)).toEqual([]);
  });
}

// A slice of what `npm run torture -- simulated --part guests` does: guests that start between a crash and its recovery.

import { expect, test } from "vitest";
import { trialOf } from "./command-line.ts";
import { meetGuests } from "./guests.ts";
import { record } from "./recording.ts";
import { groupViolations } from "./report.ts";
import { SCENARIOS, findScenario } from "./scenarios.ts";
import { GUEST_SLICE } from "./slice.ts";

test.each(SCENARIOS.map((scenario) => [scenario.name, scenario] as const))(
  "no write of a guest that starts between a crash and its recovery is lost in %s",
  async (_, scenario) => {
    const { plan, subject } = await trialOf(scenario);
    const points = scenario.steps.length > 2 ? 2 : GUEST_SLICE.points;
    const report = await meetGuests(await record(plan, subject), subject, { ...GUEST_SLICE, points });
    expect(groupViolations(report.violations)).toEqual([]);
    expect(report.figures.guests).toBeGreaterThan(0);
  },
);

test("a move waits, and says so, where a raw image that its device leaves was written to", async () => {
  const { plan, subject } = await trialOf(findScenario("reopen a raw device"));
  const options = { ...GUEST_SLICE, points: 8, lastCalls: 16, ways: 4 };
  const report = await meetGuests(await record(plan, subject), subject, options);
  expect(groupViolations(report.violations)).toEqual([]);
  expect(report.figures.waits).toBeGreaterThan(0);
});

test("a move past a fence never waits for what a guest wrote, unless the fence was not durable before the mark", async () => {
  const { plan, subject } = await trialOf(findScenario("reopen"));
  const options = { ...GUEST_SLICE, points: 8, lastCalls: 16, ways: 4 };
  const right = await meetGuests(await record(plan, subject), subject, options);
  expect(groupViolations(right.violations)).toEqual([]);
  expect(right.figures.keptOut).toBeGreaterThan(0);
  expect(right.figures.waits).toBe(0);
  const muted = await record(plan, subject, new Set(["fence of a left image"]));
  expect((await meetGuests(muted, subject, options)).figures.waits).toBeGreaterThan(0);
});

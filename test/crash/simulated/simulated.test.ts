// A slice of what `npm run torture` does with the command line on the simulated disk: crashes.

import { describe, expect, test } from "vitest";
import { BoundaryKinds } from "./boundary-kinds.ts";
import { trialOf } from "../command-line.ts";
import { explore } from "../judges/explore.ts";
import { record } from "./recording.ts";
import { groupViolations } from "../report.ts";
import { DEVICE_SCENARIOS } from "../scenarios/device-scenarios.ts";
import { IMAGE_SCENARIOS } from "../scenarios/image-scenarios.ts";
import { SCENARIOS } from "../scenarios/scenarios.ts";
import { SLICE, SLICE_OF_ONE_CRASH } from "../slice.ts";

const IN_SLICE = [...SCENARIOS, ...IMAGE_SCENARIOS, ...DEVICE_SCENARIOS]
  .filter(({ inSlice }) => inSlice)
  .map((scenario) => [scenario.name, scenario] as const);
const OTHERS = [...SCENARIOS, ...IMAGE_SCENARIOS, ...DEVICE_SCENARIOS]
  .filter(({ inSlice }) => !inSlice)
  .map((scenario) => [scenario.name, scenario] as const);

/** In the order of the registry: what earlier scenarios have in common with a later one is cut off there. */
const kinds = new BoundaryKinds({ most: 1, always: 2 });

/** Flushes in these are missed by single ones of many choices alone: "folders in .imgtx", "name of a table found moved", "copied". */
const BY_CHOICE = ["make a workspace", "bring two mirrors in sync, the journal told of each step"];

describe("a power cut or a dead process at any call leaves every disk before or after", () => {
  test.each(IN_SLICE)("in %s", async (_, scenario) => {
    const { plan, subject } = await trialOf(scenario);
    const report = await explore(await record(plan, subject), subject, { ...SLICE, kinds });
    expect(groupViolations(report.violations)).toEqual([]);
    expect(report.figures.points).toBeGreaterThan(10);
    expect(report.figures.nested).toBeGreaterThan(30);
  });

  test.each(OTHERS)("in %s, with one crash only", async (_, scenario) => {
    const { plan, subject } = await trialOf(scenario);
    const limits = { ...SLICE_OF_ONE_CRASH.limits, ...(BY_CHOICE.includes(scenario.name) && { most: 4 }) };
    const options = { ...SLICE_OF_ONE_CRASH, kinds, limits };
    const report = await explore(await record(plan, subject), subject, options);
    expect(groupViolations(report.violations)).toEqual([]);
    expect(report.figures.states).toBeGreaterThan(0);
  });
});

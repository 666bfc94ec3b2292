// A slice of what `npm run torture -- simulated --part away` does: disks that are away when recovery runs, and come back.

import { expect, test } from "vitest";
import { takeDisksAway } from "./away.ts";
import { awayTrialOf } from "../command-line.ts";
import { Phases } from "../simulated/boundary-kinds.ts";
import { record } from "../simulated/recording.ts";
import { groupViolations } from "../report.ts";
import { IMAGE_SCENARIOS } from "../scenarios/image-scenarios.ts";
import { SCENARIOS } from "../scenarios/scenarios.ts";
import { AWAY_SLICE, PHASES_OF_STEP, PHASES_OF_WAITING } from "../slice.ts";

const OVER_DISKS = [
  ...SCENARIOS.filter(({ startsWithout }) => startsWithout !== true),
  ...IMAGE_SCENARIOS.filter(({ files }) => !files().some(({ isDevice }) => isDevice === true)),
];

/** In the order of the registry; of each scenario its end besides. */
const kinds = new Phases(PHASES_OF_STEP);

const WAITING: ReadonlySet<string> = new Set([
  "give files back with a rollback",
  "bring two mirrors in sync, and go over to one of them",
  "relocate",
]);

test.each(OVER_DISKS.map((scenario) => [scenario.name, scenario] as const))(
  "a disk that is away at recovery, and comes back, is wholly before or wholly after in %s",
  async (_, scenario) => {
    const trial = await awayTrialOf(scenario);
    if (!trial) throw new Error("it can be laid out over disks");
    const report = await takeDisksAway(await record(trial.plan, trial.subject), trial.subject, {
      ...AWAY_SLICE,
      kinds: WAITING.has(scenario.name) ? new Phases(PHASES_OF_WAITING) : kinds,
    });
    expect(groupViolations(report.violations)).toEqual([]);
    expect(report.figures.away).toBeGreaterThan(0);
  },
);

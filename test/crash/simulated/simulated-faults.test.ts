// A slice of what `npm run torture` does with the command line on the simulated disk: failing calls, damaged
// journals, two processes at once, and flushes that are taken out.

import { expect, test } from "vitest";
import { journalsIn, simulatedRaceOf, trialOf } from "../command-line.ts";
import { damageJournals } from "../judges/damaged-journal.ts";
import { injectErrors, injectLostFlushes } from "../judges/injected-errors.ts";
import { tryMutant } from "../judges/mutants.ts";
import { runRaces, withoutLocks } from "../judges/races.ts";
import { record } from "./recording.ts";
import { groupViolations } from "../report.ts";
import { DEVICE_SCENARIOS } from "../scenarios/device-scenarios.ts";
import { RACES, findScenario } from "../scenarios/scenarios.ts";
import { SLICE } from "../slice.ts";

test("each failing call of a group snapshot is met as the exit status says", async () => {
  const { plan, subject } = await trialOf(findScenario("snapshot-group of 1"));
  const options = { ...SLICE, nestedDeaths: Number.POSITIVE_INFINITY };
  const report = await injectErrors(await record(plan, subject), subject, options);
  expect(groupViolations(report.violations)).toEqual([]);
  expect(report.figures.errors).toBeGreaterThan(200);
});

// A volume has no holes that would tell what was punched.
const ON_VOLUMES = DEVICE_SCENARIOS.filter(({ name }) => name === "a group snapshot onto volumes");

test.each([findScenario("bring a mirror in sync"), findScenario("freeze and unfreeze"), ...ON_VOLUMES])(
  "what a failed flush has lost is written anew by the next command in $name",
  async (scenario) => {
    const { plan, subject } = await trialOf(scenario);
    const report = await injectLostFlushes(await record(plan, subject), subject, SLICE);
    expect(groupViolations(report.violations)).toEqual([]);
    expect(report.figures.errors).toBeGreaterThan(50);
  },
);

test("a journal damaged anywhere is refused, or was torn, and never leads to a mixture", async () => {
  const { plan, subject } = await trialOf(findScenario("snapshot-group of 1"));
  const report = await damageJournals(await record(plan, subject), subject, journalsIn, 37, SLICE);
  expect(groupViolations(report.violations)).toEqual([]);
  expect(report.figures.damages).toBeGreaterThan(200);
});

test.each(RACES.map((entry) => [entry.name, entry] as const))(
  "of two processes one may be refused, and changes nothing then: %s",
  async (_, entry) => {
    const { race, subject } = await simulatedRaceOf(entry);
    const report = await runRaces(
      race,
      subject,
      Array.from({ length: 20 }, (_each, seed) => seed),
    );
    expect(groupViolations(report.violations)).toEqual([]);
  },
);

// The first two are lost without claims; in the others a transaction is in two hands.
const BY_TWO_MOUNTINGS = [
  "snapshot vda a1.qcow2 against snapshot vdb b1.qcow2",
  "device add vdc other.qcow2 against device add vdc other.qcow2",
  "snapshot vdb b1.qcow2 against txn commit",
  "txn commit against txn commit",
];

test.each(
  RACES.filter(({ name }) => BY_TWO_MOUNTINGS.includes(name)).map((entry) => [entry.name, entry] as const),
)("two processes that share no locks are none the less one after the other: %s", async (_, entry) => {
  const { race, subject } = await simulatedRaceOf(entry);
  const report = await runRaces(
    withoutLocks(race),
    subject,
    Array.from({ length: 10 }, (_each, seed) => seed),
  );
  expect(groupViolations(report.violations)).toEqual([]);
  expect(report.figures.races).toBe(10);
});

const COMMITTING = ["journal content", "new image", "new image's name", "commit mark", "next table's name"];

test.each(COMMITTING)("a group snapshot without the flush for '%s' is found out", async (purpose) => {
  const trial = await trialOf(findScenario("snapshot-group of 1"));
  const right = await record(trial.plan, trial.subject);
  const purposes = right.log.flatMap((change) => (change.kind === "flush" ? change.purpose : []));
  expect(purposes).toContain(purpose);
  expect(await tryMutant(purpose, [trial], SLICE)).toMatchObject({ verdict: "killed" });
});

test.each([
  ["fence that stays", "freeze and unfreeze"],
  ["redo log", "freeze and unfreeze"],
  ["redo log: fence lifted", "freeze and unfreeze"],
  ["applied", "merge into smaller images"],
  ["fences", "reopen"],
  ["fence lifted", "reopen"],
  ["copied layers", "bring a raw mirror in sync"],
  ["copied layers so far", "bring two mirrors in sync, the journal told of each step"],
  ["copied overlay gone", "bring a raw mirror in sync"],
  ["refcounts-before-references", "bring a mirror in sync"],
])("a change in place without the flush for '%s' is found out in %s", async (purpose, scenario) => {
  const trial = await trialOf(findScenario(scenario));
  const right = await record(trial.plan, trial.subject);
  const purposes = right.log.flatMap((change) => (change.kind === "flush" ? change.purpose : []));
  expect(purposes).toContain(purpose);
  expect(await tryMutant(purpose, [trial], SLICE)).toMatchObject({ verdict: "killed" });
});

// The rig's own test: it must pass a right program, and find what is wrong with each wrong one.

import { expect, test } from "vitest";
import { damageJournals } from "./judges/damaged-journal.ts";
import { explore, EXPLORE_ALL, type ExploreOptions } from "./judges/explore.ts";
import { injectErrors } from "./judges/injected-errors.ts";
import { judgeMutants, tryMutant } from "./judges/mutants.ts";
import { record, type Recording } from "./simulated/recording.ts";
import { describeViolation, type Report } from "./report.ts";
import { startProcess } from "./simulated/simulated-process.ts";
import { SimulatedDeath, SimulatedMachine } from "./simulated/simulated-disk.ts";
import { runOn } from "./subject.ts";
import { SLICE } from "./slice.ts";
import { toyJournals, toyPlan, toySubject, type ToyFaults } from "./toy-protocol.ts";

const OPTIONS: ExploreOptions = { ...EXPLORE_ALL, nestEvery: 8 };

async function exploreToy(faults: ToyFaults = {}, muted: string[] = []): Promise<Report> {
  const subject = toySubject(faults);
  const recording = await record(await toyPlan(), subject, new Set(muted));
  return explore(recording, subject, { ...OPTIONS, maxViolations: 1 });
}

async function recordToy(faults: ToyFaults = {}): Promise<Recording> {
  return record(await toyPlan(), toySubject(faults));
}

function described(report: Report): string[] {
  return report.violations.map(describeViolation);
}

test("a right program passes, at every call, on every disk, three crashes deep", async () => {
  const report = await exploreToy();
  expect(described(report)).toEqual([]);
  expect(report.figures.points).toBeGreaterThan(30);
  expect(report.figures.nested).toBeGreaterThan(500);
});

const NEEDED = ["journal content", "journal name", "file content", "file names", "adopt journal name"];
const REDUNDANT = ["adopt journal content", "journal removal"];

test.each(NEEDED)("the removal of the flush for '%s' is found", async (purpose) => {
  const mutant = await tryMutant(purpose, [{ plan: await toyPlan(), subject: toySubject() }], OPTIONS);
  expect(mutant).toMatchObject({ purpose, verdict: "killed" });
});

test.each(REDUNDANT)("the removal of the flush for '%s' does no harm", async (purpose) => {
  const options = { ...OPTIONS, limits: SLICE.limits, nestEvery: SLICE.nestEvery };
  const mutant = await tryMutant(purpose, [{ plan: await toyPlan(), subject: toySubject() }], options);
  expect(mutant).toMatchObject({ purpose, verdict: "survived" });
});

test("a survivor that is not listed, a needed flush that is, and an unknown one are complained of", () => {
  const mutants = [
    { purpose: "needed", verdict: "killed", by: "x" },
    { purpose: "idle", verdict: "survived", by: undefined },
    { purpose: "listed", verdict: "survived", by: undefined },
  ] as const;
  expect(judgeMutants(mutants, { listed: "why" })).toEqual([
    'removing "idle" breaks no test, and it is not listed',
  ]);
  expect(judgeMutants(mutants, { listed: "why", idle: "why", needed: "why", gone: "why" })).toEqual([
    '"needed" is listed as redundant, but is needed',
    '"gone" is listed as redundant, but no flush is for that',
  ]);
});

test.each<[string, ToyFaults, RegExp]>([
  ["retires its journal too early", { forgetsSecondFile: true }, /not wholly/],
  ["writes something in every recovery", { restless: true }, /a second recovery changes something/],
])("a program that %s is found", async (_, faults, rule) => {
  expect(described(await exploreToy(faults)).join()).toMatch(rule);
});

test("a program that touches a neighbour's file is found", async () => {
  const right = await recordToy();
  const wrong = await record(await toyPlan(), toySubject({ touchesNeighbour: true }));
  // Judged by the observations of the right program, which leaves the neighbour alone.
  const steps = wrong.steps.map((step, index) => ({ ...step, after: right.steps[index]!.after }));
  const report = await explore({ ...wrong, steps }, toySubject({ touchesNeighbour: true }), OPTIONS);
  expect(described(report).join()).toContain("/data/neighbour");
});

test("errors injected at every call are met as the exit status says", async () => {
  const report = await injectErrors(await recordToy(), toySubject(), OPTIONS);
  expect(described(report)).toEqual([]);
  expect(report.figures.errors).toBeGreaterThan(100);
});

test("a program that takes a failed flush of its commit mark for a rollback is found", async () => {
  const faults = { trustsFailedFlush: true };
  const report = await injectErrors(await recordToy(faults), toySubject(faults), OPTIONS);
  expect(described(report).join()).toContain("the exit status does not hold after a power loss");
});

test("damaged journals are refused by a right program", async () => {
  const report = await damageJournals(await recordToy(), toySubject(), toyJournals, 1, OPTIONS);
  expect(described(report)).toEqual([]);
  expect(report.figures.damages).toBeGreaterThan(100);
});

test("a program that takes a damaged journal for an empty one is found", async () => {
  const faults = { ignoresDamage: true };
  const report = await damageJournals(await recordToy(faults), toySubject(faults), toyJournals, 1, OPTIONS);
  expect(described(report).join()).toContain("a mixture");
});

test("a process killed at a call leaves the log that the rig takes for that crash", async () => {
  const recording = await recordToy();
  const [step] = recording.steps;
  for (let call = 0; call < step!.to; call += 1) {
    const machine = new SimulatedMachine({ durable: recording.start, boots: 1 });
    machine.arm({ call, kind: "death", stays: false });
    await expect(runOn(machine, toySubject(), step!.step.argv)).rejects.toThrow(SimulatedDeath);
    expect(machine.log).toEqual(recording.log.slice(0, call));
  }
});

test("a killed process stays dead, and its locks are free", async () => {
  const machine = new SimulatedMachine({ durable: (await toyPlan()).disk });
  const storage = startProcess(machine);
  const file = await storage.openFile("/data/a", "write");
  expect(file.lock({ start: 0, lengthBytes: 1 }, "exclusive")).toBe(true);
  machine.arm({ call: 0, kind: "death", stays: false });
  await expect(file.write(Buffer.from("x"), 0)).rejects.toThrow(SimulatedDeath);
  await expect(file.close()).rejects.toThrow(SimulatedDeath);
  expect(() => file.lock({ start: 0, lengthBytes: 1 }, "shared")).toThrow(SimulatedDeath);
  const other = await startProcess(machine).openFile("/data/a", "write");
  expect(other.lock({ start: 0, lengthBytes: 1 }, "exclusive")).toBe(true);
});

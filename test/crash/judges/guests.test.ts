// A slice of what `npm run torture -- simulated --part guests` does: guests that start between a crash and its recovery.

import { expect, test } from "vitest";
import { guestTrialOf, trialOf } from "../command-line.ts";
import { type Boundaries, Phases } from "../simulated/boundary-kinds.ts";
import { spread } from "../simulated/crash-states.ts";
import { describeChange } from "../simulated/disk-log.ts";
import { DiskStates } from "../simulated/disk-states.ts";
import { meetGuests } from "./guests.ts";
import { record, RECORDED_BOOT } from "../simulated/recording.ts";
import { groupViolations } from "../report.ts";
import { DEVICE_SCENARIOS } from "../scenarios/device-scenarios.ts";
import { IMAGE_SCENARIOS } from "../scenarios/image-scenarios.ts";
import { SCENARIOS, findScenario } from "../scenarios/scenarios.ts";
import { SimulatedMachine } from "../simulated/simulated-disk.ts";
import { startProcess } from "../simulated/simulated-process.ts";
import { GUEST_SLICE, PHASES_OF_STEP } from "../slice.ts";
import { runOn } from "../subject.ts";

/** What the device of a scenario leaves. */
const LEFT = "/disks/ws/b.raw";

/** In the order of the registry; of each scenario its end besides. */
const kinds = new Phases(PHASES_OF_STEP);

/** Cut off at three places instead: the rig knows no device by its new name. */
const BY_PLACE: ReadonlySet<string> = new Set([
  "rename a device, and two by a third name, with what snapshots keep of them",
]);
const places: Boundaries = {
  choose(recording, step) {
    // What is new in it is not for a later one.
    kinds.choose(recording, step);
    return spread(step, 3);
  },
};

test.each(
  [...SCENARIOS, ...IMAGE_SCENARIOS, ...DEVICE_SCENARIOS].map(
    (scenario) => [scenario.name, scenario] as const,
  ),
)("no write of a guest that starts between a crash and its recovery is lost in %s", async (_, scenario) => {
  const { plan, subject } = await guestTrialOf(scenario);
  const report = await meetGuests(await record(plan, subject), subject, {
    ...GUEST_SLICE,
    kinds: BY_PLACE.has(scenario.name) ? places : kinds,
  });
  expect(groupViolations(report.violations)).toEqual([]);
  expect(report.figures.guests).toBeGreaterThan(0);
});

test("a move waits, and says so, where a raw image that its device leaves was written to", async () => {
  const { plan, subject } = await trialOf(findScenario("reopen a raw device"));
  const options = { ...GUEST_SLICE, points: 8, lastCalls: 16, ways: 4 };
  const report = await meetGuests(await record(plan, subject), subject, options);
  expect(groupViolations(report.violations)).toEqual([]);
  expect(report.figures.waits).toBeGreaterThan(0);
});

test("what snapshots of volumes may hold is said where the move is shown first, and finished after that", async () => {
  const scenario = DEVICE_SCENARIOS.find(({ name }) => name === "a group snapshot onto volumes");
  if (!scenario) throw new Error("there is no such scenario");
  const { plan, subject } = await trialOf(scenario);
  const moved: Boundaries = {
    choose: ({ log }) => {
      const at = log.findIndex((call) => describeChange(call).endsWith("-> /disks/ws/.imgtx/table.json"));
      return new Set([at + 1]);
    },
  };
  const options = { ...GUEST_SLICE, kinds: moved, ways: 2 };
  const report = await meetGuests(await record(plan, subject), subject, options);
  expect(groupViolations(report.violations)).toEqual([]);
  expect(report.figures.guests).toBeGreaterThan(0);
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

test.each([
  "reopen a raw device",
  "reopen a device of version 2",
  "go over to a raw mirror that is out of line",
])(
  "a recovery that is cut off after a guest's write is finished as it would have been in %s",
  async (name) => {
    const { plan, subject } = await trialOf(findScenario(name));
    const options = { ...GUEST_SLICE, points: 12, lastCalls: 12, ways: 2, cutsOfRecovery: 3 };
    const report = await meetGuests(await record(plan, subject), subject, options);
    expect(groupViolations(report.violations)).toEqual([]);
  },
);

test("what a guest writes to an image without a fence stays, once the journal says that it is changed", async () => {
  const scenario = findScenario("resize 5 devices in a transaction");
  const { plan, subject } = await trialOf({ ...scenario, studied: [scenario.steps.length - 1] });
  const options = { ...GUEST_SLICE, points: 12, ways: 3 };
  const right = await meetGuests(await record(plan, subject), subject, options);
  expect(groupViolations(right.violations)).toEqual([]);
});

test("what is written to a left image after the command has ended is taken for later, by the flush for 'journal gone'", async () => {
  const { plan, subject } = await trialOf(findScenario("reopen a raw device"));
  const waitsWithout = async (mutedPurposes: ReadonlySet<string>): Promise<number> => {
    const { start, log } = await record(plan, subject, mutedPurposes);
    const machine = new SimulatedMachine({ durable: start, log, boot: RECORDED_BOOT, mutedPurposes });
    const file = await startProcess(machine).openFile(LEFT, "write");
    await file.write(Buffer.from("later"), 0);
    await file.flush("guest");
    await file.close();
    const states = new DiskStates(start);
    for (const change of machine.log) states.advance(change);
    let waits = 0;
    for (const { tree } of states.states({ exhaustiveItems: 5, randomSubsets: 0, most: 40 }, 1)) {
      const { exit } = await runOn(
        new SimulatedMachine({ durable: tree, boots: 2 }),
        subject,
        subject.recover,
      );
      if (exit !== 0) waits += 1;
    }
    return waits;
  };
  expect(await waitsWithout(new Set())).toBe(0);
  expect(await waitsWithout(new Set(["journal gone"]))).toBeGreaterThan(0);
});

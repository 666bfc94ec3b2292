// Flushes that matter at one place alone: at a call, with a choice of what was lost there, that the slice seldom meets.

import { expect, test } from "vitest";
import { trialOf } from "../command-line.ts";
import { type Change, describeChange } from "../simulated/disk-log.ts";
import { DiskStates } from "../simulated/disk-states.ts";
import { record, RECORDED_BOOT } from "../simulated/recording.ts";
import { findScenario } from "../scenarios/scenarios.ts";
import { SimulatedMachine } from "../simulated/simulated-disk.ts";
import { observeCopy, runOn, type Subject } from "../subject.ts";
import type { Tree } from "../simulated/disk-tree.ts";

const movesTable = (change: Change): boolean =>
  describeChange(change).endsWith("-> /disks/ws/.imgtx/table.json");
const liftsFence = (change: Change): boolean =>
  change.kind === "flush" && change.purpose === "redo log: fence lifted";

interface End {
  /** What recovery said then. */
  readonly text: string;
  readonly exit: number | undefined;
  readonly observed: string;
}

/** Where a power cut leads that loses some of what is pending at the end of the log. */
async function endsOf(start: Tree, log: readonly Change[], subject: Subject): Promise<End[]> {
  const states = new DiskStates(start);
  for (const change of log) states.advance(change);
  const ends: End[] = [];
  for (const { tree } of states.states({ exhaustiveItems: 5, randomSubsets: 0, most: 40 }, 1)) {
    const machine = new SimulatedMachine({ durable: tree, boots: 3 });
    const { text, exit } = await runOn(machine, subject, subject.recover);
    const observed = await observeCopy(machine, subject).catch(String);
    ends.push({ text, exit, observed });
  }
  return ends;
}

/** A process dies at this call of the first step, recovery ends with 0, and the power fails. */
async function endsAfterRecovery(
  name: string,
  isLast: (change: Change) => boolean,
  muted: readonly string[],
): Promise<number> {
  const { plan, subject } = await trialOf(findScenario(name));
  const { start, log } = await record(plan, subject);
  const machine = new SimulatedMachine({
    durable: start,
    log: log.slice(0, log.findIndex(isLast) + (isLast === liftsFence ? 0 : 1)),
    boots: 2,
    boot: RECORDED_BOOT,
    mutedPurposes: new Set(muted),
  });
  const { exit } = await runOn(machine, subject, subject.recover);
  expect(exit).toBe(0);
  return new Set((await endsOf(start, machine.log, subject)).map(({ observed }) => observed)).size;
}

test("a table that recovery has found moved stays moved, by the flush for 'name of a table found moved'", async () => {
  expect(await endsAfterRecovery("snapshot-group of 1", movesTable, [])).toBe(1);
  const muted = ["name of a table found moved"];
  expect(await endsAfterRecovery("snapshot-group of 1", movesTable, muted)).toBeGreaterThan(1);
});

test("an image that recovery has found changed stays changed, by the flush for 'redo log: renewed'", async () => {
  expect(await endsAfterRecovery("amend 1 device, and back", liftsFence, [])).toBe(1);
  const muted = ["redo log: renewed"];
  expect(await endsAfterRecovery("amend 1 device, and back", liftsFence, muted)).toBeGreaterThan(1);
});

test("nothing of a workspace that was just made is called lost, by the flush for 'folders in .imgtx'", async () => {
  const { plan, subject } = await trialOf(findScenario("make a workspace"));
  const saysLost = async (muted: readonly string[]): Promise<boolean> => {
    const { start, log } = await record(plan, subject, new Set(muted));
    const ends = await endsOf(start, log.slice(0, log.findIndex(movesTable) + 1), subject);
    return ends.some(({ text }) => text.includes("which was lost"));
  };
  expect(await saysLost([])).toBe(false);
  expect(await saysLost(["folders in .imgtx"])).toBe(true);
});

test("what was taken back is not taken back once more, by the flush for 'undone'", async () => {
  const { plan, subject } = await trialOf(findScenario("savepoint and rollback-to"));
  const isToldAgain = async (muted: readonly string[]): Promise<boolean> => {
    const { start, log, steps } = await record(plan, subject, new Set(muted));
    const rollback = steps.find(({ step }) => step.argv.includes("rollback-to"));
    const ends = await endsOf(start, log.slice(0, rollback?.to), subject);
    return ends.some(({ text }) => text.includes("undid the interrupted"));
  };
  expect(await isToldAgain([])).toBe(false);
  expect(await isToldAgain(["undone"])).toBe(true);
});

// A guest writes after the table has gone over to its mirror, and recovery dies as it brings that along.
test("what recovery brings into a mirror is told from a guest's, by the flush for \"renewed table's name\"", async () => {
  const { plan, subject } = await trialOf(findScenario("go over to a raw mirror that is out of line"));
  const exits = async (muted: readonly string[]): Promise<ReadonlySet<number | undefined>> => {
    const { start, log } = await record(plan, subject);
    const from = { durable: start, boots: 2, boot: RECORDED_BOOT, mutedPurposes: new Set(muted) };
    const machine = new SimulatedMachine({ ...from, log: log.slice(0, log.findIndex(movesTable) + 1) });
    const write = await subject.startGuest?.(machine, "vdb", "data");
    expect(write).toBeDefined();
    const died = machine.log.length;
    await runOn(machine, subject, subject.recover);
    const brings = machine.log.findIndex(
      ({ kind, path }, at) =>
        at >= died && kind === "write" && path !== write?.image && !path.includes(".imgtx"),
    );
    expect(brings).toBeGreaterThan(0);
    const ends = await endsOf(start, machine.log.slice(0, brings + 1), subject);
    return new Set(ends.map(({ exit }) => exit));
  };
  expect(await exits([])).toEqual(new Set([0]));
  expect((await exits(["renewed table's name"])).size).toBe(2);
});

// `--txn-id`: a command that is cut off at each call, by a dead process or a power cut, and run again with the same id, is
// applied once, whatever the crash left.

import { expect, test } from "vitest";
import { trialOf } from "../command-line.ts";
import { applyChange } from "../simulated/disk-log.ts";
import { DiskStates } from "../simulated/disk-states.ts";
import { record, RECORDED_BOOT } from "../simulated/recording.ts";
import { SimulatedMachine } from "../simulated/simulated-disk.ts";
import { runOn, type Subject } from "../subject.ts";
import { onTwo, step } from "./sample-devices.ts";

const LIMITS = { exhaustiveItems: 1, randomSubsets: 1, most: 2 };

interface Answer {
  readonly changed: boolean;
  readonly generation: number;
  readonly applied?: string;
}

/** Runs it again, and then once more: the first of the two may do it, and the second says what was done. */
async function retry(machine: SimulatedMachine, subject: Subject, line: string): Promise<readonly Answer[]> {
  const answers: Answer[] = [];
  for (const _ of [1, 2]) {
    const { exit, text } = await runOn(machine, subject, [...line.split(" "), "--json"]);
    expect(exit, text).toBe(0);
    // What it has recovered stands beside it.
    const printed = text.slice(text.indexOf("{\n"), text.lastIndexOf("\n}") + 2);
    answers.push(JSON.parse(printed) as Answer);
  }
  return answers;
}

test.each([
  ["snapshot-group vda vdb --txn-id nightly"],
  ["rollback vda --to before --discard --yes --txn-id back"],
])("after a crash at any call, %s is applied once", async (line) => {
  const scenario = onTwo("once", [step(line)]);
  const prepare = [...(scenario.prepare ?? []), step("snapshot-group vda vdb --name before")];
  const { plan, subject } = await trialOf({ ...scenario, prepare });
  const recording = await record(plan, subject);
  const states = new DiskStates(recording.start);
  const cached = recording.start.fork();
  const seen = new Set<string>();
  const found = { already: 0, anew: 0 };
  const judge = async (machine: SimulatedMachine): Promise<void> => {
    const [first, second] = await retry(machine, subject, line);
    expect(first?.changed).toBe(first?.applied === undefined);
    expect(second).toMatchObject({
      changed: false,
      generation: first?.generation,
      applied: expect.any(String),
    });
    found[first?.changed ? "anew" : "already"] += 1;
    // The devices, the snapshot before, and this.
    expect(first?.generation).toBe(4);
  };
  for (const [point, change] of recording.log.entries()) {
    for (const { tree, key } of states.states(LIMITS, point)) {
      if (seen.has(key)) continue;
      seen.add(key);
      await judge(new SimulatedMachine({ durable: tree, boots: 2 }));
    }
    states.advance(change);
    applyChange(cached, change);
    if (change.kind === "flush") continue;
    const log = recording.log.slice(0, point + 1);
    const left = { durable: recording.start, log, cached: cached.fork(), boots: 2, boot: RECORDED_BOOT };
    await judge(new SimulatedMachine(left));
  }
  expect(found.anew).toBeGreaterThan(2);
  expect(found.already).toBeGreaterThan(2);
});

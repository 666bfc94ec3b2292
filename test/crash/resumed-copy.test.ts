// A copy that is cut off at each call, and gone on with by the same command.
//
// The explorer knows of two outcomes of a command, and an unfinished copy that is kept is a third. So this one
// runs the command again behind each crash: whatever was kept, the mirror must be what it is without a crash,
// and nothing may lie around.

import { describe, expect, test } from "vitest";
import { trialOf } from "./command-line.ts";
import { COPIES, MARK_ALWAYS } from "./copy-scenarios.ts";
import { applyChange } from "./disk-log.ts";
import { DiskStates } from "./disk-states.ts";
import { record, type Recording } from "./recording.ts";
import { addAll, filesOf, onTwo, step, TWO } from "./sample-devices.ts";
import { SimulatedMachine } from "./simulated-disk.ts";
import { startProcess } from "./simulated-process.ts";
import { observeCopy, runOn, type Subject } from "./subject.ts";

const LIMITS = { exhaustiveItems: 3, randomSubsets: 4, most: 12 };

async function goOn(machine: SimulatedMachine, subject: Subject, line: string): Promise<string> {
  const kept = await runOn(machine, subject, ["recover"]);
  expect(kept.exit, kept.text).toBe(0);
  const again = await runOn(machine, subject, line.split(" "));
  expect(again.exit, again.text).toBe(0);
  return withoutLayout(await observeCopy(machine, subject));
}

/** The machine behind the last crash of the recorded copy from which it is kept. */
async function keepCopy(recording: Recording, subject: Subject): Promise<SimulatedMachine> {
  const cached = recording.start.fork();
  let kept: SimulatedMachine | undefined;
  for (const [point, change] of recording.log.entries()) {
    const log = recording.log.slice(0, point);
    const dead = new SimulatedMachine({ durable: recording.start, log, cached: cached.fork(), boots: 2 });
    const { text } = await runOn(dead, subject, ["recover"]);
    if (text.includes("kept the unfinished copy")) kept = dead;
    applyChange(cached, change);
  }
  if (!kept) throw new Error("the copy is never kept");
  return kept;
}

/** The mirrors' guest content is a fact of its own: a copy that goes on lays its clusters out in another order. */
function withoutLayout(observed: string): string {
  return observed.replaceAll(/^(file \S*\/[mn]\.(?:qcow2|raw|data) mode \d+) .*$/gm, "$1");
}

describe("behind a crash at any call, the same command makes what it makes without one", () => {
  test.each(COPIES)("%s", async (name, line) => {
    const scenario = onTwo(name, [step(line)], { files: filesOf(TWO), prepare: addAll(TWO) });
    const { plan, subject } = await trialOf(scenario, MARK_ALWAYS);
    const recording = await record(plan, subject);
    const [recorded] = recording.steps;
    if (!recorded) throw new Error("the copy was recorded");
    const after = withoutLayout(recorded.after);
    const states = new DiskStates(recording.start);
    const cached = recording.start.fork();
    let resumed = 0;
    for (const [point, change] of recording.log.entries()) {
      for (const { tree } of states.states(LIMITS, point)) {
        const machine = new SimulatedMachine({ durable: tree, boots: 2 });
        expect(await goOn(machine, subject, line)).toBe(after);
      }
      const log = recording.log.slice(0, point);
      const dead = new SimulatedMachine({ durable: recording.start, log, cached: cached.fork(), boots: 2 });
      const { text } = await runOn(dead, subject, ["recover"]);
      if (text.includes("kept the unfinished copy")) resumed += 1;
      expect(await goOn(dead, subject, line)).toBe(after);
      states.advance(change);
      applyChange(cached, change);
    }
    expect(resumed).toBeGreaterThan(2);
  });
});

describe("an unfinished copy", () => {
  test.each(COPIES)(
    "whose files are gone begins anew, and a crash leads to no mark of theirs: %s",
    async (name, line) => {
      const scenario = onTwo(name, [step(line)], { files: filesOf(TWO), prepare: addAll(TWO) });
      const { plan, subject } = await trialOf(scenario, MARK_ALWAYS);
      const first = await record(plan, subject);
      const after = withoutLayout(first.steps[0]?.after ?? "");
      const kept = await keepCopy(first, subject);
      const storage = startProcess(kept);
      for (const file of await storage.readFolder("/disks/ws")) {
        if (/^\.imgtx-[a-z0-9]{10}-/.test(file)) await storage.removeFile(`/disks/ws/${file}`);
      }
      // Without marks of its own: those of the lost files must not stand in for them.
      const seldom = await trialOf(scenario);
      const again = { name, disk: kept.tree, prepare: [], steps: plan.steps };
      const second = await record(again, seldom.subject);
      const cached = second.start.fork();
      for (const [point, change] of second.log.entries()) {
        const log = second.log.slice(0, point);
        const dead = new SimulatedMachine({ durable: second.start, log, cached: cached.fork(), boots: 3 });
        expect(await goOn(dead, subject, line)).toBe(after);
        applyChange(cached, change);
      }
    },
  );

  test.each(["mirror --cancel vda", "device remove vda"])(
    "is removed by %s, and nothing else is",
    async (end) => {
      const line = "mirror vda m.qcow2";
      const { plan, subject } = await trialOf(
        onTwo("a copy", [step(line)], { prepare: addAll(TWO) }),
        MARK_ALWAYS,
      );
      const recording = await record(plan, subject);
      const cached = recording.start.fork();
      let removed = 0;
      for (const [point, change] of recording.log.entries()) {
        const log = recording.log.slice(0, point);
        const dead = new SimulatedMachine({ durable: recording.start, log, cached: cached.fork(), boots: 2 });
        const { text } = await runOn(dead, subject, ["recover"]);
        if (text.includes("kept the unfinished copy")) {
          const { exit } = await runOn(dead, subject, end.split(" "));
          expect(exit).toBe(0);
          expect(subject.files(dead.tree)).toBe(subject.files(recording.start));
          removed += 1;
        }
        applyChange(cached, change);
      }
      expect(removed).toBeGreaterThan(2);
    },
  );
});

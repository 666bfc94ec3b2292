// A copy that is cut off at each call, and gone on with by the same command.
//
// The explorer knows of two outcomes of a command, and an unfinished copy that is kept is a third. So this one
// runs the command again after each crash: whatever was kept, the mirror must be what it is without a crash,
// and nothing may lie around.
//
// A copy is cut off where none before it was, at calls of another kind, and at sixteen in any case; at each of them with
// IMGTX_TEST_EVERY_CALL=1. Torture kills real processes at each.

import { describe, expect, test } from "vitest";
import { type Boundaries, BoundaryKinds } from "../simulated/boundary-kinds.ts";
import { trialOf } from "../command-line.ts";
import { COPIES, MARK_ALWAYS } from "./copy-scenarios.ts";
import { applyChange } from "../simulated/disk-log.ts";
import { imageIn } from "../judges/observation.ts";
import { DiskStates } from "../simulated/disk-states.ts";
import { record, RECORDED_BOOT, type Recording } from "../simulated/recording.ts";
import { addAll, onTwo, step, TWO } from "./sample-devices.ts";
import { SimulatedMachine } from "../simulated/simulated-disk.ts";
import { startProcess } from "../simulated/simulated-process.ts";
import { observeCopy, runOn, type Subject } from "../subject.ts";

/** The process alone is gone: the host goes on. */
const DIED = { boots: 2, boot: RECORDED_BOOT };
const LIMITS = { exhaustiveItems: 3, randomSubsets: 4, most: 12 };

/** One for each kind of test: what the copies before have in common with one is cut off there. */
function makeKinds(): Boundaries {
  const isWhole = process.env["IMGTX_TEST_EVERY_CALL"] === "1";
  return new BoundaryKinds({ most: isWhole ? Number.POSITIVE_INFINITY : 1, always: 16 });
}

function pointsOf(recording: Recording, kinds: Boundaries): ReadonlySet<number> {
  const [recorded] = recording.steps;
  if (recorded === undefined) throw new Error("it has a step");
  return kinds.choose(recording, recorded);
}

/** What the recorded command may lead to, but for the layout of its copies. */
interface Ends {
  readonly done: string;
  /** Where it ran again, of itself or because somebody may have written unseen: one generation more, and no more. */
  readonly again: string;
}

async function endsOf(recording: Recording, subject: Subject, line: string): Promise<Ends> {
  const { start, log } = recording;
  const anew = new SimulatedMachine({
    durable: new SimulatedMachine({ durable: start, log }).tree,
    boots: 3,
  });
  const { exit, text } = await runOn(anew, subject, line.split(" "));
  expect(exit, text).toBe(0);
  return {
    done: withoutLayout(recording.steps[0]?.after ?? ""),
    again: withoutLayout(await observeCopy(anew, subject)),
  };
}

/** Recovers, runs the command again, and holds what it leaves against what recovery left. */
async function goOn(machine: SimulatedMachine, subject: Subject, line: string, ends: Ends): Promise<void> {
  const kept = await runOn(machine, subject, ["recover"]);
  expect(kept.exit, kept.text).toBe(0);
  await goOnFrom(machine, subject, line, ends);
}

/** The same where recovery has run. */
async function goOnFrom(
  machine: SimulatedMachine,
  subject: Subject,
  line: string,
  { done, again }: Ends,
): Promise<void> {
  const isDone = withoutLayout(await observeCopy(machine, subject)) === done;
  const { exit, text } = await runOn(machine, subject, line.split(" "));
  expect(exit, text).toBe(0);
  const end = withoutLayout(await observeCopy(machine, subject));
  // After a finished copy the second one may find a doubt, and be a change; else it is the first that is done.
  if (!isDone || end !== again) expect(end).toBe(done);
}

/**
 * The machines that a process's death leaves at each call of the recorded copy, with recovery run; the last one first. A
 * flush changes nothing of what it leaves.
 */
async function* recoverEach(
  { start, log }: Recording,
  subject: Subject,
  points?: ReadonlySet<number>,
): AsyncGenerator<{ dead: SimulatedMachine; isKept: boolean }> {
  const cached = start.fork();
  const trees = log.map((change) => {
    const before = cached.fork();
    applyChange(cached, change);
    return before;
  });
  for (const [point, tree] of [...trees.entries()].toReversed()) {
    if (points?.has(point) === false || log[point - 1]?.kind === "flush") continue;
    const dead = new SimulatedMachine({ durable: start, log: log.slice(0, point), cached: tree, ...DIED });
    const { exit, text } = await runOn(dead, subject, ["recover"]);
    expect(exit, text).toBe(0);
    yield { dead, isKept: text.includes("kept the unfinished copy") };
  }
}

/** The machine after the last crash of the recorded copy from which it is kept. */
async function keepCopy(recording: Recording, subject: Subject): Promise<SimulatedMachine> {
  for await (const { dead, isKept } of recoverEach(recording, subject)) if (isKept) return dead;
  throw new Error("the copy is never kept");
}

function idOfKept(machine: SimulatedMachine): string | undefined {
  const { inode } = machine.tree.lookUp("/disks/ws/.imgtx/journal", false);
  return [...(inode?.names.keys() ?? [])].find((name) => name.endsWith(".journal"))?.split(".")[0];
}

function idOfTable(machine: SimulatedMachine): unknown {
  const table = imageIn(machine.tree, "/disks/ws/.imgtx/table.json");
  const text = Buffer.from(table.read(0, table.sizeBytes)).toString();
  return /"transaction":\s*"([^"]*)"/.exec(text)?.[1];
}

/** The mirrors' guest content is a fact of its own: a copy that goes on lays its clusters out in another order. */
function withoutLayout(observed: string): string {
  return observed.replaceAll(/^(file \S*\/[mn]\.(?:qcow2|raw|data) mode \d+) .*$/gm, "$1");
}

describe("after a crash at any call, the same command goes on, and makes what it makes without one", () => {
  const kinds = makeKinds();
  test.each(COPIES)("%s", async (name, line) => {
    const scenario = onTwo(name, [step(line)]);
    const { plan, subject } = await trialOf(scenario, MARK_ALWAYS);
    const recording = await record(plan, subject);
    const ends = await endsOf(recording, subject, line);
    const states = new DiskStates(recording.start);
    const points = pointsOf(recording, kinds);
    let resumed = 0;
    const seen = new Set<string>();
    for (const [point, change] of recording.log.entries()) {
      for (const { tree, key } of points.has(point) ? states.states(LIMITS, point) : []) {
        // Between two flushes many calls leave the same disks.
        if (seen.has(key)) continue;
        seen.add(key);
        const machine = new SimulatedMachine({ durable: tree, boots: 2 });
        await goOn(machine, subject, line, ends);
      }
      states.advance(change);
    }
    for await (const { dead, isKept } of recoverEach(recording, subject, points)) {
      const kept = isKept ? idOfKept(dead) : undefined;
      await goOnFrom(dead, subject, line, ends);
      if (kept === undefined) continue;
      expect(idOfTable(dead)).toBe(kept);
      resumed += 1;
    }
    expect(resumed).toBeGreaterThan(0);
  });
});

describe("an unfinished copy", () => {
  test("goes on also where its device gets a bitmap", async () => {
    const line = "mirror vda m.qcow2 --bitmap";
    const scenario = onTwo("a copy with a bitmap", [step(line)], { changing: { "ws/a.qcow2": "qcow2" } });
    const { plan, subject } = await trialOf(scenario, MARK_ALWAYS);
    const recording = await record(plan, subject);
    const machine = await keepCopy(recording, subject);
    const kept = idOfKept(machine);
    await goOn(machine, subject, line, await endsOf(recording, subject, line));
    expect(idOfTable(machine)).toBe(kept);
  });

  const kindsOfLost = makeKinds();
  test.each(COPIES)(
    "whose files are gone begins anew, and a crash leads to no mark of theirs: %s",
    async (name, line) => {
      const scenario = onTwo(name, [step(line)], {
        prepare: addAll(TWO),
        changing: { "ws/a.qcow2": "qcow2" },
      });
      const { plan, subject } = await trialOf(scenario, MARK_ALWAYS);
      const first = await record(plan, subject);
      const kept = await keepCopy(first, subject);
      const storage = startProcess(kept);
      for (const file of await storage.readFolder("/disks/ws")) {
        if (/^\.imgtx-[a-z0-9]{10}-/.test(file)) await storage.removeFile(`/disks/ws/${file}`);
      }
      // Without marks of its own: those of the lost files must not stand in for them.
      const seldom = await trialOf(scenario);
      const again = { name, disk: kept.tree, prepare: [], steps: plan.steps };
      const second = await record(again, seldom.subject);
      const ends = await endsOf(second, subject, line);
      const points = pointsOf(second, kindsOfLost);
      const cached = second.start.fork();
      for (const [point, change] of second.log.entries()) {
        const before = cached.fork();
        applyChange(cached, change);
        if (!points.has(point)) continue;
        const log = second.log.slice(0, point);
        const dead = new SimulatedMachine({
          durable: second.start,
          log,
          cached: before,
          ...DIED,
          boots: 3,
        });
        await goOn(dead, subject, line, ends);
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
      let removed = 0;
      const points = pointsOf(recording, makeKinds());
      for await (const { dead, isKept } of recoverEach(recording, subject, points)) {
        if (!isKept) continue;
        const { exit } = await runOn(dead, subject, end.split(" "));
        expect(exit).toBe(0);
        expect(subject.files(dead.tree)).toBe(subject.files(recording.start));
        removed += 1;
      }
      expect(removed).toBeGreaterThan(0);
    },
  );
});

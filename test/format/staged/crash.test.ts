// A power cut at any moment while a log is made, carried out, renewed or removed: what was promised by then is on the
// disk, and the next application ends in the image that the log says. Each flush is needed for that.

import { describe, expect, test } from "vitest";
import {
  applyLog,
  type Guard,
  RedoLog,
  removeRedoLog,
  renewApplied,
  type SealedLog,
  surveyImage,
} from "../../../src/format/staged/index.ts";
import { DiskStates } from "../../crash/simulated/disk-states.ts";
import { Tree } from "../../crash/simulated/disk-tree.ts";
import { imageIn } from "../../crash/judges/observation.ts";
import { afterProcessDeath, SimulatedMachine } from "../../crash/simulated/simulated-disk.ts";
import { startProcess } from "../../crash/simulated/simulated-process.ts";
import { firstDifference } from "./file-cases.ts";
import { type Change, CHANGES, IMAGE, imageOf, resultOf, stageChange } from "./changes.ts";

const LIMITS = { exhaustiveItems: 7, randomSubsets: 16, most: 160 };
const NOTHING: ReadonlySet<string> = new Set();

interface Ready {
  /** With the image, its log and its fence on it, durably. */
  readonly disk: Tree;
  readonly sealed: SealedLog;
  readonly guard: Guard;
  readonly result: Buffer;
}

async function diskWithImage(change: Change): Promise<Tree> {
  const machine = new SimulatedMachine({ durable: new Tree() });
  const storage = startProcess(machine);
  await storage.makeFolder("/disks", 0o755);
  const file = await storage.createFile(IMAGE, 0o644);
  await file.write(imageOf(change.sizeBytes), 0);
  await file.close();
  return machine.tree;
}

async function makeReady(change: Change): Promise<Ready> {
  const machine = new SimulatedMachine({ durable: await diskWithImage(change) });
  const storage = startProcess(machine);
  const { sealed, guard } = await stageChange(storage, change);
  if (guard.kind === "fence") {
    const file = await storage.openFile(IMAGE, "write");
    await file.write(guard.fence!.after, guard.fence!.offset);
    await file.close();
  }
  return { disk: machine.tree, sealed, guard, result: resultOf(change) };
}

const bytesOf = (tree: Tree): Buffer => {
  const image = imageIn(tree, IMAGE);
  return Buffer.from(image.read(0, image.sizeBytes));
};

/** Runs the work with the log and the image open. */
async function withBoth(
  machine: SimulatedMachine,
  { sealed }: Pick<Ready, "sealed">,
  work: (
    log: RedoLog,
    file: Awaited<ReturnType<ReturnType<typeof startProcess>["openFile"]>>,
  ) => Promise<void>,
): Promise<void> {
  const storage = startProcess(machine);
  const log = await RedoLog.open(storage, `/disks/${sealed.log}`, sealed.end, "read");
  const file = await storage.openFile(IMAGE, "write");
  await work(log, file);
  await log.close();
  await file.close();
}

/** What recovery makes of a disk; undefined where that is right. */
async function recover(disk: Tree, ready: Ready): Promise<string | undefined> {
  const machine = new SimulatedMachine({ durable: disk });
  let problem: string | undefined;
  await withBoth(machine, ready, async (log, file) => {
    const { state } = await surveyImage(log, file, ready.guard);
    if (state === "foreign" || state === "used") problem = `the survey says ${state}`;
    else if (state !== "applied") await applyLog(log, file, ready.guard);
  });
  const difference = firstDifference(bytesOf(machine.tree), ready.result);
  return problem ?? (difference && `recovered to ${difference}`);
}

/** Judges the disk after each call of the log, in all states that a power cut may leave. */
async function judgeCalls(
  machine: SimulatedMachine,
  judge: (disk: Tree, isLast: boolean) => Promise<string | undefined>,
): Promise<string | undefined> {
  const states = new DiskStates(machine.durable);
  for (const [call, change] of machine.log.entries()) {
    states.advance(change);
    for (const state of states.states(LIMITS, 1000 + call)) {
      const problem = await judge(state.tree, call + 1 === machine.log.length);
      if (problem !== undefined) {
        return `after call ${call + 1} of ${machine.log.length}: ${problem}; missing: ${state.missing.join(", ")}`;
      }
    }
  }
  return undefined;
}

async function cutApplying(change: Change, mutedPurposes: ReadonlySet<string>): Promise<string | undefined> {
  const ready = await makeReady(change);
  const machine = new SimulatedMachine({ durable: ready.disk, mutedPurposes });
  await withBoth(machine, ready, async (log, file) => await applyLog(log, file, ready.guard));
  expect(machine.log.length).toBeGreaterThan(3);
  return await judgeCalls(machine, async (disk, isLast) => {
    if (isLast && !bytesOf(disk).equals(ready.result)) return "it was called applied, and is not durable";
    return await recover(disk, ready);
  });
}

async function cutSealing(change: Change, mutedPurposes: ReadonlySet<string>): Promise<string | undefined> {
  const machine = new SimulatedMachine({ durable: await diskWithImage(change), mutedPurposes });
  const { sealed } = await stageChange(startProcess(machine), change);
  const image = imageOf(change.sizeBytes);
  return await judgeCalls(machine, async (disk, isLast) => {
    if (!bytesOf(disk).equals(image)) return "the image was touched";
    if (!isLast) return undefined;
    try {
      const storage = startProcess(new SimulatedMachine({ durable: disk }));
      await RedoLog.open(storage, `/disks/${sealed.log}`, sealed.end, "read");
      return undefined;
    } catch (error) {
      return String(error);
    }
  });
}

/** A flush fails, the process dies, and the next one finds in the page cache what is not on the disk. */
async function renewAfterFailure(
  change: Change,
  mutedPurposes: ReadonlySet<string>,
): Promise<string | undefined> {
  const ready = await makeReady(change);
  const first = new SimulatedMachine({ durable: ready.disk });
  const last = await countCalls(ready);
  first.arm({ call: last - 1, kind: "io", stays: false });
  await expect(
    withBoth(first, ready, async (log, file) => await applyLog(log, file, ready.guard)),
  ).rejects.toMatchObject({ code: "E_IO" });
  const machine = afterProcessDeath(first, { mutedPurposes });
  await withBoth(machine, ready, async (log, file) => {
    expect((await surveyImage(log, file, ready.guard)).state).toBe("applied");
    await renewApplied(log, file);
  });
  return await judgeCalls(machine, async (disk, isLast) =>
    isLast && !bytesOf(disk).equals(ready.result) ? "it was renewed, and is not durable" : undefined,
  );
}

async function countCalls(ready: Ready): Promise<number> {
  const machine = new SimulatedMachine({ durable: ready.disk });
  await withBoth(machine, ready, async (log, file) => await applyLog(log, file, ready.guard));
  return machine.log.length;
}

async function cutRemoving(change: Change, mutedPurposes: ReadonlySet<string>): Promise<string | undefined> {
  const { disk, sealed } = await makeReady(change);
  const machine = new SimulatedMachine({ durable: disk, mutedPurposes });
  await removeRedoLog(startProcess(machine), `/disks/${sealed.log}`);
  return await judgeCalls(machine, async (tree, isLast) => {
    const found = await startProcess(new SimulatedMachine({ durable: tree })).stat(`/disks/${sealed.log}`);
    return isLast && found ? "the log is there again" : undefined;
  });
}

const PHASES = { cutSealing, cutApplying, renewAfterFailure, cutRemoving };

describe("a power cut", () => {
  test.each(CHANGES)(
    "while a log is made leaves the image, and a sealed log is there: %s",
    async (_, change) => {
      expect(await cutSealing(change, NOTHING)).toBeUndefined();
    },
  );

  test.each(CHANGES)("while a log is applied ends in what it says: %s", async (_, change) => {
    expect(await cutApplying(change, NOTHING)).toBeUndefined();
  });

  test.each(CHANGES)("after a failed flush takes nothing that was renewed: %s", async (_, change) => {
    expect(await renewAfterFailure(change, NOTHING)).toBeUndefined();
  });

  test("does not bring a log back that was removed", async () => {
    expect(await cutRemoving(CHANGES[0]![1], NOTHING)).toBeUndefined();
  });

  test.each([
    ["redo log", "cutSealing"],
    ["redo log's name", "cutSealing"],
    ["redo log: applied", "cutApplying"],
    ["redo log: fence lifted", "cutApplying"],
    ["redo log: renewed", "renewAfterFailure"],
    ["redo log removed", "cutRemoving"],
  ] as const)("would do harm without the flush of %s", async (purpose, phase) => {
    const found: (string | undefined)[] = [];
    for (const [, change] of CHANGES) found.push(await PHASES[phase](change, new Set([purpose])));
    expect(found.filter((problem) => problem !== undefined)).not.toEqual([]);
  });
});

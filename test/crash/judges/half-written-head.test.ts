// The first sector of a raw mirror on a device comes last: where writing it fails in its middle, the next command ends it.

import { expect, test } from "vitest";
import { trialOf } from "../command-line.ts";
import { DEVICE_SCENARIOS } from "../scenarios/device-scenarios.ts";
import { record } from "../simulated/recording.ts";
import { SimulatedMachine } from "../simulated/simulated-disk.ts";
import { runOn } from "../subject.ts";

const MIRROR = "/disks/images/vol-g";

test("a raw mirror whose first sector is half of each is ended, and is what the exit status said", async () => {
  const scenario = DEVICE_SCENARIOS.find(({ name }) => name.startsWith("two volumes mirrored onto volumes"));
  if (!scenario) throw new Error("the scenario is there");
  const { plan, subject } = await trialOf(scenario);
  const { start, log, steps } = await record(plan, subject);
  const mirroring = steps.find(({ step }) => step.argv.includes("mirror"));
  if (!mirroring) throw new Error("a step mirrors");
  const last = log.findLastIndex(
    (change, at) =>
      at < mirroring.to && change.kind === "write" && change.path === MIRROR && change.offset === 0,
  );
  const machine = new SimulatedMachine({ durable: start, log: log.slice(0, mirroring.from), boots: 2 });
  machine.arm({ call: last - mirroring.from, kind: "no-space", stays: false });
  const failed = await runOn(machine, subject, mirroring.step.argv);
  expect([failed.exit, failed.text]).toEqual([16, expect.stringContaining("vol-g")]);
  machine.disarm();
  const ended = await runOn(machine, subject, subject.recover);
  expect([ended.exit, ended.text]).toEqual([0, expect.not.stringContaining("could not be brought in sync")]);
  const contentOf = (path: string): string => {
    const { inode } = machine.tree.lookUp(path, true);
    return inode === undefined ? "nothing" : machine.tree.get(inode.number).content.digest();
  };
  expect(contentOf(MIRROR)).toEqual(contentOf("/disks/images/vol-b"));
});

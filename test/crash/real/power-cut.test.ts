// A slice of the power cuts on real file systems: a copy that keeps marks, and the steps of a migration.
// `npm run torture -- power` cuts all of them, as often as there is time.

import { describe, expect } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { PROGRAM } from "../../helpers/program.ts";
import { findCopy } from "../scenarios/copy-scenarios.ts";
import { cutCopy, cutPower } from "./power-cut.ts";
import { groupViolations } from "../report.ts";
import { findScenario } from "../scenarios/scenarios.ts";

const { test } = oracle("root", "loops", "mkfs.ext4", "mkfs.xfs", "strace", "qemu-img");
const OPTIONS = { program: PROGRAM, seed: 3, deadline: Number.POSITIVE_INFINITY };

describe("a power cut", () => {
  test("leaves a copy that goes on after its mark, or nothing of it", async () => {
    const report = await cutCopy(findCopy("a long raw copy"), {
      ...OPTIONS,
      fileSystem: "ext4",
      rounds: 12,
    });
    expect(groupViolations(report.violations)).toEqual([]);
    expect(report.cuts).toBe(12);
    expect(report.kept).toBeGreaterThan(0);
  });

  test("in any step of a migration leaves every disk before or after", async () => {
    const report = await cutPower(findScenario("migrate, mirror and reopen"), {
      ...OPTIONS,
      fileSystem: "xfs",
      rounds: 9,
    });
    expect(groupViolations(report.violations)).toEqual([]);
    expect(report.cuts).toBe(9);
    expect(report.during).toBeGreaterThan(0);
  });
});

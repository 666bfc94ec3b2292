// A slice of the rig: a group of two killed at every boundary, with some errors, and a transaction.

import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { groupViolations } from "../report.ts";
import { findScenario } from "../scenarios.ts";
import { buildProgram, type BuiltProgram } from "./built-program.ts";
import { studyScenario } from "./study.ts";

const strace = oracle("strace");
const TIMEOUT_MS = 240_000;
const ERRORS_EVERY = 4;

let base = "";
let program: BuiltProgram;

beforeAll(async () => {
  base = realpathSync(mkdtempSync(`${tmpdir()}/imgtx-process-`));
  if (!strace.skip)
    program = await buildProgram(fileURLToPath(new URL("../../..", import.meta.url)), `${base}/app`);
});

afterAll(() => {
  rmSync(base, { recursive: true });
});

describe("the real process", () => {
  strace.test(
    "leaves a group of two wholly before or after, wherever it is killed and whatever call fails",
    async () => {
      const report = await studyScenario(findScenario("snapshot-group of 2"), program, {
        base,
        width: 3,
        deadline: Number.POSITIVE_INFINITY,
        qemuEvery: 0,
        chooses: (injection, number) =>
          injection === "kill" || number % ERRORS_EVERY === (injection === "EIO" ? 0 : 2),
      });
      console.log(report.figures);
      expect(groupViolations(report.violations)).toEqual([]);
      expect(report.figures.kills).toBeGreaterThan(30);
      expect(report.figures.errors).toBeGreaterThan(10);
    },
    TIMEOUT_MS,
  );
});

// The real process: killed at each system call of a group snapshot of two devices, and with calls of a smaller
// one that fail, every fourth. `npm run torture` does both for every scenario, to their end.

import { describe, expect, test } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { PROGRAM } from "../../helpers/program.ts";
import { findCopy } from "../scenarios/copy-scenarios.ts";
import { tryCopy, tryProcess } from "./real-process.ts";
import { describeViolation } from "../report.ts";
import { findScenario } from "../scenarios/scenarios.ts";
import { readTrace } from "./strace.ts";

const strace = oracle("strace", "qemu-img");

describe("a real process", () => {
  strace.test("killed at any system call leaves every disk before or after", async () => {
    const report = await tryProcess(findScenario("snapshot-group of 2"), {
      program: PROGRAM,
      kinds: ["KILL"],
      deadline: Number.POSITIVE_INFINITY,
      askQemu: true,
    });
    expect(report.violations.map(describeViolation)).toEqual([]);
    expect(report.figures.kills).toBeGreaterThan(20);
    expect(report.figures.missed).toBe(0);
  });

  strace.test(
    "joins the open transaction of its session, and killed in it leaves it open, or ended",
    async () => {
      const report = await tryProcess(findScenario("begin, snapshot, abort"), {
        program: PROGRAM,
        kinds: ["KILL"],
        steps: [2],
        stride: 6,
        deadline: Number.POSITIVE_INFINITY,
        askQemu: false,
      });
      expect(report.violations.map(describeViolation)).toEqual([]);
      expect(report.figures.kills).toBeGreaterThan(0);
    },
  );

  strace.test(
    "that sees a call fail undoes all, or says that it is committed, and its status is right",
    async () => {
      const report = await tryProcess(findScenario("snapshot-group of 1"), {
        program: PROGRAM,
        kinds: ["EIO", "ENOSPC"],
        stride: 4,
        deadline: Number.POSITIVE_INFINITY,
        askQemu: true,
      });
      expect(report.violations.map(describeViolation)).toEqual([]);
      expect(report.figures.errors).toBeGreaterThan(5);
      expect(report.figures.missed).toBe(0);
    },
  );

  strace.test(
    "killed amid a copy that keeps marks leaves it to be gone on with, or nothing of it",
    async () => {
      const report = await tryCopy(findCopy("a qcow2 copy"), {
        program: PROGRAM,
        kinds: ["KILL"],
        stride: 4,
        deadline: Number.POSITIVE_INFINITY,
        askQemu: true,
      });
      expect(report.violations.map(describeViolation)).toEqual([]);
      expect(report.figures.kills).toBeGreaterThan(9);
      expect(report.figures.kept).toBeGreaterThan(1);
      expect(report.figures.missed).toBe(0);
    },
  );
});

test("a trace is read by thread, name and path", () => {
  const trace = [
    '10 openat(AT_FDCWD</live/ws>, "/etc/passwd", O_RDONLY) = 3</etc/passwd>',
    '10 openat(AT_FDCWD</live/ws>, "/live/ws/.imgtx/journal/abcdefghij.new", O_RDWR|O_CREAT|O_EXCL, 0600) = 3</live/ws/x>',
    '10 pwrite64(3</live/ws/.imgtx/journal/abcdefghij.new>, "215 72f8"..., 10, 0) = 10',
    "11 fsync(3</live/ws/.imgtx/journal/abcdefghij.new> <unfinished ...>",
    '10 write(1<pipe:[5]>, "done", 4) = 4',
    "11 <... fsync resumed>) = -1 EIO (Input/output error) (INJECTED)",
    '10 rename("/live/ws/.imgtx/table.json.new", "/live/ws/.imgtx/table.json") = -1 EIO (Input/output error) (INJECTED)',
  ].join("\n");
  expect(readTrace(trace, "/live")).toEqual([
    { name: "openat", number: 2, label: "openat /ws/.imgtx/journal/ID.new", injected: false },
    { name: "pwrite64", number: 1, label: "pwrite64 /ws/.imgtx/journal/ID.new", injected: false },
    { name: "fsync", number: 1, label: "fsync /ws/.imgtx/journal/ID.new", injected: true },
    {
      name: "rename",
      number: 1,
      label: "rename /ws/.imgtx/table.json.new -> /ws/.imgtx/table.json",
      injected: true,
    },
  ]);
});

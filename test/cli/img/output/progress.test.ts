import { describe, expect, onTestFinished, test, vi } from "vitest";
import { ImgConsole } from "../../../../src/cli/img/output/console.ts";
import { drawFailure, failure, statusOf, usageError } from "../../../../src/cli/img/grammar/messages.ts";
import { startProgress } from "../../../../src/cli/img/output/progress.ts";
import { drawBar } from "../../../../src/cli/render/progress/bar.ts";
import { makeThrottle } from "../../../../src/cli/throttle.ts";
import { ImgtxError } from "../../../../src/errors/index.ts";

const GIB = 2 ** 30;
const form = {
  program: "imgtx",
  names: [],
  verbose: false,
  canForceShare: false,
  qemuVersion: 11,
  verb: undefined,
} as const;

function watch(
  terminal: number | undefined,
  options: { program?: "qemu-img"; asked?: boolean; quiet?: boolean },
) {
  const written = { stdout: "", stderr: "" };
  const outputTo = (name: "stdout" | "stderr") => ({
    write: (text: string) => {
      written[name] += text;
    },
    isTTY: terminal !== undefined,
    columns: terminal,
  });
  const context = { stdout: outputTo("stdout"), stderr: outputTo("stderr"), env: {} };
  let answer = (): void => undefined;
  const progress = startProgress(
    {
      program: options.program ?? "imgtx",
      asked: options.asked ?? false,
      quiet: options.quiet ?? false,
      stepPercent: 1,
      totalBytes: GIB,
    },
    {
      ...context,
      console: new ImgConsole(context, form),
      onProgressRequest: (handler) => {
        answer = handler;
        return () => {
          answer = () => undefined;
        };
      },
    },
  );
  return { progress, written, ask: () => answer() };
}

/** Stops the clock of bars. The function returned lets that many milliseconds pass. */
function stopClock(): (milliseconds: number) => void {
  let now = 0;
  const clock = vi.spyOn(performance, "now").mockImplementation(() => now);
  onTestFinished(() => {
    clock.mockRestore();
  });
  return (milliseconds) => void (now += milliseconds);
}

describe("progress", () => {
  test("is qemu-img's line under its name, by steps", () => {
    const { progress, written } = watch(undefined, { program: "qemu-img", asked: true });
    for (const share of [0.001, 0.002, 0.5, 0.501]) progress.update(share * GIB);
    progress.complete();
    progress.stop();
    expect(written.stdout).toBe("    (0.00/100%)\r    (50.00/100%)\r    (100.00/100%)\r\n");
    expect(written.stderr).toBe("");
  });

  test("is nothing where it was not asked for, but for a question", () => {
    const { progress, written, ask } = watch(undefined, {});
    progress.update(GIB / 4);
    ask();
    progress.stop();
    ask();
    expect(written).toEqual({ stdout: "", stderr: "    (25.00/100%)\n" });
  });

  test("is a bar on a terminal after a while, taken away in the end", () => {
    const pass = stopClock();
    const { progress, written } = watch(60, {});
    progress.update(GIB / 8);
    expect(written.stderr).toBe("");
    pass(299);
    progress.update(GIB / 6);
    expect(written.stderr).toBe("");
    pass(1);
    progress.update(GIB / 4);
    progress.stop();
    expect(written.stdout).toBe("");
    const [, drawn = "", rest] = written.stderr.split("\r");
    const expected = `\u001b[K[######${"-".repeat(18)}]  25 %  256 MiB of 1 GiB, `;
    expect(drawn.slice(0, expected.length)).toBe(expected);
    expect(drawn.length - 3).toBeLessThan(60);
    expect(rest).toBe("\u001b[K");
  });

  test("is no bar under --quiet, nor on a terminal of no width", () => {
    const pass = stopClock();
    for (const { progress, written } of [watch(60, { quiet: true }), watch(0, {})]) {
      progress.update(GIB / 8);
      pass(310);
      progress.update(GIB / 4);
      progress.stop();
      expect(written).toEqual({ stdout: "", stderr: "" });
    }
  });

  test("tells rate and time left", () => {
    expect(drawBar(GIB / 2, GIB, 2)).toBe(
      "[############------------]  50 %  512 MiB of 1 GiB, 256 MiB/s, 2 s left",
    );
    expect(drawBar(0, GIB, 2)).toBe("[------------------------]   0 %  0 B of 1 GiB, 0 B/s");
    expect(drawBar(GIB, 100 * GIB, 2)).toContain("3 min 18 s left");
    expect(drawBar(GIB, 10_000 * GIB, 2)).toContain("5 h 33 min left");
  });
});

describe("a message", () => {
  const names = [{ given: "d/a.qcow2", path: "/srv/d/a.qcow2" }];

  test("names files as they were given, and what lies beside them likewise", () => {
    const error = new ImgtxError("E_IO", "Could not read from '/srv/d/base.raw': Input/output error");
    expect(drawFailure(error, { ...form, names })).toEqual([
      "imgtx: Could not read from 'd/base.raw': Input/output error",
    ]);
  });

  test("has no control characters", () => {
    expect(drawFailure(failure("Could not open '\u001b[2J'"), form)).toEqual([
      "imgtx: Could not open '\\u{1b}[2J'",
    ]);
  });

  test("of a grammar error refers to the help, one of an option's value does not", () => {
    expect(drawFailure(usageError("so it is"), { ...form, program: "qemu-img" })).toEqual([
      "qemu-img: so it is",
      "Try 'qemu-img --help' for more information",
    ]);
    const value = new ImgtxError("E_USAGE", "so it is", { field: "cluster_size" });
    expect(drawFailure(value, form)).toEqual(["imgtx: so it is"]);
  });

  test("says where an image is corrupt", () => {
    const error = new ImgtxError("E_CORRUPT", "it is bad", { image: "/x", offset: 512, field: "l1_table" });
    expect(drawFailure(error, form)).toEqual(["imgtx: it is bad (offset 0x200, l1_table)"]);
  });

  test("of a bug says that it is one, and shows its stack only when asked", () => {
    expect(drawFailure(new TypeError("oops"), form)).toEqual(["imgtx: this is a bug in imgtx: oops"]);
    expect(
      drawFailure(new TypeError("oops"), { ...form, verbose: true, canForceShare: false }).length,
    ).toBeGreaterThan(2);
  });

  test("has its status: the command's own, or the shell's for a signal", () => {
    expect(statusOf(failure("x"), 2)).toBe(2);
    expect(statusOf(usageError("x"), 2)).toBe(1);
    expect(statusOf(new TypeError("x"), 2)).toBe(1);
    expect(statusOf(new ImgtxError("E_INTERRUPTED", "x"), 2)).toBe(130);
    expect(statusOf(new ImgtxError("E_TERMINATED", "x"), 2)).toBe(143);
  });
});

test("a rate is kept on the average", async () => {
  let now = 0;
  const throttle = makeThrottle(1000, {
    monotonicMs: () => now,
    sleep: async (milliseconds) => {
      now += milliseconds;
    },
  });
  for (let index = 0; index < 20; index += 1) await throttle?.(500);
  expect(now).toBeGreaterThanOrEqual(9000);
  expect(now).toBeLessThanOrEqual(10_000);
  expect(makeThrottle(undefined, { monotonicMs: () => 0, sleep: async () => undefined })).toBeUndefined();
});

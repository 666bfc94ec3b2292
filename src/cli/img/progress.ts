// How far a long command is: as qemu-img's `-p` prints it on stdout, as a bar on a terminal, and a line on
// stderr for SIGUSR1.
//
// Invariants
// - Nothing is drawn but on a terminal of known width, or where -p asks for qemu-img's lines.
// - A bar only from 300 ms on, and never on stdout, where a result may follow.

import type { CliContext } from "../context.ts";
import { isContinuousIntegration } from "../render/canvas.ts";
import { formatBytes, toTwoDecimals } from "../../units/index.ts";
import type { ImgConsole } from "./console.ts";
import type { ProgramName } from "./messages.ts";

export interface Progress {
  update(doneBytes: number): void;
  /** Done, wholly. */
  complete(): void;
  /** Takes the bar away, or ends qemu-img's line. Called in any case. */
  stop(): void;
}

export interface ProgressOptions {
  readonly program: ProgramName;
  /** -p, without -q. */
  readonly asked: boolean;
  readonly quiet: boolean;
  /** Percent between two of qemu-img's lines. */
  readonly stepPercent: number;
  readonly totalBytes: number;
  /** The line of 0 % is printed already. */
  readonly isBegun?: boolean;
}

const BAR_AFTER_MS = 300;
const BAR_EVERY_MS = 100;
const BAR_WIDTH = 24;

type Surroundings = Pick<CliContext, "stderr" | "env" | "onProgressRequest"> & {
  readonly console: ImgConsole;
};

/** Starts with 0 %. */
export function startProgress(options: ProgressOptions, surroundings: Surroundings): Progress {
  const { console, stderr, onProgressRequest } = surroundings;
  let doneBytes = 0;
  // Clusters that are compressed whole may be more than was counted.
  const percent = (): number =>
    options.totalBytes === 0 ? 0 : Math.min(100, (100 * doneBytes) / options.totalBytes);
  const drawing = startDrawing(options, surroundings);
  const stopAnswering = onProgressRequest?.(() => {
    drawing?.clear();
    stderr.write(`${lineOf(percent())}\n`);
  });
  let lastPrinted = 0;
  const print = (value: number): void => {
    if (!options.asked || drawing !== undefined) return;
    lastPrinted = value;
    console.print(`${lineOf(value)}\r`);
  };
  if (options.isBegun !== true) print(0);
  return {
    update(bytes) {
      doneBytes = bytes;
      drawing?.draw(bytes);
      if (percent() > lastPrinted + options.stepPercent) print(percent());
    },
    complete() {
      doneBytes = options.totalBytes;
      print(100);
    },
    stop() {
      stopAnswering?.();
      drawing?.clear();
      if (options.asked && drawing === undefined) console.print("\n");
    },
  };
}

function lineOf(percent: number): string {
  return `    (${toTwoDecimals(percent)}/100%)`;
}

interface Drawing {
  draw(doneBytes: number): void;
  clear(): void;
}

/** Under qemu-img's name only what that prints. */
function startDrawing(
  { program, quiet, totalBytes }: ProgressOptions,
  { stderr, env }: Surroundings,
): Drawing | undefined {
  const columns = stderr.columns ?? 0;
  const isTerminal = stderr.isTTY && columns > 0 && env["TERM"] !== "dumb" && !isContinuousIntegration(env);
  if (program === "qemu-img" || quiet || !isTerminal) return undefined;
  const started = performance.now();
  let drawnAt = started - BAR_EVERY_MS;
  let isDrawn = false;
  return {
    draw(doneBytes) {
      const now = performance.now();
      if (now - started < BAR_AFTER_MS || now - drawnAt < BAR_EVERY_MS) return;
      drawnAt = now;
      isDrawn = true;
      const line = drawBar(doneBytes, totalBytes, (now - started) / 1000);
      stderr.write(`\r\u001b[K${line.slice(0, columns - 1)}`);
    },
    clear() {
      if (isDrawn) stderr.write("\r\u001b[K");
    },
  };
}

/** `[#####…] 42 %  430 MiB of 1 GiB, 812 MiB/s, 1 s left` */
export function drawBar(doneBytes: number, totalBytes: number, seconds: number): string {
  const share = totalBytes === 0 ? 1 : Math.min(1, doneBytes / totalBytes);
  const filled = Math.round(share * BAR_WIDTH);
  const rate = doneBytes / seconds;
  const left = rate > 0 ? `, ${describeSeconds((totalBytes - doneBytes) / rate)} left` : "";
  const bar = "#".repeat(filled) + "-".repeat(BAR_WIDTH - filled);
  return (
    `[${bar}] ${String(Math.floor(share * 100)).padStart(3)} %  ` +
    `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}, ${formatBytes(rate)}/s${left}`
  );
}

function describeSeconds(seconds: number): string {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.ceil(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

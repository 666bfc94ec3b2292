// How far a long command is: as qemu-img's `-p` prints it on stdout, as a bar on a terminal, and a line on
// stderr for SIGUSR1.
//
// Invariants
// - Nothing is drawn but on a terminal of known width, or where -p asks for qemu-img's lines.
// - A bar only from 300 ms on, and never on stdout, where a result may follow.

import type { CliContext } from "../context.ts";
import { startBar } from "../render/bar.ts";
import { toTwoDecimals } from "../../units/index.ts";
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
  const drawing = options.program === "qemu-img" || options.quiet ? undefined : startBar(surroundings);
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
      drawing?.draw(bytes, options.totalBytes);
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

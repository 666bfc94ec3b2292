// How far a long command is: as qemu-img's `-p` prints it on stdout, as a bar on a terminal, and a line on
// stderr for SIGUSR1.
//
// Invariants
// - Nothing is drawn but on a terminal of known width, or where -p asks for qemu-img's lines.
// - A bar only from 300 ms on, and never on stdout, where a result may follow.

import type { CliContext } from "../../context.ts";
import { startBar } from "../../render/progress/bar.ts";
import { makeTeller } from "../../render/progress/json-progress.ts";
import { toTwoDecimals } from "../../../units/index.ts";
import type { ImgConsole } from "./console.ts";
import type { ProgramName } from "../grammar/messages.ts";

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
  /** An object each second was asked for, on stderr. */
  readonly asJson?: boolean;
  /** The line of 0 % is printed already. */
  readonly isBegun?: boolean;
}

type Surroundings = Pick<CliContext, "stderr" | "env" | "onProgressRequest"> & {
  readonly console: ImgConsole;
};

/** Starts with 0 %. */
export function startProgress(options: ProgressOptions, surroundings: Surroundings): Progress {
  const { console, stderr, onProgressRequest } = surroundings;
  const { asJson = false, totalBytes } = options;
  let doneBytes = 0;
  // Clusters that are compressed whole may be more than was counted.
  const percent = (): number => (totalBytes === 0 ? 0 : Math.min(100, (100 * doneBytes) / totalBytes));
  const isPlain = asJson || options.quiet || options.program === "qemu-img";
  const drawing = isPlain ? undefined : startBar(surroundings);
  const teller = asJson ? makeTeller(stderr) : undefined;
  const stopAnswering = onProgressRequest?.(() => {
    drawing?.clear();
    if (teller) teller.tell(doneBytes, totalBytes);
    else stderr.write(`${lineOf(percent())}\n`);
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
      drawing?.draw(bytes, totalBytes);
      teller?.update(bytes, totalBytes);
      if (percent() > lastPrinted + options.stepPercent) print(percent());
    },
    complete() {
      doneBytes = totalBytes;
      teller?.update(doneBytes, totalBytes);
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

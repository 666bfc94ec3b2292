// A bar on a terminal, for work that takes long.
//
// Invariants
// - Nothing is drawn but on a terminal of known width: on one of width 0 it would flood.
// - Only from 300 ms on, and only on stderr.

import { formatBytes } from "../../../units/index.ts";
import type { CliContext } from "../../context.ts";
import { isContinuousIntegration } from "../canvas.ts";

const BAR_AFTER_MS = 300;
const BAR_EVERY_MS = 100;
const BAR_WIDTH = 24;
/** Room for `^C`, which the terminal puts after the bar: on the next line nothing would take it, nor the bar, away. */
const ECHO_OF_INTERRUPT = 3;

export interface Bar {
  draw(doneBytes: number, totalBytes: number): void;
  /** Takes it away, until it is drawn again. */
  clear(): void;
}

/** Undefined where none can be drawn. */
export function startBar({ stderr, env }: Pick<CliContext, "stderr" | "env">): Bar | undefined {
  const columns = stderr.columns ?? 0;
  const isTerminal = stderr.isTTY && columns > 0 && env["TERM"] !== "dumb" && !isContinuousIntegration(env);
  if (!isTerminal) return undefined;
  // Counted from when the work began, which may be long after the command did.
  let started: number | undefined;
  let drawnAt = 0;
  let isDrawn = false;
  return {
    draw(doneBytes, totalBytes) {
      const now = performance.now();
      started ??= now;
      if (now - started < BAR_AFTER_MS || (isDrawn && now - drawnAt < BAR_EVERY_MS)) return;
      drawnAt = now;
      isDrawn = true;
      const line = drawBar(doneBytes, totalBytes, (now - started) / 1000);
      stderr.write(`\r\u001b[K${line.slice(0, columns - ECHO_OF_INTERRUPT)}`);
    },
    clear() {
      if (isDrawn) stderr.write("\r\u001b[K");
      isDrawn = false;
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

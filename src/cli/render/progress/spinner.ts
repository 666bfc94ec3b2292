// Says on stderr that a command waits, and for what.
//
// Invariants
// - A spinner only on a terminal of known width, outside of CI, and only after 300 ms. Elsewhere a line.
// - stdin is left alone: a spinner that reads it swallows Ctrl-C.

import type { CliContext } from "../../context.ts";
import { isContinuousIntegration } from "../canvas.ts";

const QUIET_MS = 300;

export interface Spinner {
  stop(): void;
}

export function startSpinner(text: string, context: Pick<CliContext, "stderr" | "env">): Spinner {
  const { stderr, env } = context;
  const { stream } = stderr;
  const canDraw =
    stream !== undefined &&
    stderr.isTTY &&
    (stderr.columns ?? 0) > 0 &&
    env["TERM"] !== "dumb" &&
    !isContinuousIntegration(env);
  if (!canDraw) {
    stderr.write(`${text}\n`);
    return { stop: () => undefined };
  }
  let stopped = false;
  let stopDrawing = (): void => undefined;
  const draw = async (): Promise<void> => {
    const { default: ora } = await import("ora");
    if (stopped) return;
    const drawn = ora({ text, stream, discardStdin: false }).start();
    stopDrawing = () => {
      drawn.stop();
    };
  };
  const timer = setTimeout(() => void draw(), QUIET_MS);
  return {
    stop: () => {
      stopped = true;
      clearTimeout(timer);
      stopDrawing();
    },
  };
}

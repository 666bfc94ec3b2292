// Ctrl-C and its kin during a command of `imgtx img`: the first asks the command to stop, which removes the
// target that it was making. Nothing here ends the process.

import { ImgtxError } from "../../errors/index.ts";
import type { CliContext, Interrupt } from "../context.ts";
import type { ImgConsole } from "./console.ts";

interface ImgInterrupts {
  readonly signal: AbortSignal;
  /** The error to report: that of the interrupt, where it is what ended the command. */
  explain(error: unknown): unknown;
  stop(): void;
}

export function watchInterrupts(
  context: Pick<CliContext, "onInterrupt">,
  console: Pick<ImgConsole, "error">,
): ImgInterrupts {
  const controller = new AbortController();
  const stop = context.onInterrupt?.((name) => {
    if (controller.signal.aborted) console.error("still stopping");
    else controller.abort(errorFor(name));
  });
  return {
    signal: controller.signal,
    explain: (error) =>
      error instanceof Error && error.name === "AbortError" ? controller.signal.reason : error,
    stop: () => stop?.(),
  };
}

function errorFor(name: Interrupt): ImgtxError {
  return name === "SIGINT"
    ? new ImgtxError("E_INTERRUPTED", "interrupted")
    : new ImgtxError("E_TERMINATED", "terminated");
}

// Ctrl-C and its kin. The first asks the engine to roll back, and the command ends when it has; the
// second only says what will happen. Nothing here ends the process: behind the commit mark the way is
// forward, and an exit in the middle would leave it to the next command.

import { ImgtxError } from "../errors/index.ts";
import type { CliContext, Interrupt } from "./context.ts";
import type { Report } from "./report.ts";

export interface Interrupts {
  readonly signal: AbortSignal;
  /** The error to report: that of the interrupt, where it is what ended the command. */
  explain(error: unknown): unknown;
  stop(): void;
}

export function watchInterrupts(context: Pick<CliContext, "onInterrupt">, report: Report): Interrupts {
  const controller = new AbortController();
  const stop = context.onInterrupt?.((name) => {
    if (controller.signal.aborted) {
      report.notice(
        "still rolling back; if this process is killed, the next imgtx command finishes or undoes the rest",
      );
      return;
    }
    report.notice(`${name === "SIGINT" ? "interrupted" : "terminated"}: rolling back`);
    controller.abort(errorFor(name));
  });
  return {
    signal: controller.signal,
    explain: (error) => (isAbort(error) ? controller.signal.reason : error),
    stop: () => stop?.(),
  };
}

function errorFor(name: Interrupt): ImgtxError {
  return name === "SIGINT"
    ? new ImgtxError("E_INTERRUPTED", "interrupted; rolled back")
    : new ImgtxError("E_TERMINATED", "terminated; rolled back");
}

/** What AbortSignal.throwIfAborted and Node's own functions throw. */
function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === "AbortError";
}

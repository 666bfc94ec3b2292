// Ctrl-C and its kin. The first asks the command to stop, which takes back what it had begun, and the command ends
// when it has; later ones only say what will happen. Nothing here ends the process: after the commit mark the way is
// forward, and an exit in the middle would leave it to the next command.

import { ImgtxError } from "../errors/index.ts";
import type { CliContext } from "./context.ts";

/** What a command says of interrupts. */
export interface InterruptWords {
  /** At the first one, by what happened: "interrupted" or "terminated". */
  readonly first?: (what: string) => void;
  /** At each later one. */
  readonly later: () => void;
  /** The message of the error that the command ends with. */
  readonly error: (what: string) => string;
}

export interface Interrupts {
  readonly signal: AbortSignal;
  /** The error to report: that of the interrupt, where it is what ended the command. */
  explain(error: unknown): unknown;
  stop(): void;
}

export function watchInterrupts(context: Pick<CliContext, "onInterrupt">, words: InterruptWords): Interrupts {
  const controller = new AbortController();
  const { signal } = controller;
  const stop = context.onInterrupt?.((name) => {
    if (signal.aborted) {
      words.later();
      return;
    }
    const [code, what] =
      name === "SIGINT"
        ? (["E_INTERRUPTED", "interrupted"] as const)
        : (["E_TERMINATED", "terminated"] as const);
    words.first?.(what);
    controller.abort(new ImgtxError(code, words.error(what)));
  });
  return { signal, explain: (error) => explainAbort(error, signal), stop: () => stop?.() };
}

/** What AbortSignal.throwIfAborted and Node's own functions throw stands for the interrupt that caused it. */
export function explainAbort(error: unknown, signal: AbortSignal): unknown {
  return signal.aborted && error instanceof Error && error.name === "AbortError" ? signal.reason : error;
}

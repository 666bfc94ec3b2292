// Runs a program as a child of a command that holds something meanwhile: a transaction, or locks.

import { ImgtxError } from "../../errors/index.ts";
import type { ChildEnd } from "../context.ts";
import { allowDevicesForChild } from "../grammar/allow-devices.ts";
import { allowPathsForChild } from "../grammar/allow-path.ts";
import type { Invocation } from "../running/invocation.ts";

/** An interrupt came first. */
const NOT_RUN: ChildEnd = { kind: "exited", status: 0 };

/** Runs the words of COMMAND to their end, and hands the child every signal that this process gets meanwhile. */
export async function runChild(
  { input, context, settings, signal }: Invocation,
  env: Readonly<Record<string, string>>,
): Promise<ChildEnd> {
  const { spawn } = context;
  if (spawn === undefined) throw new Error("this context runs no programs");
  if (signal.aborted) return NOT_RUN;
  const child = await spawn(input.texts("COMMAND"), {
    cwd: context.cwd,
    env: {
      ...context.env,
      ...env,
      ...allowPathsForChild(settings.allowPaths),
      ...allowDevicesForChild(settings.allowsDevices),
    },
  });
  const stop = context.onInterrupt?.((name) => {
    // A terminal sends Ctrl-C to its whole foreground group: the child has it already, and for many
    // programs a second one means something else than the first.
    if (name !== "SIGINT" || context.sharesTerminal !== true) child.kill(name);
  });
  try {
    return await child.ended;
  } finally {
    stop?.();
  }
}

export function isNotStarted(reason: string): ImgtxError {
  return new ImgtxError("E_COMMAND_FAILED", `the command could not be run: ${reason}`);
}

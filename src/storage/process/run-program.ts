// A program that imgtx runs to its end on behalf of a transaction.
//
// Invariants
// - It has no terminal and no stdin, and Ctrl-C does not reach it: it is in a session of its own, and is killed with all that
//   it has started there.
// - It has the descriptor of the file whose locks it is to hold. Where this process is killed, whoever looks for its
//   transaction sees that somebody is still at work on it.

import type { ChildProcess } from "node:child_process";
import type { HowToRun, ProgramEnd } from "../storage.ts";

const MOST_PRINTED_BYTES = 4096;
/** From a polite end to the other one. */
const KILL_AFTER_MS = 5000;

export async function runProgram(
  [program = "", ...words]: readonly string[],
  { env, limitMs, holding }: HowToRun,
): Promise<ProgramEnd> {
  const { spawn } = await import("node:child_process");
  const kept = holding?.open?.();
  const child = spawn(program, words, {
    cwd: "/",
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe", ...(kept === undefined ? [] : [kept])],
    detached: true,
  });
  let printed = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (text: string) => {
      if (printed.length < MOST_PRINTED_BYTES) printed = (printed + text).slice(0, MOST_PRINTED_BYTES);
    });
  }
  let isLate = false;
  let killer: NodeJS.Timeout | undefined;
  const limit = setTimeout(() => {
    isLate = true;
    killAll(child, "SIGTERM");
    killer = setTimeout(() => {
      killAll(child, "SIGKILL");
    }, KILL_AFTER_MS);
  }, limitMs);
  try {
    const ended = await endOf(child);
    return { ...ended, kind: isLate ? "late" : ended.kind, printed: printed.trim() };
  } finally {
    clearTimeout(limit);
    clearTimeout(killer);
    // What it has left at work may have its outputs open for ever.
    child.stdout?.destroy();
    child.stderr?.destroy();
  }
}

/** At its own end, and not at that of what it has left at work. */
async function endOf(child: ChildProcess): Promise<Omit<ProgramEnd, "printed">> {
  return await new Promise((resolve) => {
    child.on("error", ({ message }) => {
      resolve({ kind: "not started", why: message });
    });
    child.on("exit", (status, signal) => {
      const end: Omit<ProgramEnd, "printed"> =
        signal === null ? { kind: "exited", status: status ?? 1 } : { kind: "killed", why: signal };
      // What it printed last may be on its way.
      // After what has come by then was read.
      const limit = setTimeout(() => {
        setImmediate(() => {
          resolve(end);
        });
      }, LAST_WORDS_MS);
      child.once("close", () => {
        clearTimeout(limit);
        resolve(end);
      });
    });
  });
}

const LAST_WORDS_MS = 200;

function killAll({ pid }: ChildProcess, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

// The real process around `run`: its outputs, signals and children. The only module of the command line
// that touches `process`.
//
// Invariants
// - The process is never made to end: it ends when nothing is left to do, so piped output is whole.
// - A reader that goes away (`| head`) is no error. What is not wanted any more is dropped, and the
//   command still ends with its own status, which may be that of a commit.

import { constants } from "node:os";
import { makeNodeStorage } from "../storage/index.ts";
import type { Child, ChildEnd, Interrupt, Output } from "./context.ts";
import { run } from "./main.ts";

const INTERRUPTS: readonly Interrupt[] = ["SIGINT", "SIGTERM", "SIGHUP"];

export async function launch(): Promise<void> {
  process.exitCode = await run(process.argv.slice(2), {
    storage: makeNodeStorage(),
    cwd: process.cwd(),
    env: process.env,
    stdout: outputOf(process.stdout),
    stderr: outputOf(process.stderr),
    stdin: readStdin,
    sharesTerminal: process.stdin.isTTY,
    onInterrupt,
    spawn: startChild,
  });
}

function outputOf(stream: NodeJS.WriteStream): Output {
  let gone = false;
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
    gone = true;
  });
  return {
    write: (text) => {
      if (!gone) stream.write(text);
    },
    isTTY: stream.isTTY,
    get columns() {
      return stream.columns;
    },
    stream,
  };
}

async function readStdin(): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString("utf8");
}

function onInterrupt(handler: (signal: Interrupt) => void): () => void {
  for (const name of INTERRUPTS) process.on(name, handler);
  return () => {
    for (const name of INTERRUPTS) process.off(name, handler);
  };
}

async function startChild(
  command: readonly string[],
  options: { cwd: string; env: Readonly<Record<string, string | undefined>> },
): Promise<Child> {
  const { spawn } = await import("node:child_process");
  const [program = "", ...args] = command;
  const child = spawn(program, args, { cwd: options.cwd, env: options.env, stdio: "inherit" });
  const ended = new Promise<ChildEnd>((resolve) => {
    child.on("error", (error: NodeJS.ErrnoException) => {
      const missing = error.code === "ENOENT";
      const reason = missing ? `no program '${program}' was found` : error.message;
      resolve({ kind: "not-started", reason, status: missing ? 127 : 126 });
    });
    child.on("close", (status, signal) => {
      if (signal !== null) resolve({ kind: "killed", signal, status: 128 + constants.signals[signal] });
      else resolve({ kind: "exited", status: status ?? 1 });
    });
  });
  return {
    ended,
    kill: (signal) => {
      child.kill(signal);
    },
  };
}

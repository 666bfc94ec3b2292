// The real process around `run`: its outputs, signals and children. The only module of the command line
// that touches `process`.
//
// Invariants
// - The process is never made to end: it ends when nothing is left to do, so piped output is whole.
// - A reader that goes away (`| head`) is no error. What is not wanted any more is dropped, and the
//   command still ends with its own status, which may be that of a commit.
// - A result that can't be written (`> /dev/full`) never ends with status 0.

import { constants } from "node:os";
import { makeNodeStorage } from "../storage/index.ts";
import type { Child, ChildEnd, Interrupt, Output } from "./context.ts";
import { run } from "./main.ts";

const INTERRUPTS: readonly Interrupt[] = ["SIGINT", "SIGTERM", "SIGHUP"];

export async function launch(): Promise<void> {
  let writeFailed = false;
  const onWriteError = (error: Error): void => {
    writeFailed = true;
    process.exitCode ||= 1;
    process.stderr.write(`error: the result could not be written: ${error.message}\n`);
  };
  const status = await run(process.argv.slice(2), {
    storage: makeNodeStorage(),
    cwd: process.cwd(),
    env: process.env,
    stdout: outputOf(process.stdout, onWriteError),
    // Nowhere is left to say that an error could not be written; the status tells of it.
    stderr: outputOf(process.stderr, () => undefined),
    stdin: readStdin,
    sharesTerminal: process.stdin.isTTY,
    onInterrupt,
    spawn: startChild,
  });
  process.exitCode = status === 0 && writeFailed ? 1 : status;
}

function outputOf(stream: NodeJS.WriteStream, onWriteError: (error: Error) => void): Output {
  let gone = false;
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (!gone && error.code !== "EPIPE") onWriteError(error);
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

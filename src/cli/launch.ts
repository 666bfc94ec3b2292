// The real process around `run`: its outputs, signals and children. The only module of the command line
// that touches `process`.
//
// Invariants
// - The process is never made to end: it ends when nothing is left to do, so piped output is whole.
// - What can't be written is dropped, and the output says why when it is asked: `run` decides what that means.

import type { ChildProcess, StdioOptions } from "node:child_process";
import { constants } from "node:os";
import type { Readable } from "node:stream";
import { ImgtxError } from "../errors/index.ts";
import { explainError, makeNodeStorage } from "../storage/index.ts";
import type {
  Child,
  ChildEnd,
  CliContext,
  Interrupt,
  Output,
  SpawnOptions,
  WriteFailure,
} from "./context.ts";
import { run } from "./main.ts";
import { printable } from "./render/printable.ts";

// For the build, which runs some commands in process.
export { makeNodeStorage, run };

const INTERRUPTS: readonly Interrupt[] = ["SIGINT", "SIGTERM", "SIGHUP"];

/** What the launcher hands in: the file system is storage's alone, and descriptors are no files. */
interface Launcher {
  /** Linked under that name, imgtx is `imgtx img`. */
  readonly isQemuImg: boolean;
  /** write(2): the bytes written, perhaps fewer than given. */
  readonly writeDirectly: (descriptor: number, bytes: Uint8Array) => number;
  readonly isTerminal: (descriptor: number) => boolean;
  readonly mayBeClosed: (descriptor: number) => boolean;
}

export async function launch(launcher: Launcher): Promise<void> {
  // Nowhere is left to say that an error could not be written; the status tells of it.
  const stderr = outputOf(2, launcher);
  const onProgressRequest = tellOfProgress(stderr);
  process.exitCode = await run(process.argv.slice(2), {
    storage: makeNodeStorage(),
    get cwd() {
      return currentFolder();
    },
    env: process.env,
    stdout: outputOf(1, launcher),
    stderr,
    stdin: readStdin,
    sharesTerminal: launcher.isTerminal(0),
    ...(launcher.isTerminal(0) && launcher.isTerminal(2) && { ask }),
    onInterrupt,
    onProgressRequest,
    ...(launcher.isQemuImg && { program: "qemu-img" as const }),
    spawn: startChild,
    readProgram,
  });
}

function currentFolder(): string {
  try {
    return process.cwd();
  } catch (cause) {
    const hint = "go to a folder that is there";
    throw new ImgtxError("E_NOT_FOUND", "the current folder is not there any more", { hint, cause });
  }
}

/**
 * SIGUSR1 asks for a line. Left to itself, Node would open the port of its debugger. A command that knows
 * how far it is answers in place of the general line.
 */
function tellOfProgress(stderr: Output): NonNullable<CliContext["onProgressRequest"]> {
  const say = (): void => {
    const words = process.argv.slice(2).map((word) => printable(word));
    stderr.write(`imgtx: at work for ${Math.floor(performance.now() / 1000)} s on: ${words.join(" ")}\n`);
  };
  let answer = say;
  process.on("SIGUSR1", () => {
    answer();
  });
  return (handler) => {
    answer = handler;
    return () => {
      answer = say;
    };
  };
}

/** An output of the process: a terminal as Node's stream, anything else by its descriptor. */
function outputOf(descriptor: 1 | 2, { writeDirectly, isTerminal, mayBeClosed }: Launcher): Output {
  let failure: WriteFailure | undefined;
  const onError = (error: NodeJS.ErrnoException): void => {
    failure ??= { reason: wordsOf(error), readerGone: error.code === "EPIPE" };
  };
  const openStream = (): NodeJS.WriteStream => {
    const stream = descriptor === 1 ? process.stdout : process.stderr;
    return stream.on("error", onError);
  };
  // Node's streams take 5 ms to load: only a terminal (for its width, and for a spinner) is worth them,
  // and a pipe that is full for the moment.
  let stream = isTerminal(descriptor) ? openStream() : undefined;
  const write = (text: string): void => {
    if (failure) return;
    if (stream !== undefined) {
      stream.write(text);
      return;
    }
    let rest: Uint8Array = new TextEncoder().encode(text);
    try {
      while (rest.length > 0) rest = rest.subarray(writeDirectly(descriptor, rest));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "EAGAIN") {
        onError(error as NodeJS.ErrnoException);
        return;
      }
      stream = openStream();
      stream.write(rest);
    }
  };
  const settled = async (): Promise<WriteFailure | undefined> => {
    // After all that the stream has been given: it calls back in order, and for an error too.
    if (stream !== undefined && !failure) await new Promise((taken) => stream?.write("", taken));
    return failure;
  };
  if (stream === undefined) {
    return { write, settled, mayBeClosed: () => mayBeClosed(descriptor), isTTY: false, columns: undefined };
  }
  const terminal = stream;
  return {
    write,
    settled,
    isTTY: true,
    get columns() {
      return terminal.columns;
    },
    stream: terminal,
  };
}

async function readStdin(mostBytes: number): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of process.stdin) {
    chunks.push(chunk as Buffer);
    bytes += (chunk as Buffer).length;
    // Whoever pipes an image, or /dev/zero, in here must not fill the memory.
    if (bytes > mostBytes) break;
  }
  return Buffer.concat(chunks).toString("utf8");
}

async function ask(question: string, signal: AbortSignal): Promise<string> {
  const { createInterface } = await import("node:readline/promises");
  const lines = createInterface({ input: process.stdin, output: process.stderr, terminal: false });
  try {
    // Ctrl-D ends the input, and no question would ever be answered.
    const ended = new Promise<string>((resolve) => lines.once("close", () => resolve("")));
    return await Promise.race([lines.question(question, { signal }), ended]);
  } finally {
    lines.close();
  }
}

function onInterrupt(handler: (signal: Interrupt) => void): () => void {
  for (const name of INTERRUPTS) process.on(name, handler);
  return () => {
    for (const name of INTERRUPTS) process.off(name, handler);
  };
}

async function startChild(
  command: readonly string[],
  { cwd, env, isApart = false }: SpawnOptions,
): Promise<Child> {
  const { spawn } = await import("node:child_process");
  const [program = "", ...args] = command;
  const stdio: StdioOptions = isApart ? ["ignore", 2, 2] : "inherit";
  const child = orRefused(program, () => spawn(program, args, { cwd, env, stdio, detached: isApart }));
  if ("kind" in child) return { ended: Promise.resolve(child), kill: () => undefined };
  return {
    ended: endOf(child, program),
    kill: (signal) => {
      if (isApart && child.pid !== undefined) killGroup(child.pid, signal);
      else child.kill(signal);
    },
  };
}

async function endOf(child: ChildProcess, program: string): Promise<ChildEnd> {
  return await new Promise<ChildEnd>((resolve) => {
    child.on("error", (error) => {
      resolve(refusalOf(error, program));
    });
    child.on("close", (status, signal) => {
      if (signal !== null) resolve({ kind: "killed", signal, status: 128 + constants.signals[signal] });
      else resolve({ kind: "exited", status: status ?? 1 });
    });
  });
}

function refusalOf(error: NodeJS.ErrnoException, program: string): ChildEnd {
  const missing = error.code === "ENOENT" || program === "";
  const why = error.code === "EACCES" ? "" : `: ${wordsOf(error)}`;
  const reason = missing ? `no program '${program}' was found` : `'${program}' can't be executed${why}`;
  return { kind: "not-started", reason, status: missing ? 127 : 126 };
}

/** What the system has said, in imgtx's words. */
function wordsOf(error: Error): string {
  const explained = explainError(error, "use", "");
  return explained instanceof ImgtxError ? (explained.reason ?? explained.message) : error.message;
}

/** Some refusals of the system the runtime throws, others it tells as the child's error. */
function orRefused<T extends ChildProcess>(program: string, start: () => T): T | ChildEnd {
  try {
    return start();
  } catch (error) {
    return refusalOf(error as NodeJS.ErrnoException, program);
  }
}

const readProgram: NonNullable<CliContext["readProgram"]> = async (command, options) => {
  const { spawn } = await import("node:child_process");
  const { cwd, env, mostBytes, signal } = options;
  const [program = "", ...args] = command;
  const child = orRefused(program, () =>
    spawn(program, args, { cwd, env, stdio: ["ignore", "pipe", "pipe"] }),
  );
  if ("kind" in child) return { end: child, printed: "", complaint: "" };
  const ended = endOf(child, program);
  const stop = (): void => void child.kill("SIGKILL");
  signal.addEventListener("abort", stop);
  const collect = async (stream: Readable): Promise<string> => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    stream.on("data", (chunk: Buffer) => {
      if (bytes <= mostBytes) chunks.push(chunk);
      bytes += chunk.length;
      if (bytes > mostBytes) stop();
    });
    await ended;
    return Buffer.concat(chunks).toString("utf8");
  };
  try {
    const [end, printed, complaint] = await Promise.all([
      ended,
      collect(child.stdout),
      collect(child.stderr),
    ]);
    return { end, printed, complaint };
  } finally {
    signal.removeEventListener("abort", stop);
  }
};

/** All that the child has started, too: a shell hands no signal on to what it waits for. */
function killGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

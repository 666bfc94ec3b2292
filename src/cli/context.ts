// What the command line needs from the process that it runs in. `run` gets all of it handed in and
// touches nothing else, so that the crash tests call it in one process, many thousand times, on a
// simulated disk. Only launch.ts knows the real process.

import type { Storage } from "../storage/index.ts";
import type { Engine } from "./engine.ts";

/** Why not all that was written has arrived. */
export interface WriteFailure {
  readonly reason: string;
  /** Whoever read it went away (`| head`), which most commands take for no error. */
  readonly readerGone: boolean;
  readonly hint?: string;
}

export interface Output {
  write(text: string): void;
  /** Waits until all that was written has been taken. Left out where writing can't fail. */
  settled?(): Promise<WriteFailure | undefined>;
  /** Whether the process may have been started without it: then all that is written is gone, and no write fails. */
  mayBeClosed?(): boolean;
  readonly isTTY: boolean;
  /** Width of the terminal; undefined or 0 where it is not known. */
  readonly columns: number | undefined;
  /** What a spinner draws on. Without one there is none. */
  readonly stream?: NodeJS.WriteStream;
}

export type Interrupt = "SIGINT" | "SIGTERM" | "SIGHUP";

/** How a child ended: by itself with a status, or by a signal. */
export type ChildEnd =
  | { readonly kind: "exited"; readonly status: number }
  | { readonly kind: "killed"; readonly signal: string; readonly status: number }
  | { readonly kind: "not-started"; readonly reason: string; readonly status: number };

export interface Child {
  readonly ended: Promise<ChildEnd>;
  kill(signal: Interrupt | "SIGKILL"): void;
}

export interface SpawnOptions {
  readonly cwd: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /**
   * In a session of its own, which no terminal sends signals to, and killed with all that it has started. It has no
   * stdin, and writes to stderr alone.
   */
  readonly isApart?: boolean;
}

interface ReadProgramOptions extends Pick<SpawnOptions, "cwd" | "env"> {
  /** It is killed once it has printed more than this. */
  readonly mostBytes: number;
  /** Kills it. */
  readonly signal: AbortSignal;
}

interface ReadProgram {
  readonly end: ChildEnd;
  readonly printed: string;
  /** What it wrote to stderr, the beginning of it. */
  readonly complaint: string;
}

export interface CliContext {
  readonly storage: Storage;
  /** Absolute, and free of symbolic links, as getcwd gives it. */
  readonly cwd: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly stdout: Output;
  readonly stderr: Output;
  /** Reads stdin to its end, or until it has given more bytes than that. */
  readonly stdin: (mostBytes: number) => Promise<string>;
  /** Asks who sits at the terminal, and gives the answer, "" where there is none. Left out where nobody sits there. */
  readonly ask?: (question: string, signal: AbortSignal) => Promise<string>;
  /** Whether Ctrl-C reaches children by itself, because they share a terminal with this process. */
  readonly sharesTerminal?: boolean;
  /** Calls handler at every interrupt until the returned function is called. */
  readonly onInterrupt?: (handler: (signal: Interrupt) => void) => () => void;
  /** Calls handler whenever somebody asks for a line of progress (SIGUSR1), until the function is called. */
  readonly onProgressRequest?: (handler: () => void) => () => void;
  /** The name that the process was started by, where it is another one than imgtx. */
  readonly program?: "qemu-img";
  /** Starts a program with the process's own stdin, stdout and stderr. */
  readonly spawn?: (command: readonly string[], options: SpawnOptions) => Promise<Child>;
  /** Runs a program that has no stdin to its end, and gives what it printed. */
  readonly readProgram?: (command: readonly string[], options: ReadProgramOptions) => Promise<ReadProgram>;
  /** Another transaction layer, for tests of the command line alone. */
  readonly engine?: Engine;
}

// imgtx as a process: the built launcher on Node, or what IMGTX_BIN names, such as the single file.

import { spawn } from "node:child_process";
import { buffer } from "node:stream/consumers";
import { fileURLToPath } from "node:url";

export const LAUNCHER = fileURLToPath(new URL("../../bin/imgtx.js", import.meta.url));

/** IMGTX_BIN, where it is set. */
export const SINGLE_FILE = process.env["IMGTX_BIN"] || undefined;

/** The program under test. */
export const PROGRAM = SINGLE_FILE ?? LAUNCHER;

/** The words that start it; the options are Node's own. */
export function wordsToStart(
  program: string,
  nodeOptions: readonly string[] = [],
): readonly [string, ...string[]] {
  return program === LAUNCHER ? [process.execPath, ...nodeOptions, program] : [program];
}

interface ProgramSetting {
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly stdin?: string;
  /** The name that it is called by, where that is not its own. */
  readonly program?: string | undefined;
}

/** Runs it with nothing in its environment but this and PATH. */
export async function runProgram(
  program: string,
  argv: readonly string[],
  { cwd, env, stdin = "", program: name }: ProgramSetting,
): Promise<{ status: number; stdout: string; stderr: string }> {
  const child = spawn(program, argv, {
    cwd,
    env: { PATH: process.env["PATH"], ...env },
    ...(name !== undefined && { argv0: name }),
  });
  child.stdin.on("error", () => undefined).end(stdin);
  const ended = new Promise<number>((resolve, reject) => {
    child.on("error", reject).on("close", (status) => {
      resolve(status ?? -1);
    });
  });
  const [stdout, stderr] = await Promise.all([buffer(child.stdout), buffer(child.stderr)]);
  return { status: await ended, stdout: stdout.toString(), stderr: stderr.toString() };
}

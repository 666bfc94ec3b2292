// The built command line as a process of its own, plain or under strace.

import { execFile, spawn } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { promisify } from "node:util";
import { TRACED_CALLS } from "./trace.ts";

export interface ProcessEnd {
  /** As a shell has it: 128 and the signal's number for a process that was killed. */
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface TracedEnd extends ProcessEnd {
  readonly trace: string;
}

export const KILLED = 137;
const SIGNAL_STATUS = 128;
const SIGKILL = 9;

const execute = promisify(execFile);

/** Builds into a folder of its own: another test may replace the usual one at any moment. */
export async function buildProgram(repository: string, folder: string): Promise<BuiltProgram> {
  mkdirSync(folder, { recursive: true });
  cpSync(`${repository}/bin`, `${folder}/bin`, { recursive: true });
  cpSync(`${repository}/package.json`, `${folder}/package.json`);
  symlinkSync(`${repository}/node_modules`, `${folder}/node_modules`);
  await execute(process.execPath, [`${repository}/test/tooling/build.mjs`, `${folder}/dist`]);
  return new BuiltProgram(`${folder}/bin/imgtx.js`);
}

export class BuiltProgram {
  readonly #launcher: string;

  constructor(launcher: string) {
    this.#launcher = launcher;
  }

  run(argv: readonly string[], cwd: string): Promise<ProcessEnd> {
    return runProcess(process.execPath, [this.#launcher, ...argv], cwd);
  }

  /** Under strace, with an injection in strace's words: `rename:signal=KILL:when=2`. */
  async trace(
    argv: readonly string[],
    cwd: string,
    traceFile: string,
    injection?: string,
  ): Promise<TracedEnd> {
    const options = ["-f", "-qq", "-y", "-s", "0", "-o", traceFile];
    options.push("-e", `trace=${TRACED_CALLS}`, "-e", "signal=none");
    if (injection !== undefined) options.push("-e", `inject=${injection}`);
    const end = await runProcess("strace", [...options, process.execPath, this.#launcher, ...argv], cwd);
    return { ...end, trace: readFileSync(traceFile, "utf8") };
  }
}

function runProcess(program: string, args: readonly string[], cwd: string): Promise<ProcessEnd> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd, env: environment(), stdio: ["ignore", "pipe", "pipe"] });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    child.on("error", reject);
    child.on("close", (status, signal) => {
      const exit = status ?? SIGNAL_STATUS + (signal === "SIGKILL" ? SIGKILL : 0);
      resolve({ exit, stdout, stderr });
    });
  });
}

/** One pool thread, so that strace can count its calls; nothing of the user's settings. */
function environment(): NodeJS.ProcessEnv {
  const own = Object.entries(process.env).filter(
    ([name]) => !/^(IMGTX_|NODE_|VITEST|FORCE_COLOR)/.test(name),
  );
  return { ...Object.fromEntries(own), UV_THREADPOOL_SIZE: "1", UV_USE_IO_URING: "0" };
}

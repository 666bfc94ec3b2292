// Runs the built command line under strace: to list the system calls that change something below a folder,
// to kill it at one of them, or to let one fail. strace counts calls by thread and by name, and so does
// this; one pool thread makes the count the same in each run.

import { spawn, spawnSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { wordsToStart } from "../../helpers/program.ts";

/** A system call that changes something, met in a trace. */
export interface TracedCall {
  readonly name: string;
  /** Its number among the calls of that name in its thread, from 1: strace's `when`. */
  readonly number: number;
  /** Name and path, with ids and the numbers of files without a name blanked, and how often it was met by then: the same in each run. */
  readonly label: string;
  readonly injected: boolean;
}

export interface ProcessResult {
  /** Undefined where a signal ended it. */
  readonly exit: number | undefined;
  readonly text: string;
  readonly timedOut: boolean;
}

export interface Injection {
  readonly call: TracedCall;
  readonly kind: "KILL" | "EIO" | "ENOSPC";
}

export interface TracedRun extends ProcessResult {
  readonly calls: readonly TracedCall[];
  /** Whether the injection hit the call that it was meant for. */
  readonly hit: boolean;
}

export interface Launch {
  /** The launcher, or the single file. */
  readonly program: string;
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  /** Only calls on paths below this count. */
  readonly root: string;
  readonly traceFile: string;
}

const CHANGING = [
  ..."openat pwrite64 pwritev pwritev2 write writev fsync fdatasync ftruncate fallocate copy_file_range utimensat".split(
    " ",
  ),
  ..."rename renameat renameat2 link linkat symlink symlinkat unlink unlinkat mkdir mkdirat rmdir".split(" "),
];
const TIMEOUT_MS = 600_000;

/**
 * Two flushes on the pool thread before the program's own. koffi flushes the standard outputs on the main
 * thread when the process ends, and waits for ever where that fails. strace counts by thread: so a failure
 * meant for the third flush of the pool, or a later one, never meets those two.
 */
const TWO_FLUSHES = `const fs = require("node:fs");
const descriptor = fs.openSync("/dev/null");
fs.fsync(descriptor, () => undefined);
fs.fsync(descriptor, () => fs.closeSync(descriptor));
`;

export function runTraced(launch: Launch, argv: readonly string[], injection?: Injection): TracedRun {
  const preloaded = `${launch.traceFile}.cjs`;
  writeFileSync(preloaded, TWO_FLUSHES);
  const inject = injection ? ["-e", `inject=${injectionOf(injection)}`] : [];
  const result = runAlone(
    [
      "strace",
      "-f",
      "-qq",
      "-y",
      "-o",
      launch.traceFile,
      "-e",
      `trace=${CHANGING.join(",")}`,
      "-e",
      "signal=none",
      ...inject,
      ...wordsToStart(launch.program, ["--require", preloaded]),
      ...argv,
    ],
    launch,
  );
  const calls = readTrace(readFileSync(launch.traceFile, "utf8"), launch.root);
  rmSync(launch.traceFile);
  rmSync(preloaded);
  return { ...result, calls, hit: injection !== undefined && wasHit(calls, injection, result) };
}

export function runPlain(launch: Launch, argv: readonly string[]): Promise<ProcessResult> {
  return runProcess([...wordsToStart(launch.program), ...argv], launch);
}

function injectionOf({ call, kind }: Injection): string {
  const effect = kind === "KILL" ? "signal=KILL" : `error=${kind}`;
  return `${call.name}:${effect}:when=${call.number}`;
}

/** A call at which the process was killed is the last of the trace, and was not carried out. */
function wasHit(calls: readonly TracedCall[], { call, kind }: Injection, result: ProcessResult): boolean {
  const met = calls.find(
    (one) => one.name === call.name && one.number === call.number && one.label === call.label,
  );
  if (!met) return false;
  return kind === "KILL" ? result.exit !== 0 && calls.includes(met) : met.injected;
}

/**
 * In a group of its own, so that strace and what it traces can be ended together; not a session of its own, as
 * `detached` would give it: a transaction is joined from the session that it was begun in.
 */
const IN_ITS_GROUP = "timeout";

function environmentOf({ env }: Pick<Launch, "env">): NodeJS.ProcessEnv {
  return { ...process.env, ...env, UV_THREADPOOL_SIZE: "1", UV_USE_IO_URING: "0" };
}

function exitOf(code: number | null, signal: string | null): number | undefined {
  return signal !== null || code === null || code === 128 + 9 ? undefined : code;
}

/** Waits for it: started so, nothing of this process is copied. */
function runAlone(command: readonly string[], launch: Pick<Launch, "cwd" | "env">): ProcessResult {
  const beganMs = performance.now();
  const words = ["-s", "KILL", `${TIMEOUT_MS / 1000}`, ...command];
  const { status, signal, stdout, stderr, error } = spawnSync(IN_ITS_GROUP, words, {
    cwd: launch.cwd,
    encoding: "utf8",
    maxBuffer: Number.POSITIVE_INFINITY,
    stdio: ["ignore", "pipe", "pipe"],
    env: environmentOf(launch),
  });
  if (error) throw error;
  const timedOut = performance.now() - beganMs >= TIMEOUT_MS;
  return { exit: exitOf(status, signal), text: stdout + stderr, timedOut };
}

/** While others run. */
function runProcess(command: readonly string[], launch: Pick<Launch, "cwd" | "env">): Promise<ProcessResult> {
  const child = spawn(IN_ITS_GROUP, ["0", ...command], {
    cwd: launch.cwd,
    stdio: ["ignore", "pipe", "pipe"],
    env: environmentOf(launch),
  });
  let text = "";
  let timedOut = false;
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (part: string) => (text += part));
  }
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      timedOut = true;
      if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
    }, TIMEOUT_MS);
    child.on("error", reject);
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      resolve({ exit: exitOf(code, signal), text, timedOut });
    });
  });
}

/** The calls of a trace that change something below root, in the order in which they began. */
export function readTrace(trace: string, root: string): TracedCall[] {
  const counts = new Map<string, number>();
  const repeats = new Map<string, number>();
  const calls: { call: TracedCall; thread: string }[] = [];
  for (const line of trace.split("\n")) {
    const [, thread = "", resumed, begun, rest = ""] = LINE.exec(line) ?? [];
    const injected = line.includes("(INJECTED)");
    // Where another thread came in between, the outcome stands on a line of its own.
    const open = calls.findLast((one) => one.thread === thread && one.call.name === resumed);
    if (open && injected) open.call = { ...open.call, injected };
    if (begun === undefined) continue;
    const number = countUp(counts, `${thread} ${begun}`);
    // What it returned is not there when it was killed, so it is no part of the label.
    const text = rest.replace(/\)\s+= [^"]*$/, "").replaceAll(/AT_FDCWD<[^>]*>/g, "");
    if (!text.includes(root) || (begun === "openat" && !text.includes("O_CREAT"))) continue;
    const label = labelOf(begun, text, root);
    const times = countUp(repeats, label);
    const call = { name: begun, number, label: times === 1 ? label : `${label} (${times})`, injected };
    calls.push({ call, thread });
  }
  return calls.map(({ call }) => call);
}

/** A thread, and the call that it resumed or began. */
const LINE = /^(\d+)\s+(?:<\.\.\. (\w+) resumed|(\w+)\((.*)$)/;

function countUp(counts: Map<string, number>, key: string): number {
  const count = (counts.get(key) ?? 0) + 1;
  counts.set(key, count);
  return count;
}

function labelOf(name: string, text: string, root: string): string {
  const paths = [...text.matchAll(/[<"]([^<">]*)[>"]/g)]
    .map(([, path]) => path ?? "")
    .filter((path) => path.startsWith(root));
  const blanked = paths.map((path) =>
    path.slice(root.length).replace(/[a-z0-9]{10}(?=\.new|\.journal|-\d)|(?<=#)\d+/, "ID"),
  );
  return `${name} ${blanked.join(" -> ")}`;
}

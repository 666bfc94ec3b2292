// The programs of a walk: the built command line, plain or cut off; and a guest, which is qemu-io.
//
// Invariant: nothing here hangs the walk. What does not end in HANG_MS is asked for its stacks, killed, and told
// of as a fault: a command that never ends is one.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { runCli } from "../helpers/cli/harness.ts";
import { wordsToStart } from "../helpers/program.ts";

/** Generous: it is no measure of speed. */
const HANG_MS = 600_000;
const REPORT_MS = 5_000;

export interface Ended {
  /** Undefined where a signal ended it. */
  readonly status: number | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

/** How a command is cut off, or made to fail, by strace. */
export interface Cut {
  readonly call: string;
  /** The call's number in its thread, from 1. */
  readonly number: number;
  readonly effect: "signal=KILL" | "error=ENOSPC" | "error=EIO";
  /** Whether all later calls fail as well: a disk that stays full. */
  readonly stays: boolean;
}

export interface Place {
  /** The launcher, or the single file. */
  readonly program: string;
  /** The workspace. */
  readonly cwd: string;
  /** Where what is found of a hang is put. */
  readonly reports: string;
  /** Whether commands that are not cut off run in this process, which takes a tenth of the time. A hang has no stacks then. */
  readonly runsHere: boolean;
}

export async function runImgtx(
  place: Place,
  argv: readonly string[],
  choice: { readonly cut?: Cut | undefined; readonly env?: Readonly<Record<string, string>> } = {},
): Promise<Ended> {
  const { cut } = choice;
  if (place.runsHere && !cut) {
    return await runCli(argv, { cwd: place.cwd, ...(choice.env && { env: choice.env }) });
  }
  const own = [...wordsToStart(place.program), ...argv];
  const when = cut && `${cut.number}${cut.stays ? "+" : ""}`;
  // Without --seccomp-bpf, by which strace 6.1 injects hardly a signal.
  const traced = cut
    ? ["strace", "-f", "-qq", "-o", "/dev/null", "-e", `trace=${cut.call}`, "-e", "signal=none"].concat(
        "-e",
        `inject=${cut.call}:${cut.effect}:when=${when}`,
        own,
      )
    : own;
  mkdirSync(place.reports, { recursive: true });
  const [program = "", ...parameters] = traced;
  const child = spawn(program, parameters, {
    cwd: place.cwd,
    stdio: ["ignore", "pipe", "pipe"],
    env: {
      ...process.env,
      NO_COLOR: "1",
      UV_THREADPOOL_SIZE: "1",
      UV_USE_IO_URING: "0",
      NODE_OPTIONS: `--report-on-signal --report-directory=${place.reports}`,
      ...choice.env,
    },
  });
  return await untilEnd(child, `imgtx ${argv.join(" ")}`, place);
}

/** A command that never ends, with its stacks. */
class Hang extends Error {
  override readonly name = "Hang";
}

async function untilEnd(child: ChildProcess, what: string, place: Place): Promise<Ended> {
  let [stdout, stderr] = ["", ""];
  child.stdout?.setEncoding("utf8").on("data", (part: string) => (stdout += part));
  child.stderr?.setEncoding("utf8").on("data", (part: string) => (stderr += part));
  return await new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      const tell = async () => {
        const stacks = await reportHang(child, place);
        reject(new Hang(`'${what}' did not end\n${stacks}\nstdout: ${stdout}\nstderr: ${stderr}`));
      };
      tell().catch(reject);
    }, HANG_MS);
    child.on("error", reject);
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      const killed = signal !== null || code === null || code === 128 + 9;
      resolve({ status: killed ? undefined : code, stdout, stderr });
    });
  });
}

/** Asks Node for a report, and the kernel where each of its threads waits. */
async function reportHang(child: ChildProcess, place: Place): Promise<string> {
  const pids = [child.pid, ...childrenOf(child.pid)].filter((pid) => pid !== undefined);
  const kernel = pids.flatMap((pid) => kernelStacks(pid));
  for (const pid of pids) quietly(() => process.kill(pid, "SIGUSR2"));
  await new Promise((resolve) => setTimeout(resolve, REPORT_MS));
  for (const pid of pids) quietly(() => process.kill(pid, "SIGKILL"));
  const reports = readdirSync(place.reports).map((name) => {
    const text = readFileSync(join(place.reports, name), "utf8");
    rmSync(join(place.reports, name));
    return /"javascriptStack": \{[^}]*\}/s.exec(text)?.[0] ?? text.slice(0, 2000);
  });
  return [...kernel, ...reports].join("\n");
}

function childrenOf(pid: number | undefined): number[] {
  const list = spawnSync("pgrep", ["-P", String(pid)], { encoding: "utf8" }).stdout;
  return list
    .split("\n")
    .filter((line) => line !== "")
    .map(Number);
}

function kernelStacks(pid: number): string[] {
  const folder = `/proc/${pid}/task`;
  const threads = quietly(() => readdirSync(folder)) ?? [];
  return threads.map((thread) => {
    const at = (name: string) => quietly(() => readFileSync(`${folder}/${thread}/${name}`, "utf8")) ?? "";
    return `${pid}/${thread} ${at("comm").trim()}: ${at("wchan")}\n${at("stack")}`;
  });
}

/** A process may end while it is looked at. */
function quietly<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch {
    return undefined;
  }
}

/** A guest that writes and flushes, and may die then. False where QEMU does not open the image: fenced, locked, away. */
export function guestWrites(
  image: string,
  format: string,
  write: { readonly pattern: number; readonly offset: number; readonly lengthBytes: number },
  dies = false,
): boolean {
  if (!existsSync(image)) return false;
  const command = `write -q -P ${write.pattern} ${write.offset} ${write.lengthBytes}`;
  const end = dies ? ["-c", "sigraise 9"] : [];
  const done = spawnSync("qemu-io", ["-f", format, "-c", command, "-c", "flush", ...end, image], {
    encoding: "utf8",
  });
  const isAtEnd = dies ? done.signal === "SIGKILL" : done.status === 0;
  // QEMU repairs first what a guest that died has left dirty, and tells each count that it found wrong.
  const said = (done.stderr + done.stdout).replaceAll(/^ERROR (?:OFLAG_COPIED|cluster) .*$/gm, "");
  return isAtEnd && !/error|failed|can't open/i.test(said);
}

/** What QEMU says of an image: leaks are no fault of a disk that was cut off. Undefined where it is sound. */
export function complaintOf(image: string, format: string): string | undefined {
  if (format !== "qcow2") return undefined;
  const { status, stdout, stderr } = spawnSync("qemu-img", ["check", "-U", "-f", format, image], {
    encoding: "utf8",
  });
  return status === 0 || status === 3 ? undefined : `qemu-img check ${image}: ${stdout}${stderr}`;
}

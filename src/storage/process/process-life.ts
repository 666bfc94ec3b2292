// Whether a process that is known by what it wrote down still lives: where a lock can't tell, since it may have been
// taken through another mounting that shares none, or on a file that was replaced.
//
// Invariants
// - `alive` and `gone` are what the kernel shows. All else is `unknown`, and never taken for `gone`.
// - A number alone is no process: numbers are given again, so the time of its start goes with it, and the namespace
//   that the number is from. A process that has died and was not waited for yet is gone.

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import type { OriginProcess, ProcessLife, ProcessMark } from "../storage.ts";
import { quietly } from "../quietly.ts";

/** What is asked of the system, for tests to stand in for it. */
export interface ProcessTable {
  readonly text: (path: string) => string | undefined;
  readonly link: (path: string) => string | undefined;
  /** Undefined where it can't be listed. */
  readonly list: () => readonly string[] | undefined;
  /** Whether there is a process of that number in this namespace, whoever's it is. */
  readonly exists: (pid: number) => boolean;
  readonly sees: { readonly allUsers: boolean };
}

/** The namespace that all others are below: who is in it sees every process (PROC_PID_INIT_INO). */
const FIRST_NAMESPACE = "pid:[4026531836]";
const NO_PROCESSES = "";

export function readOwnMark(
  place: Pick<ProcessMark, "pid" | "boot" | "machine">,
  table: ProcessTable = NODE_TABLE,
): ProcessMark {
  const { pid, boot, machine } = place;
  const started = readStart(table, "self") ?? null;
  return { pid, started, processes: table.link("/proc/self/ns/pid") ?? NO_PROCESSES, boot, machine };
}

export function findLife(
  mark: ProcessMark,
  here: ProcessMark,
  table: ProcessTable = NODE_TABLE,
): ProcessLife {
  if (mark.boot !== here.boot || mark.boot === "") {
    // The machine was started anew since, and nothing lives that long.
    const isSameMachine = mark.machine !== "" && mark.machine === here.machine;
    return isSameMachine && mark.boot !== "" && here.boot !== "" ? "gone" : "unknown";
  }
  if (mark.processes !== here.processes) return findInOther(mark, here, table);
  if (mark.pid === here.pid && mark.started === here.started) return "self";
  if (!table.exists(mark.pid)) return "gone";
  const started = readStart(table, mark.pid);
  if (mark.started === null || started === undefined) return isDead(table, mark.pid) ? "gone" : "unknown";
  return started === mark.started && !isDead(table, mark.pid) ? "alive" : "gone";
}

/** A process of another container: seen only from above it. */
function findInOther(mark: ProcessMark, here: ProcessMark, table: ProcessTable): ProcessLife {
  const pids = table.list();
  if (mark.processes === NO_PROCESSES || pids === undefined) return "unknown";
  const isIt = (pid: string): boolean =>
    table.link(`/proc/${pid}/ns/pid`) === mark.processes &&
    innermostPid(table.text(`/proc/${pid}/status`)) === mark.pid &&
    readStart(table, pid) === mark.started &&
    !isDead(table, pid);
  if (pids.some(isIt)) return "alive";
  return here.processes === FIRST_NAMESPACE && table.sees.allUsers ? "gone" : "unknown";
}

/** `NSpid: 4711 12 1`, outermost first. */
function innermostPid(status: string | undefined): number | undefined {
  const numbers = /^NSpid:\s*(.+)$/m
    .exec(status ?? "")?.[1]
    ?.trim()
    .split(/\s+/);
  const last = numbers?.at(-1);
  return last === undefined ? undefined : Number(last);
}

/** Fields of proc(5), stat, after the name in parentheses, which may hold some itself: the state, and the start. */
function readFields(table: ProcessTable, pid: OriginProcess["pid"] | string): readonly string[] {
  const text = table.text(`/proc/${pid}/stat`) ?? "";
  return text.slice(text.lastIndexOf(")") + 2).split(" ");
}

function readStart(table: ProcessTable, pid: number | string): string | undefined {
  return readFields(table, pid)[19];
}

function isDead(table: ProcessTable, pid: number | string): boolean {
  return ["Z", "X"].includes(readFields(table, pid)[0] ?? "");
}

const NODE_TABLE: ProcessTable = {
  text: (path) => quietly(() => readFileSync(path, "utf8"), undefined),
  link: (path) => quietly(() => readlinkSync(path), undefined),
  list: () => quietly(() => readdirSync("/proc").filter((name) => /^\d+$/.test(name)), undefined),
  exists: (pid) => {
    try {
      return process.kill(pid, 0);
    } catch (error) {
      return (error as NodeJS.ErrnoException).code !== "ESRCH";
    }
  },
  get sees() {
    return { allUsers: process.geteuid?.() === 0 };
  },
};

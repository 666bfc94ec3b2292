// Where this process was started from, as far as the kernel tells: its login, its sessions, and the processes
// above it. What it means that two processes come from one place is decided by who compares two of these.
//
// A session of the kernel (setsid) is what a terminal, an ssh login, a cron job or a service has of its own.
// sudo, su and doas may give the command that they run a session of its own, though it is the caller's: so the
// session that they were called in counts as well. They stay in it while they wait for the command.

import { readFileSync, readlinkSync } from "node:fs";
import { loadForeign } from "../native/foreign.ts";
import type { Origin, OriginProcess, OriginSession } from "../storage.ts";
import { quietly } from "../quietly.ts";

/** What is read of /proc, for tests to stand in for it. Undefined where it is not there or not to be read. */
export interface ProcessFiles {
  readonly text: (path: string) => string | undefined;
  readonly link: (path: string) => string | undefined;
  /** getsid(2), for where there is no /proc. */
  readonly sessionId: () => number | undefined;
}

/** Programs that run a command for their caller, as another user. */
const CHANGE_USER: ReadonlySet<string> = new Set(["sudo", "sudo-rs", "su", "doas", "runuser"]);
/** What the kernel says for "none": a login that was never set. */
const UNSET = "4294967295";
/** Beyond any chain of processes that somebody would start a command from. */
const MOST_ANCESTORS = 64;

export function readOrigin(files: ProcessFiles = NODE_FILES): Origin {
  const self = readProcess(files, "self");
  if (!self) return withoutProc(files.sessionId());
  const above = readAncestors(files, self);
  const called = above.filter(({ program }) => CHANGE_USER.has(program)).map(({ session }) => session);
  const sessions = [...new Set([self.session, ...called])];
  const loginId = known(files.text("/proc/self/loginuid"));
  return {
    processes: files.link("/proc/self/ns/pid") ?? "",
    login: known(files.text("/proc/self/sessionid")) ?? null,
    loginUser: loginId === undefined ? null : nameOfUser(files, loginId),
    service: readService(files.text("/proc/self/cgroup") ?? ""),
    sessions: sessions.map((id) => describeSession(files, id)),
    ancestors: above
      .filter(({ session }) => sessions.includes(session))
      .map(({ pid, started }) => ({ pid, started })),
  };
}

/** Then the session's number is all that there is. */
function withoutProc(id: number | undefined): Origin {
  const sessions = id === undefined ? [] : [{ id, started: null }];
  return { processes: "", login: null, loginUser: null, service: null, sessions, ancestors: [] };
}

interface Process extends OriginProcess {
  readonly program: string;
  readonly parent: number;
  readonly session: number;
}

/** Nearest first. It ends where a process is hidden, as those of other users may be. */
function readAncestors(files: ProcessFiles, self: Process): Process[] {
  const above: Process[] = [];
  let next = self.parent;
  while (next > 0 && above.length < MOST_ANCESTORS) {
    const process = readProcess(files, next);
    if (!process) break;
    above.push(process);
    next = process.parent;
  }
  return above;
}

/** Fields of proc(5), stat: after the name, in parentheses, which may hold parentheses itself. */
function readProcess(files: ProcessFiles, pid: number | "self"): Process | undefined {
  const text = files.text(`/proc/${pid}/stat`);
  const [begin, end] = [text?.indexOf("(") ?? -1, text?.lastIndexOf(")") ?? -1];
  if (text === undefined || begin === -1 || end === -1) return undefined;
  const fields = text.slice(end + 2).split(" ");
  // Numbered from the state, which is field 3 there: ppid is 4, session 6, starttime 22.
  const [parent, session, started] = [fields[1], fields[3], fields[19]];
  if (parent === undefined || session === undefined || started === undefined) return undefined;
  return {
    pid: Number(text.slice(0, begin)),
    program: text.slice(begin + 1, end),
    parent: Number(parent),
    session: Number(session),
    started,
  };
}

/** Session 0 is one that began outside of this container: its leader has no number here. */
function describeSession(files: ProcessFiles, id: number): OriginSession {
  const leader = id === 0 ? undefined : readProcess(files, id);
  return { id, started: leader?.started ?? null };
}

/** The service of systemd that this process belongs to, and none where a login or an application has a scope of its own. */
function readService(cgroups: string): string | null {
  const line = cgroups
    .split("\n")
    .find((each) => each.startsWith("0::/") || each.includes(":name=systemd:/"));
  const units = line?.slice(line.indexOf("/")).split("/") ?? [];
  const at = units.findLastIndex((unit) => /\.(service|scope)$/.test(unit));
  return units[at]?.endsWith(".service") === true ? units.slice(0, at + 1).join("/") : null;
}

function known(text: string | undefined): string | undefined {
  const value = text?.trim();
  return value === undefined || value === "" || value === UNSET ? undefined : value;
}

function nameOfUser(files: ProcessFiles, id: string): string {
  const lines = files.text("/etc/passwd")?.split("\n") ?? [];
  const entry = lines.map((line) => line.split(":")).find((fields) => fields[2] === id);
  return entry?.[0] ?? `uid ${id}`;
}

const NODE_FILES: ProcessFiles = {
  text: (path) => quietly(() => readFileSync(path, "utf8"), undefined),
  link: (path) => quietly(() => readlinkSync(path), undefined),
  sessionId: () => quietly(() => Number(loadForeign().load(null).func("int getsid(int pid)")(0)), undefined),
};

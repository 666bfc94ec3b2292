// Whether a process lives that is known by what it wrote down, asked of a /proc that the tests make up, and of the real one.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, expect, test } from "vitest";
import type { ProcessMark } from "../../../src/storage/index.ts";
import { findLife, type ProcessTable, readOwnMark } from "../../../src/storage/process/process-life.ts";

const HERE: ProcessMark = {
  pid: 10,
  started: "100",
  processes: "pid:[4026531836]",
  boot: "boot-1",
  machine: "m-1",
};

function statOf(pid: number, started: string, state = "S"): string {
  return `${pid} (a (b) c) ${state} 1 ${"0 ".repeat(17)}${started} 0 0`;
}

function tableOf(files: Readonly<Record<string, string>>, allUsers = true): ProcessTable {
  return {
    text: (path) => files[path],
    link: (path) => files[path],
    list: () => ["1", "77"],
    exists: (pid) => files[`/proc/${pid}/stat`] !== undefined || files[`/proc/${pid}/hidden`] !== undefined,
    sees: { allUsers },
  };
}

const CONTAINER = {
  "/proc/77/ns/pid": "pid:[5]",
  "/proc/77/status": "Name:\timgtx\nNSpid:\t77\t4\n",
  "/proc/77/stat": statOf(77, "55"),
};
const INSIDE: ProcessMark = { ...HERE, pid: 4, started: "55", processes: "pid:[5]" };

describe("a process of this start of the machine", () => {
  test("is alive by its number and its start, and gone where either is another's", () => {
    const table = tableOf({ "/proc/77/stat": statOf(77, "55") });
    expect(findLife({ ...HERE, pid: 77, started: "55" }, HERE, table)).toBe("alive");
    expect(findLife({ ...HERE, pid: 77, started: "54" }, HERE, table)).toBe("gone");
    expect(findLife({ ...HERE, pid: 78, started: "55" }, HERE, table)).toBe("gone");
    expect(findLife(HERE, HERE, table)).toBe("self");
  });

  test("that died and was not waited for is gone", () => {
    const table = tableOf({ "/proc/77/stat": statOf(77, "55", "Z") });
    expect(findLife({ ...HERE, pid: 77, started: "55" }, HERE, table)).toBe("gone");
  });

  test("that is hidden, or did not know its start, is not taken for gone", () => {
    expect(findLife({ ...HERE, pid: 77, started: "55" }, HERE, tableOf({ "/proc/77/hidden": "" }))).toBe(
      "unknown",
    );
    const table = tableOf({ "/proc/77/stat": statOf(77, "55") });
    expect(findLife({ ...HERE, pid: 77, started: null }, HERE, table)).toBe("unknown");
  });

  test("in a container is found from above it, and not known from beside it", () => {
    expect(findLife(INSIDE, HERE, tableOf(CONTAINER))).toBe("alive");
    expect(findLife({ ...INSIDE, pid: 5 }, HERE, tableOf(CONTAINER))).toBe("gone");
    expect(findLife({ ...INSIDE, pid: 5 }, HERE, tableOf(CONTAINER, false))).toBe("unknown");
    expect(findLife(INSIDE, { ...HERE, processes: "pid:[6]" }, tableOf({}))).toBe("unknown");
  });
});

describe("a process of another start", () => {
  test("of this machine is gone", () => {
    expect(findLife({ ...HERE, boot: "boot-0" }, HERE, tableOf({}))).toBe("gone");
  });

  test("of another machine, or of one without a name, is not known", () => {
    expect(findLife({ ...HERE, boot: "boot-0", machine: "m-2" }, HERE, tableOf({}))).toBe("unknown");
    const nameless = { ...HERE, machine: "" };
    expect(findLife({ ...nameless, boot: "boot-0" }, nameless, tableOf({}))).toBe("unknown");
    expect(findLife({ ...HERE, boot: "" }, { ...HERE, boot: "" }, tableOf({}))).toBe("unknown");
  });
});

test("the real /proc tells this process, a child that runs, and one that has been killed", async () => {
  const here = readOwnMark({ pid: process.pid, boot: "b", machine: "" });
  expect(findLife(here, here)).toBe("self");
  const child = spawn(
    process.execPath,
    [
      "-e",
      'console.log(require("fs").readFileSync("/proc/self/stat","utf8").split(") ")[1].split(" ")[19]); setInterval(() => 0, 1000)',
    ],
    { stdio: ["ignore", "pipe", "ignore"] },
  );
  const [line] = (await once(child.stdout, "data")) as [Buffer];
  const mark = { ...here, pid: child.pid ?? 0, started: line.toString().trim() };
  expect(findLife(mark, here)).toBe("alive");
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
  expect(findLife(mark, here)).toBe("gone");
});

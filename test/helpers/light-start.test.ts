// A program that is started without a copy of this process meets what it meets from Node, and so does who started it.

import { spawnSync, type SpawnSyncOptions } from "node:child_process";
import { expect, test } from "vitest";
import { makeFolder } from "./temporary-folder.ts";

/** With a limit of time, Node starts it itself. */
const BY_NODE = { timeout: 15 * 60_000 };

const bash = (script: string): [string, string[]] => ["bash", ["--norc", "-c", script]];
const WHAT_IT_HAS =
  "pwd; env | sort; umask; ulimit -n; grep -E 'SigBlk|SigIgn' /proc/self/status; " +
  "for fd in /proc/self/fd/*; do readlink $fd | sed 's/[0-9]\\{2,\\}/N/'; done; exec 3<&-; cat";

const PROGRAMS: readonly [string, string, readonly string[], SpawnSyncOptions?][] = [
  ["ends well", "true", []],
  ["ends otherwise", ...bash("echo out; echo err >&2; exit 7")],
  ["is killed", ...bash("kill -9 $$")],
  ["ends by another signal", ...bash("kill -TERM $$")],
  ["is named by its path", "/bin/true", []],
  ["is none", "nonesuch", []],
  ["is no program", "/etc/passwd", []],
  ["lies in a PATH of its own", "true", [], { env: { PATH: "/nonesuch:/bin" } }],
  ["has no PATH", "true", [], { env: {} }],
  [
    "tells what it has",
    ...bash(WHAT_IT_HAS),
    { env: { PATH: process.env["PATH"], A: "ü", B: "two\nlines" } },
  ],
  ["works elsewhere", ...bash("pwd"), { cwd: "/usr" }],
  ["works nowhere", "true", [], { cwd: "/nonesuch" }],
  ["gets words", "printf", ["%s|", "", "ü", "a b", "\n"]],
  ["says nothing that is heard", ...bash("echo out; echo err >&2"), { stdio: "ignore" }],
  ["is heard in part", ...bash("echo out; echo err >&2"), { stdio: ["ignore", "pipe", "ignore"] }],
  ["gets input", "cat", [], { input: "hello" }],
  ["says much in both", ...bash("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; echo end")],
];

test.each(PROGRAMS)("a program that %s", (_, program, words, options = {}) => {
  const light = spawnSync(program, words, options);
  const byNode = spawnSync(program, words, { ...options, ...BY_NODE });
  expect({ ...light, pid: 0 }).toEqual({ ...byNode, pid: 0 });
});

test("a program that says more than is to be kept is ended", () => {
  const { error, signal } = spawnSync("yes", [], { maxBuffer: 1000 });
  expect([(error as NodeJS.ErrnoException).code, signal]).toEqual(["ENOBUFS", "SIGTERM"]);
});

test("a folder's own programs are found from where it is started", () => {
  const [folder, own] = [makeFolder(), "own"];
  spawnSync("cp", ["/bin/true", `${folder}/${own}`]);
  expect(spawnSync(own, [], { cwd: folder, env: { PATH: "." } }).status).toBe(0);
});

// A process that opens a file for writing while somebody has a lease on it, and so waits in its open.

import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { onTestFinished } from "vitest";

// The folder says that the next call is the open.
const OPEN = `
  const fs = require("node:fs");
  const [path, folder, staysMs] = process.argv.slice(1);
  fs.mkdirSync(folder);
  fs.openSync(path, "r+");
  setTimeout(() => {}, Number(staysMs));
`;

const STAYS = 2 ** 30;
const PAUSE_MS = 2;

/** Returns, without letting anything else of this process run, when the other one waits in its open. */
export function openWhileLeased(path: string, staysMs: number = STAYS): void {
  const folder = `${path}.opening`;
  const { pid, kill } = start(path, folder, staysMs);
  onTestFinished(kill);
  while (!existsSync(folder) || !isAsleep(pid)) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE_MS);
  }
}

function start(path: string, folder: string, staysMs: number): { pid: number; kill: () => void } {
  const child = spawn(process.execPath, ["-e", OPEN, path, folder, String(staysMs)], { stdio: "inherit" });
  const { pid } = child;
  if (pid === undefined) throw new Error("the other process did not start");
  return { pid, kill: () => void child.kill("SIGKILL") };
}

function isAsleep(pid: number): boolean {
  return /^State:\s*[SD]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
}

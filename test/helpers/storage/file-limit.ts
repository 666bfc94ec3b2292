// `ulimit -f` for this process alone, for as long as something takes: files that the kernel lets become no larger.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

export async function withFileLimit<T>(limitBytes: number, work: () => Promise<T>): Promise<T> {
  const [, before = "unlimited"] =
    /^Max file size +(\S+)/m.exec(readFileSync("/proc/self/limits", "latin1")) ?? [];
  setLimit(String(limitBytes));
  try {
    return await work();
  } finally {
    setLimit(before);
  }
}

/** The soft limit, which may be raised again. */
function setLimit(limit: string): void {
  execFileSync("prlimit", ["--pid", String(process.pid), `--fsize=${limit}:`]);
}

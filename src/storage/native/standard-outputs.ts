// Keeps koffi from flushing the standard outputs to disk as the process ends, which it does to both by itself. For a log on
// a busy disk that takes as long as a commit's own flush; where the flush of standard error fails, koffi waits for a lock
// that it holds itself, for ever.

import { fstatSync, openSync } from "node:fs";
import type { NativeLibrary } from "./foreign-library.ts";
import { quietly } from "../quietly.ts";

const OUTPUTS = [1, 2];

/**
 * Once nothing is left to be done, and so all is written, those that are files lead nowhere. Terminals and pipes, which can't be
 * flushed, stay: what restores a terminal may come later still.
 */
export function leaveUnflushed(libc: NativeLibrary, isMainThread: () => boolean): void {
  process.once("beforeExit", () => {
    const files = OUTPUTS.filter((output) => quietly(() => canBeFlushed(output), false));
    if (files.length === 0 || !isMainThread()) return;
    const nowhere = quietly(() => openSync("/dev/null", "w"), undefined);
    if (nowhere === undefined) return;
    const replace = libc.func("int dup2(int from, int to)");
    for (const output of files) replace(nowhere, output);
  });
}

function canBeFlushed(output: number): boolean {
  const stat = fstatSync(output);
  return stat.isFile() || stat.isBlockDevice();
}

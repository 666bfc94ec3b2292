// Commands that a test gives in one folder.

import { expect } from "vitest";
import { type Result, runCli } from "./harness.ts";

export interface Commands {
  /** The words of a command, or a line of them. */
  readonly run: (...words: readonly string[]) => Promise<Result>;
  /** The same, which must succeed. */
  readonly must: (...words: readonly string[]) => Promise<Result>;
}

export function commandsIn(root: string): Commands {
  const run: Commands["run"] = async (first = "", ...more) =>
    await runCli(more.length === 0 ? first.split(" ") : [first, ...more], { cwd: root });
  const must: Commands["must"] = async (...words) => {
    const result = await run(...words);
    expect([result.stderr, result.status], words.join(" ")).toEqual([expect.anything(), 0]);
    return result;
  };
  return { run, must };
}

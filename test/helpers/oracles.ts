// Tests that need a tool of this machine: qemu-img as the judge, strace, a mount. Where the tool is missing
// such a test is skipped, and said to be, by name; in CI it fails instead, since a skip there hides a break.

import { accessSync, constants, statSync } from "node:fs";
import { delimiter } from "node:path";
import { test, type TestAPI } from "vitest";

export interface Oracle {
  /** Whether its tests are skipped here; for hooks that would start the tool. */
  readonly skip: boolean;
  /** Takes the place of vitest's `test`. */
  readonly test: TestAPI;
}

/**
 * For tests that need these programs; "root" stands for being root.
 *
 *     const qemu = oracle("qemu-img", "qemu-io");
 *     qemu.test("the overlay is clean", async () => { … });
 */
export function oracle(...tools: string[]): Oracle {
  const missing = tools.filter((tool) => !isThere(tool));
  if (missing.length === 0) return { skip: false, test };
  const want = `needs ${missing.join(", ")}`;
  const withoutTools = test.extend<{ tools: undefined }>({
    tools: [
      async ({ task, skip }) => {
        if (isCi()) throw new Error(`${want}, which CI must have`);
        process.stderr.write(`skipped: ${task.name} (${want})\n`);
        skip(want);
      },
      { auto: true },
    ],
  });
  return { skip: true, test: withoutTools };
}

function isCi(): boolean {
  return !["", "0", "false"].includes(process.env["CI"] ?? "");
}

function isThere(tool: string): boolean {
  if (tool === "root") return process.getuid?.() === 0;
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  return folders.some((folder) => isProgram(`${folder}/${tool}`));
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

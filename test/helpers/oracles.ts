// Tests that need a tool of this machine: qemu-img as the judge, strace, a mount. Where the tool is missing
// such a test is skipped, and said to be, by name; in CI it fails instead, since a skip there hides a break.

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmdirSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { delimiter } from "node:path";
import { test, type TestAPI } from "vitest";
import { isProgram } from "./light-start.ts";

export interface Oracle {
  /** Whether its tests are skipped here; for hooks that would start the tool. */
  readonly skip: boolean;
  /** Takes the place of vitest's `test`. */
  readonly test: TestAPI;
}

/**
 * For tests that need these programs, "qemu-img-11" for a version beside the system's, or may do these things: "root",
 * "mounts" (mount and unmount), "loops" (mount an image file).
 *
 *     const qemu = oracle("qemu-img", "qemu-io");
 *     qemu.test("the overlay is clean", async () => { … });
 */
export function oracle(...tools: string[]): Oracle {
  const missing = tools.filter((tool) => !isThere(tool));
  if (missing.length === 0) return { skip: false, test };
  // Newer versions come over the network, which nobody has to have.
  const mayBeMissing = missing.every((tool) => tool.startsWith(NEWER));
  const want = `needs ${missing.join(", ")}`;
  const withoutTools = test.extend<{ tools: undefined }>({
    tools: [
      async ({ task, skip }) => {
        if (isCi() && !mayBeMissing) throw new Error(`${want}, which CI must have`);
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

// Being root is not enough in a container, which may forbid both: tried out, not deduced.
const PRIVILEGES: Readonly<Record<string, () => boolean>> = {
  root: () => process.getuid?.() === 0,
  mounts: canMount,
  loops: () => canMount() && succeeds("losetup", "--find") && succeeds("flock", "/dev/loop-control", "true"),
};

const NEWER = "qemu-img-";

/** Where install-newer-qemu.sh unpacks a version of qemu-img: 10 or 11. */
export function newerQemu(version: number): string {
  const cache = process.env["XDG_CACHE_HOME"] || `${homedir()}/.cache`;
  return `${cache}/imgtx-oracles/${NEWER}${version}`;
}

function isThere(tool: string): boolean {
  if (tool.startsWith(NEWER)) return isProgram(newerQemu(Number(tool.slice(NEWER.length))));
  const privilege = PRIVILEGES[tool];
  if (privilege !== undefined) return privilege();
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  return folders.some((folder) => isProgram(`${folder}/${tool}`));
}

function canMount(): boolean {
  const folder = mkdtempSync(`${tmpdir()}/imgtx-mount-`);
  try {
    return succeeds("mount", "-t", "tmpfs", "none", folder) && succeeds("umount", folder);
  } finally {
    rmdirSync(folder);
  }
}

function succeeds(program: string, ...parameters: string[]): boolean {
  return spawnSync(program, parameters, { stdio: "ignore" }).status === 0;
}

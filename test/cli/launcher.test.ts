// The launcher and the bundle, as a process: built into a folder of its own, so that no other test's
// bundle is taken away.

import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readFile, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const TOP = fileURLToPath(new URL("../..", import.meta.url));

let folder = "";

beforeAll(async () => {
  folder = await mkdtemp(`${tmpdir()}/imgtx-launcher-`);
  for (const place of ["built", "bare"]) {
    await mkdir(`${folder}/${place}`);
    await cp(`${TOP}/bin`, `${folder}/${place}/bin`, { recursive: true });
    await cp(`${TOP}/package.json`, `${folder}/${place}/package.json`);
  }
  await symlink(`${TOP}/node_modules`, `${folder}/built/node_modules`);
  await runShell(`node "${TOP}/test/tooling/build.mjs" "${folder}/built/dist"`);
});

afterAll(async () => {
  await rm(folder, { recursive: true });
});

/** Runs a line in bash, where `imgtx` is the built one and `bare` the one without a bundle. */
function runShell(line: string): Promise<{ status: number; stdout: string; stderr: string }> {
  const functions = [
    `imgtx() { node "${folder}/built/bin/imgtx.js" "$@"; }`,
    `bare() { node "${folder}/bare/bin/imgtx.js" "$@"; }`,
    "set -o pipefail",
  ].join("\n");
  return new Promise((resolve) => {
    execFile("bash", ["-c", `${functions}\n${line}`], { cwd: folder }, (error, stdout, stderr) => {
      resolve({ status: typeof error?.code === "number" ? error.code : 0, stdout, stderr });
    });
  });
}

describe("the launcher", () => {
  test("answers --version without a bundle", async () => {
    const { version } = JSON.parse(await readFile(`${TOP}/package.json`, "utf8")) as { version: string };
    for (const line of ["bare --version", "bare -V", "imgtx --quiet --version"]) {
      expect(await runShell(line)).toEqual({ status: 0, stdout: `imgtx ${version}\n`, stderr: "" });
    }
  });

  test("says how to build where that has not been done", async () => {
    const result = await runShell("bare device list");
    expect(result).toMatchObject({ status: 1, stdout: "" });
    expect(result.stderr).toBe(
      "error: imgtx has not been built\n  hint: run `npm ci && npm run build` in its folder\n",
    );
  });

  test("ends with the command's status, and prints all of its output", async () => {
    const help = await runShell("imgtx --help | cat");
    expect(help).toMatchObject({ status: 0, stderr: "" });
    expect(help.stdout).toMatch(/^imgtx changes disk images[^]*man imgtx[^]*\n$/);
    expect(await runShell("imgtx snapshto")).toMatchObject({ status: 64, stdout: "" });
  });

  test("is quiet when the reader goes away, and keeps its status", async () => {
    const line = (command: string) => `{ sleep 0.2; imgtx ${command}; echo "status $?" >&2; } | true`;
    expect((await runShell(line("--help"))).stderr).toBe("status 0\n");
    expect((await runShell(line("--version"))).stderr).toBe("status 0\n");
    expect((await runShell(line("snapshto") + " 2>&1")).stdout).toBe("");
  });

  test("does not end with 0 when its result can't be written", async () => {
    for (const command of ["--help", "--version"]) {
      const { status, stderr } = await runShell(`imgtx ${command} > /dev/full`);
      expect(status).toBe(1);
      expect(stderr).toMatch(/^error: the (result|version) could not be written: ENOSPC[^\n]*\n$/);
    }
  });
});

// imgtx freeze and unfreeze as they are typed, and the locks that `freeze -- COMMAND` holds, tried from inside.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { describe, expect, onTestFinished, test } from "vitest";
import type { ChildEnd, CliContext } from "../../../src/cli/context.ts";
import { oracle } from "../../helpers/oracles.ts";
import { sampleQcow2 } from "../../helpers/sample-image.ts";
import {
  makeDevice,
  makeInterrupts,
  makeOutcome,
  recordingEngine,
  runCli,
  type Result,
} from "../../helpers/cli/harness.ts";

type Spawn = NonNullable<CliContext["spawn"]>;

async function makeDisk(): Promise<string> {
  const folder = mkdtempSync(`${tmpdir()}/imgtx-freeze-`);
  onTestFinished(() => {
    rmSync(folder, { recursive: true });
  });
  writeFileSync(`${folder}/a.qcow2`, sampleQcow2({ virtualSizeBytes: 65_536, dataClusters: [0], seed: 1 }));
  expect((await runCli(["device", "add", "vda", "a.qcow2"], { cwd: folder })).status).toBe(0);
  return folder;
}

/** Does something while the command would run, and ends as told. */
function spawnDoing(work: () => unknown, end: ChildEnd = { kind: "exited", status: 0 }): Spawn {
  return async () => ({ ended: Promise.resolve(work()).then(() => end), kill: () => undefined });
}

async function hold(folder: string, work: () => unknown, end?: ChildEnd): Promise<Result> {
  return await runCli(["freeze", "vda", "--", "work"], { cwd: folder, spawn: spawnDoing(work, end) });
}

describe("the words", () => {
  test("make one request for all devices", async () => {
    const { engine, calls } = recordingEngine();
    await runCli(["freeze", "vda", "vdb", "--strict"], { engine });
    await runCli(["freeze", "vdc"], { engine });
    await runCli(["unfreeze", "vda", "vdb"], { engine });
    await runCli(["unfreeze", "--force", "vdc"], { engine });
    expect(calls.flatMap(({ requests }) => requests)).toEqual([
      { kind: "freeze", devices: ["vda", "vdb"], strict: true },
      { kind: "freeze", devices: ["vdc"], strict: false },
      { kind: "unfreeze", devices: ["vda", "vdb"], force: false },
      { kind: "unfreeze", devices: ["vdc"], force: true },
    ]);
  });

  test("may be lines of a batch, but not those of a command", async () => {
    const { engine, calls } = recordingEngine();
    const stdin = "freeze vda\nunfreeze vda --force\n";
    await runCli(["txn", "run", "-"], { engine, stdin });
    expect(calls[0]?.requests.map(({ kind }) => kind)).toEqual(["freeze", "unfreeze"]);
    const refused = await runCli(["txn", "run", "-"], { engine, stdin: "freeze vda -- true\n" });
    expect(refused).toMatchObject({ status: 64 });
    expect(refused.stderr).toContain("line 1: a command is run by `imgtx freeze` alone");
  });

  test.each([
    [["freeze"], "missing required argument 'DEV'"],
    [["freeze", "vda", "--"], "after '--' there is no COMMAND"],
    [["freeze", "--", "true"], "missing required argument 'DEV'"],
    [["freeze", "vda", "--strict", "--", "true"], "--strict is about fences"],
    [["unfreeze"], "missing required argument 'DEV'"],
  ])("%j are a usage error", async (argv, message) => {
    const { status, stderr } = await runCli(argv, { engine: {} });
    expect(status).toBe(64);
    expect(stderr).toContain(message);
  });

  test("of help put the command last", async () => {
    const { stdout } = await runCli(["freeze", "--help"]);
    expect(stdout).toContain("Usage: imgtx freeze DEV ... [OPTIONS] [-- COMMAND ...]\n");
  });
});

describe("a frozen device", () => {
  const device = makeDevice({
    frozen: true,
    frozenSince: "2012-03-05T14:03:11.000Z",
    frozenBy: "root",
    fences: ["/srv/guests/a.qcow2"],
  });

  test("is shown with since, by whom, and which image is fenced", async () => {
    const engine = { describeDevices: async () => ({ generation: 4, devices: [device] }) };
    const since = "frozen since 2012-03-05 14:03:11Z by root";
    expect((await runCli(["device", "list"], { engine })).stdout).toContain(since);
    const { stdout } = await runCli(["device", "show", "vda"], { engine });
    expect(stdout).toContain(`vda  10 GiB, ${since}\n`);
    expect(stdout).toMatch(/a\.qcow2 +qcow2, base, fenced\n/);
  });

  test("is told of in JSON", async () => {
    const { engine } = recordingEngine(makeOutcome({ devices: [device] }));
    const { stdout } = await runCli(["freeze", "vda", "--json"], { engine });
    expect(JSON.parse(stdout)).toMatchObject({
      devices: [
        {
          frozen: true,
          "frozen-since": "2012-03-05T14:03:11.000Z",
          "frozen-by": "root",
          fences: ["/srv/guests/a.qcow2"],
        },
      ],
    });
  });
});

describe("freeze -- COMMAND", () => {
  test.each([
    [{ kind: "exited", status: 0 }, 0, ""],
    [{ kind: "exited", status: 7 }, 7, ""],
    [{ kind: "killed", signal: "SIGKILL", status: 137 }, 137, "the command was killed by SIGKILL"],
    [{ kind: "not-started", reason: "no such program", status: 127 }, 127, "could not be run: no such"],
  ] as const)("that ends as %j ends with %i, and changes nothing", async (end, status, said) => {
    const folder = await makeDisk();
    const before = readFileSync(`${folder}/a.qcow2`);
    const result = await hold(folder, () => undefined, end);
    expect(result).toMatchObject({ status, stdout: "" });
    expect(result.stderr).toContain(said);
    expect(readFileSync(`${folder}/a.qcow2`).equals(before)).toBe(true);
    const { stdout } = await runCli(["history", "--json"], { cwd: folder });
    expect(JSON.parse(stdout)).toMatchObject({ generations: [{ generation: 1 }, { generation: 0 }] });
  });

  test("gets its words as they are, and the workspace", async () => {
    const folder = await makeDisk();
    const seen: unknown[] = [];
    const spawn: Spawn = async (command, { env }) => {
      seen.push(command, env["IMGTX_WORKSPACE"], env["IMGTX_TXN"]);
      return { ended: Promise.resolve({ kind: "exited", status: 0 }), kill: () => undefined };
    };
    await runCli(["freeze", "vda", "--", "sh", "-c", "--json", "--", "--help"], { cwd: folder, spawn });
    expect(seen).toEqual([["sh", "-c", "--json", "--", "--help"], folder, undefined]);
  });

  test("is told of by --dry-run, and not run", async () => {
    const folder = await makeDisk();
    const argv = ["freeze", "--dry-run", "vda", "--", "cp", "a", "b"];
    const { stdout } = await runCli(argv, { cwd: folder, spawn: () => expect.fail("it was run") });
    expect(stdout).toBe("Dry run: 'cp a b' would be run, and nobody could write to vda meanwhile.\n");
  });

  test("lets imgtx put an overlay on top, and keeps it from fencing or writing to the image", async () => {
    const folder = await makeDisk();
    const inside: number[] = [];
    await hold(folder, async () => {
      for (const argv of [
        ["freeze", "vda"],
        ["img", "dd", "-O", "qcow2", "if=a.qcow2", "of=a.qcow2", "bs=512", "count=1"],
        ["img", "convert", "-O", "raw", "a.qcow2", "copy.raw"],
        ["snapshot", "vda", "a1.qcow2"],
      ]) {
        inside.push((await runCli(argv, { cwd: folder })).status);
      }
    });
    expect(inside).toEqual([10, 1, 0, 0]);
    expect((await runCli(["freeze", "vda"], { cwd: folder })).status).toBe(0);
  });

  test("passes signals on, and an interrupt ends it even where the command ends with 0", async () => {
    const folder = await makeDisk();
    const { onInterrupt, send } = makeInterrupts();
    const passed: string[] = [];
    const spawn: Spawn = async () => {
      let end: (end: ChildEnd) => void = () => undefined;
      const ended = new Promise<ChildEnd>((resolve) => {
        end = resolve;
      });
      setImmediate(() => {
        send("SIGTERM");
      });
      return {
        ended,
        kill: (name) => {
          passed.push(name);
          end({ kind: "exited", status: 0 });
        },
      };
    };
    const { status } = await runCli(["freeze", "vda", "--", "x"], { cwd: folder, spawn, onInterrupt });
    expect([status, passed]).toEqual([143, ["SIGTERM"]]);
  });

  oracle("qemu-io").test("lets QEMU read and not write while it runs, and not longer", async () => {
    const folder = await makeDisk();
    const qemuIo = (...words: string[]) =>
      spawnSync("qemu-io", ["-f", "qcow2", ...words, `${folder}/a.qcow2`], { encoding: "utf8" });
    const write = () => qemuIo("-c", "write 0 512");
    const read = () => qemuIo("-r", "-c", "read 0 512");
    await hold(folder, () => {
      const refused = write();
      expect(refused.status).not.toBe(0);
      expect(refused.stderr).toContain('Failed to get "write" lock');
      expect(read().status).toBe(0);
    });
    expect(write().status).toBe(0);
  });
});

// snapshot-group --before and --after: in which order things happen, what each failure leads to, and that the end is
// run whatever came before it.

import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { describe, expect, onTestFinished, test } from "vitest";
import type { ChildEnd, CliContext } from "../../../src/cli/context.ts";
import { sampleQcow2 } from "../../helpers/sample-image.ts";
import { makeInterrupts, type Result, runCli, type RunSetting } from "../../helpers/cli/harness.ts";

type Spawn = NonNullable<CliContext["spawn"]>;

const OK: ChildEnd = { kind: "exited", status: 0 };
const HOOKS = ["--before", "freeze it", "--after", "thaw it"];

async function makeDisk(): Promise<string> {
  const folder = mkdtempSync(`${tmpdir()}/imgtx-hooks-`);
  onTestFinished(() => {
    rmSync(folder, { recursive: true });
  });
  writeFileSync(`${folder}/a.qcow2`, sampleQcow2({ virtualSizeBytes: 65_536, dataClusters: [0], seed: 1 }));
  expect((await runCli(["device", "add", "vda", "a.qcow2"], { cwd: folder })).status).toBe(0);
  return folder;
}

interface Scene {
  readonly result: Result;
  /** The commands, each with whether the overlay was there by then. */
  readonly ran: readonly (readonly [string | undefined, boolean])[];
}

async function take(
  folder: string,
  ends: Readonly<Record<string, ChildEnd>>,
  argv: readonly string[] = HOOKS,
  setting: RunSetting = {},
): Promise<Scene> {
  const ran: (readonly [string | undefined, boolean])[] = [];
  const spawn: Spawn = async (command, { isApart, env }) => {
    expect([isApart, env["IMGTX_TXN"], env["IMGTX_DEVICES"]]).toEqual([true, "none", "vda"]);
    ran.push([command[2], existsSync(`${folder}/a1.qcow2`)]);
    return { ended: Promise.resolve(ends[command[2] ?? ""] ?? OK), kill: () => undefined };
  };
  const words = ["snapshot-group", "vda=a1.qcow2", ...argv];
  return { result: await runCli(words, { cwd: folder, spawn, ...setting }), ran };
}

const nothingLeft = (folder: string) => runCli(["device", "list", "-q"], { cwd: folder });

describe("hooks of a group snapshot", () => {
  test("are run before it is made and after it is committed", async () => {
    const folder = await makeDisk();
    const { result, ran } = await take(folder, {});
    expect(result).toMatchObject({ status: 0, stderr: "" });
    expect(ran).toEqual([
      ["freeze it", false],
      ["thaw it", true],
    ]);
    expect(await nothingLeft(folder)).toEqual({ status: 0, stdout: "vda\n", stderr: "" });
  });

  test.each([
    [{ kind: "exited", status: 3 } as const, "--before failed: it ended with 3"],
    [{ kind: "killed", signal: "SIGKILL", status: 137 } as const, "it was killed by SIGKILL"],
    [{ kind: "not-started", reason: "no such program", status: 127 } as const, "no such program"],
  ])("abort it where --before ends as %j, and --after is run all the same", async (end, said) => {
    const folder = await makeDisk();
    const { result, ran } = await take(folder, { "freeze it": end });
    expect(result).toMatchObject({ status: 1, stdout: "" });
    expect(result.stderr).toContain(said);
    expect(ran).toEqual([
      ["freeze it", false],
      ["thaw it", false],
    ]);
    expect(existsSync(`${folder}/a1.qcow2`)).toBe(false);
    expect((await nothingLeft(folder)).stderr).toBe("");
  });

  test("thaw after a snapshot that is refused, too", async () => {
    const folder = await makeDisk();
    writeFileSync(`${folder}/a1.qcow2`, "there");
    const { result, ran } = await take(folder, { "thaw it": { kind: "exited", status: 4 } });
    expect(result.status).toBe(14);
    expect(result.stderr).toContain("--after failed: it ended with 4");
    expect(ran.map(([command]) => command)).toEqual(["freeze it", "thaw it"]);
  });

  test("leave the snapshot where --after fails, and say so with 1", async () => {
    const folder = await makeDisk();
    const { result } = await take(folder, { "thaw it": { kind: "exited", status: 4 } }, [...HOOKS, "--json"]);
    expect(result.status).toBe(1);
    expect(JSON.parse(result.stdout)).toMatchObject({ changed: true, generation: 2 });
    expect(JSON.parse(result.stderr)).toMatchObject({
      error: {
        code: "E_COMMAND_FAILED",
        message: "--after failed: it ended with 4; the snapshot is taken: generation 2",
        changed: true,
      },
    });
  });

  test("are told of by a dry run, and not run; and are not for batches or open transactions", async () => {
    const folder = await makeDisk();
    const dry = await take(folder, {}, [...HOOKS, "--dry-run"]);
    expect(dry).toMatchObject({ result: { status: 0 }, ran: [] });
    expect(dry.result.stderr).toContain("'thaw it' would be run");
    const batch = await runCli(["txn", "run", "-"], {
      cwd: folder,
      stdin: "snapshot-group vda=a1.qcow2 --after 'thaw it'",
    });
    expect(batch.status).toBe(64);
    await runCli(["txn", "begin"], { cwd: folder });
    const joined = await take(folder, {});
    expect(joined).toMatchObject({ result: { status: 14 }, ran: [] });
    expect((await take(folder, {}, [...HOOKS, "--txn", "none"])).result.status).toBe(0);
  });

  test("that take too long are killed, and have failed", async () => {
    const folder = await makeDisk();
    const kills: string[] = [];
    let finish: (end: ChildEnd) => void = () => undefined;
    const spawn: Spawn = async ([, , command]) => ({
      ended: command === "thaw it" ? Promise.resolve(OK) : new Promise((resolve) => (finish = resolve)),
      kill: (signal) => {
        kills.push(signal);
        finish({ kind: "killed", signal, status: 143 });
      },
    });
    const { result } = await take(folder, {}, [...HOOKS, "--hook-timeout", "1"], { spawn });
    expect(result.status).toBe(1);
    expect(result.stderr).toContain("it took more than 1 s (--hook-timeout), and was killed");
    expect(kills).toEqual(["SIGTERM"]);
    expect(existsSync(`${folder}/a1.qcow2`)).toBe(false);
  });

  test("end with the first interrupt, after --after, which none ends", async () => {
    const folder = await makeDisk();
    const { onInterrupt, send } = makeInterrupts();
    const events: string[] = [];
    let finish: (end: ChildEnd) => void = () => undefined;
    const spawn: Spawn = async ([, , command = ""]) => {
      events.push(command);
      setImmediate(() => {
        send("SIGINT");
      });
      return {
        ended: command === "thaw it" ? Promise.resolve(OK) : new Promise((resolve) => (finish = resolve)),
        kill: (signal) => {
          events.push(`${signal} to ${command}`);
          finish({ kind: "killed", signal, status: 143 });
        },
      };
    };
    const { result } = await take(folder, {}, HOOKS, { spawn, onInterrupt });
    expect(result.status).toBe(130);
    expect(events).toEqual(["freeze it", "SIGTERM to freeze it", "thaw it"]);
    expect(existsSync(`${folder}/a1.qcow2`)).toBe(false);
    expect((await nothingLeft(folder)).stderr).toBe("");
  });
});

// Exit statuses: of errors, of interrupts, and of the command that `txn exec` runs.

import { describe, expect, test } from "vitest";
import { EXIT_OF_CODE, ImgtxError, type ErrorCode } from "../../src/errors/index.ts";
import type { ChildEnd, CliContext } from "../../src/cli/context.ts";
import { EXIT_MEANINGS } from "../../src/cli/grammar/exit-status.ts";
import { makeNodeStorage } from "../../src/storage/index.ts";
import {
  makeGeneration,
  makeInterrupts,
  makeOutcome,
  makeTransaction,
  runCli,
} from "../helpers/cli/harness.ts";

describe("an error", () => {
  test.each(Object.entries(EXIT_OF_CODE))("with %s ends with status %i", async (code, status) => {
    const engine = {
      runActions: () => {
        throw new ImgtxError(code as ErrorCode, "so it is");
      },
    };
    expect(await runCli(["rollback"], { engine })).toMatchObject({ status, stdout: "" });
  });

  test("has a status that help explains", () => {
    const unexplained = Object.values(EXIT_OF_CODE).filter(
      (status) => status !== 143 && EXIT_MEANINGS[status] === undefined,
    );
    expect(unexplained).toEqual([]);
  });
});

describe("recover", () => {
  /** No copy. */
  const ITSELF = { assertChangeable: async () => await Promise.resolve() };
  const openSession = async () =>
    ({ root: "/w", recovered: [{ transaction: null, did: "reported", text: "t1 waits" }] }) as never;

  test("does not end with 0 when something waits that it could not finish or undo", async () => {
    const { status, stdout, stderr } = await runCli(["recover"], { engine: { ...ITSELF, openSession } });
    expect({ status, stdout }).toEqual({ status: 14, stdout: "" });
    expect(stderr).toContain("imgtx: t1 waits\n");
    expect(stderr).toContain("error: what a crash left could not be finished or undone");
  });

  test("says by whom, and by which command, the workspace of another user is recovered", async () => {
    const own = makeNodeStorage();
    const storage = {
      ...own,
      host: Object.create(own.host, {
        nameOfUser: { value: (id: number) => `user ${id}` },
      }) as typeof own.host,
      stat: async () => ({ ownerId: own.host.userId + 1 }) as never,
    };
    const { status, stderr } = await runCli(["recover"], { engine: { ...ITSELF, openSession }, storage });
    expect(status).toBe(14);
    const name = `'user ${own.host.userId + 1}'`;
    expect(stderr).toContain(`finished or undone: the workspace belongs to ${name}\n`);
    expect(stderr).toContain(
      `hint: recover it as that user: \`sudo -u ${name} imgtx --workspace /w recover\`\n`,
    );
  });

  test.each([
    ["15 at a damaged journal, of which it leaves everything alone", "E_JOURNAL", false, 15],
    ["16 while something committed waits", "E_LOCKED", true, 16],
    ["the status of what keeps it from undoing the rest", "E_NOT_FOUND", false, 14],
  ] as const)("ends with %s", async (_, code, isCommitted, expected) => {
    const place = { image: "/w/t1.journal", offset: 7 };
    const obstacle = { devices: ["vda"], isCommitted, code, place, why: "so it is", hint: "mend it" };
    const note = { transaction: "t1", did: "waiting", text: "t1 waits", obstacle };
    const waiting = async () => ({ root: "/w", recovered: [note] }) as never;
    const { status, stdout, stderr } = await runCli(["recover"], {
      engine: { ...ITSELF, openSession: waiting },
    });
    expect({ status, stdout }).toEqual({ status: expected, stdout: "" });
    expect(stderr).toContain("imgtx: t1 waits\n");
    expect(stderr).toContain("at: /w/t1.journal, offset 0x7");
    expect(stderr).toContain("hint: mend it");
  });

  test("ends with 0 when it was only asked what waits", async () => {
    const result = await runCli(["recover", "--dry-run"], { engine: { ...ITSELF, openSession } });
    expect(result).toEqual({ status: 0, stdout: "", stderr: "imgtx: t1 waits\n" });
  });
});

describe("an interrupt", () => {
  test.each([
    ["SIGINT", 130, "interrupted: rolling back, unless it is committed already"],
    ["SIGTERM", 143, "terminated: rolling back, unless it is committed already"],
    ["SIGHUP", 143, "terminated: rolling back, unless it is committed already"],
  ] as const)("%s rolls back, says so, and ends with %i", async (name, status, saying) => {
    const { onInterrupt, send, listeners } = makeInterrupts();
    const engine = {
      runActions: async (
        _session: unknown,
        _requests: unknown,
        options: { signal?: AbortSignal | undefined },
      ) => {
        send(name);
        options.signal?.throwIfAborted();
        return makeOutcome({});
      },
    };
    const result = await runCli(["rollback"], { engine, onInterrupt });
    expect(result).toMatchObject({ status, stdout: "" });
    expect(result.stderr).toContain(`imgtx: ${saying}\n`);
    expect(result.stderr).toContain("No disk was changed.");
    expect(listeners()).toBe(0);
  });

  test("that comes after the commit mark changes nothing: status 0 and the result", async () => {
    const { onInterrupt, send } = makeInterrupts();
    const engine = {
      runActions: async () => {
        send("SIGINT");
        return makeOutcome({});
      },
    };
    const { status, stdout } = await runCli(["rollback"], { engine, onInterrupt });
    expect({ status, stdout }).toEqual({ status: 0, stdout: "Generation 4.\n" });
  });

  test("that comes again says what the next command will do, and ends nothing", async () => {
    const { onInterrupt, send } = makeInterrupts();
    const engine = {
      runActions: async () => {
        send("SIGINT");
        send("SIGINT");
        return makeOutcome({});
      },
    };
    const { stderr } = await runCli(["rollback"], { engine, onInterrupt });
    expect(stderr).toContain("the next imgtx command finishes or undoes the rest");
  });

  test("ends a wait for a lock", async () => {
    const { onInterrupt, send } = makeInterrupts();
    const openSession = async (_storage: unknown, wait: object) => {
      send("SIGINT");
      if ("signal" in wait && wait.signal instanceof AbortSignal) wait.signal.throwIfAborted();
      throw new Error("the wait went on");
    };
    const result = await runCli(["device", "list", "--wait"], { engine: { openSession }, onInterrupt });
    expect(result.status).toBe(130);
  });
});

describe("a wait", () => {
  test("is told on stderr in a line, once, and not under --quiet", async () => {
    const openSession = async (_storage: unknown, wait: { onWait(what: string): void }) => {
      wait.onWait("the workspace, held by pid 12 (imgtx)");
      throw new ImgtxError("E_BUSY", "the workspace is busy");
    };
    const engine = { openSession };
    const { status, stderr } = await runCli(["tree"], { engine });
    expect(status).toBe(10);
    expect(stderr).toMatch(/^imgtx: waiting: the workspace, held by pid 12 \(imgtx\)\nerror: /);
    expect((await runCli(["tree", "-q"], { engine })).stderr).toMatch(/^error: /);
    const json = (await runCli(["tree", "--json"], { engine })).stderr.split("\n")[0] ?? "";
    expect(JSON.parse(json)).toEqual({ schema: 1, waiting: "the workspace, held by pid 12 (imgtx)" });
  });
});

describe("txn exec", () => {
  type Spawn = NonNullable<CliContext["spawn"]>;

  function makeExec(end: ChildEnd, commit?: () => never) {
    const events: string[] = [];
    const spawned: { command: readonly string[]; env: Readonly<Record<string, string | undefined>> }[] = [];
    const outcome = makeOutcome({ transaction: "7f3k2m9qa1" });
    const spawn: Spawn = async (command, { env }) => {
      spawned.push({ command, env });
      events.push("spawn");
      return { ended: Promise.resolve(end), kill: (name) => events.push(name) };
    };
    const engine = {
      beginTransaction: async (_session: unknown, choice: object) => {
        events.push(`begin ${JSON.stringify(choice)}`);
        return {
          description: makeTransaction({}),
          release: async () => {
            events.push("release");
          },
        };
      },
      commitTransaction: async () => {
        events.push("commit");
        commit?.();
        return outcome;
      },
      abortTransaction: async () => {
        events.push("abort");
        return outcome;
      },
    };
    return { events, spawned, setting: { spawn, engine, env: { PATH: "/bin" } } };
  }

  test("commits when the command ends with 0, and tells it the transaction and the workspace", async () => {
    const { events, spawned, setting } = makeExec({ kind: "exited", status: 0 });
    const argv = ["txn", "exec", "--name", "n", "--allow-path=/g", "--", "sh", "-c", "--json", "--help"];
    const { status, stdout } = await runCli(argv, setting);
    expect(status).toBe(0);
    expect(stdout).toContain("Committed transaction 7f3k2m9qa1: generation 4.");
    expect(events).toEqual([
      'begin {"name":"n","onError":"keep","owned":true}',
      "spawn",
      "commit",
      "release",
    ]);
    expect(spawned).toEqual([
      {
        command: ["sh", "-c", "--json", "--help"],
        env: {
          PATH: "/bin",
          IMGTX_TXN: "7f3k2m9qa1",
          IMGTX_WORKSPACE: "/srv/guests",
          IMGTX_ALLOW_PATH: "/g",
        },
      },
    ]);
  });

  test.each<[string, ChildEnd, number]>([
    ["a status of its own", { kind: "exited", status: 3 }, 3],
    ["a signal", { kind: "killed", signal: "SIGKILL", status: 137 }, 137],
    ["nothing to run", { kind: "not-started", reason: "none found", status: 127 }, 127],
  ])("aborts when the command ends with %s, and ends as it did", async (_what, end, expected) => {
    const { events, setting } = makeExec(end);
    const { status } = await runCli(["txn", "exec", "x"], setting);
    expect(status).toBe(expected);
    expect(events.slice(1)).toEqual(["spawn", "abort", "release"]);
  });

  test("aborts when the commit is refused, and ends with the refusal's status", async () => {
    const { events, setting } = makeExec({ kind: "exited", status: 0 }, () => {
      throw new ImgtxError("E_CHANGED", "the base changed");
    });
    expect((await runCli(["txn", "exec", "x"], setting)).status).toBe(14);
    expect(events.slice(1)).toEqual(["spawn", "commit", "abort", "release"]);
  });

  const isGone = () => {
    throw new ImgtxError("E_NO_TRANSACTION", "it is not open");
  };

  test("takes the word of a command that committed by itself, and says so", async () => {
    const { events, setting } = makeExec({ kind: "exited", status: 0 }, isGone);
    const generations = [makeGeneration({ generation: 5, transaction: "7f3k2m9qa1" })];
    const listGenerations = async () => ({ generation: 5, generations });
    const engine = { ...setting.engine, listGenerations };
    const { status, stderr } = await runCli(["txn", "exec", "x"], { ...setting, engine });
    expect({ status, stderr }).toEqual({
      status: 0,
      stderr: "imgtx: the command has committed transaction 7f3k2m9qa1 itself: generation 5\n",
    });
    expect(events.slice(1)).toEqual(["spawn", "commit", "release"]);
  });

  test.each([
    ["keep", "the command itself or another one aborted it"],
    ["abort", "an action of it failed (--on-error abort)"],
  ] as const)("with --on-error %s fails where its transaction was aborted: %s", async (onError, why) => {
    const { setting } = makeExec({ kind: "exited", status: 0 }, isGone);
    const begun = { description: makeTransaction({ onError }), release: async () => undefined };
    const engine = {
      ...setting.engine,
      beginTransaction: async () => begun,
      listGenerations: async () => ({
        generation: 5,
        generations: [makeGeneration({ generation: 5, transaction: "another" })],
      }),
    };
    const argv = ["txn", "exec", "--on-error", onError, "x"];
    const { status, stdout, stderr } = await runCli(argv, { ...setting, engine });
    expect({ status, stdout }).toEqual({ status: 11, stdout: "" });
    expect(stderr).toContain("nothing was done: transaction 7f3k2m9qa1 was aborted before the command ended");
    expect(stderr).toContain(why);
  });

  test("ends with 16 where the command's own commit is not finished", async () => {
    const { setting } = makeExec({ kind: "exited", status: 0 }, isGone);
    const engine = {
      ...setting.engine,
      listGenerations: async () => ({ generation: 0, generations: [] }),
      listTransactions: async () => [makeTransaction({ state: "committed", busy: true })],
    };
    const { status, stderr } = await runCli(["txn", "exec", "x"], { ...setting, engine });
    expect(status).toBe(16);
    expect(stderr).toContain("the command has committed transaction 7f3k2m9qa1 itself");
  });

  test("leaves what is committed and not finished to the next command", async () => {
    const { events, setting } = makeExec({ kind: "exited", status: 0 }, () => {
      throw new ImgtxError("E_UNFINISHED", "the disk failed");
    });
    expect((await runCli(["txn", "exec", "x"], setting)).status).toBe(16);
    expect(events.slice(1)).toEqual(["spawn", "commit", "release"]);
  });

  test.each([
    ["SIGTERM", true, ["SIGTERM"]],
    ["SIGTERM", false, ["SIGTERM"]],
    ["SIGINT", false, ["SIGINT"]],
    // The terminal has sent it to the child as well.
    ["SIGINT", true, []],
  ] as const)("passes %s on, terminal shared: %s, and aborts", async (name, sharesTerminal, killed) => {
    const { onInterrupt, send } = makeInterrupts();
    const { events, setting } = makeExec({ kind: "exited", status: 0 });
    const spawn: Spawn = async (command, options) => {
      const child = await setting.spawn(command, options);
      const ended = new Promise<ChildEnd>((resolve) => {
        setTimeout(() => {
          send(name);
          resolve({ kind: "exited", status: 0 });
        }, 1);
      });
      return { ...child, ended };
    };
    const result = await runCli(["txn", "exec", "x"], { ...setting, spawn, onInterrupt, sharesTerminal });
    expect(result.status).toBe(name === "SIGINT" ? 130 : 143);
    expect(events.slice(1)).toEqual(["spawn", ...killed, "abort", "release"]);
  });
});

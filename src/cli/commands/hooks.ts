// Commands that are run before and after a group snapshot: they freeze a guest and thaw it, or stop and start it.
//
// Invariants
// - Once --before may have been started, --after is run: after a failure, an interrupt and a timeout, too. What it is
//   is durable before that, so that the next command can tell of it after a kill.
// - --after is not interrupted. Each has a time limit, and is killed with all that it started.
// - The snapshot is a transaction of its own: in an open one the moment would be that of `txn commit`.

import { ImgtxError } from "../../errors/index.ts";
import type { Outcome, SnapshotRequest } from "../../transaction/index.ts";
import type { ChildEnd } from "../context.ts";
import type { OptionDefinition } from "../grammar/definition.ts";
import type { CommandInput } from "../grammar/input.ts";
import { type Invocation, openSession, type OpenSession, runOptions } from "../running/invocation.ts";
import { confirmOverwritten } from "./confirm.ts";
import { OUTCOME } from "../running/outcomes.ts";

export const HOOK_OPTIONS: readonly OptionDefinition[] = [
  {
    long: "before",
    value: { name: "COMMAND", completes: "nothing" },
    about: "run in a shell first, such as what freezes the guest; where it fails nothing is done",
  },
  {
    long: "after",
    value: { name: "COMMAND", completes: "nothing" },
    about: "run in a shell at the end, whatever the outcome, such as what thaws the guest",
  },
  {
    long: "hook-timeout",
    value: { name: "SECONDS", completes: "nothing" },
    about: "how long each of them may take (60 without it); then it is killed, and has failed",
  },
];

const TIMEOUT_SECONDS = 60;
/** From a polite end to the other one. */
const KILL_AFTER_MS = 5000;

interface Hooks {
  readonly before: string | undefined;
  readonly after: string | undefined;
  readonly limitMs: number;
}

/** Undefined where none is asked for. */
export function readHooks(input: CommandInput): Hooks | undefined {
  const [before, after] = [input.text("--before"), input.text("--after")];
  const seconds = input.count("--hook-timeout", 1);
  if (before === undefined && after === undefined) {
    if (seconds === undefined) return undefined;
    throw new ImgtxError("E_USAGE", "--hook-timeout is for --before and --after");
  }
  return { before, after, limitMs: (seconds ?? TIMEOUT_SECONDS) * 1000 };
}

/** Runs the action between its hooks. */
export async function runWithHooks(
  invocation: Invocation,
  request: SnapshotRequest,
  hooks: Hooks,
): Promise<number> {
  const { report, settings } = invocation;
  const open = await openSession(invocation);
  await assertByItself(invocation, open);
  const devices = await namesOf(request, open);
  const run = async (): Promise<Outcome> => {
    const options = { ...runOptions(invocation, false), transaction: open.engine.NO_TRANSACTION };
    return await open.engine.runActions(open.session, [request], options);
  };
  if (settings.dryRun) {
    report.done(await run(), OUTCOME);
    for (const command of [hooks.before, hooks.after]) {
      if (command !== undefined) report.advice(`'${command}' would be run`);
    }
    return 0;
  }
  await open.engine.assertChangeable(open.session);
  await confirmOverwritten(invocation, open, request);
  const { outcome, failure, afterFailure } = await runBetween(invocation, open, { hooks, devices, run });
  if (outcome) report.done(outcome, OUTCOME);
  if (failure !== undefined) {
    if (afterFailure) report.notice(afterFailure.message);
    throw failure;
  }
  if (afterFailure) throw afterFailure;
  return 0;
}

async function namesOf(
  { targets, isOfAll }: SnapshotRequest,
  { engine, session }: OpenSession,
): Promise<string[]> {
  if (isOfAll !== true) return targets.map(({ device }) => device);
  return await engine.listDeviceNames(session);
}

interface Between {
  readonly hooks: Hooks;
  readonly devices: readonly string[];
  readonly run: () => Promise<Outcome>;
}

interface Ended {
  readonly outcome?: Outcome;
  readonly failure?: unknown;
  readonly afterFailure?: ImgtxError | undefined;
}

async function runBetween(
  invocation: Invocation,
  { engine, session }: OpenSession,
  { hooks: { before, after, limitMs }, devices, run }: Between,
): Promise<Ended> {
  const { signal } = invocation;
  signal.throwIfAborted();
  const env = {
    IMGTX_WORKSPACE: session.root,
    IMGTX_TXN: engine.NO_TRANSACTION,
    IMGTX_DEVICES: devices.join(" "),
  };
  const promised =
    after === undefined ? undefined : await engine.promiseHook(session, { command: after, devices });
  let ended: Ended;
  try {
    if (before !== undefined) {
      await runHook(invocation, { name: "--before", command: before, limitMs, env, signal });
    }
    ended = { outcome: await run() };
  } catch (error) {
    ended = { failure: error };
  }
  if (after === undefined) return ended;
  const { outcome } = ended;
  const failed = await runLast(
    async () => await runHook(invocation, { name: "--after", command: after, limitMs, env }),
    promised,
  );
  if (failed === undefined) return ended;
  if (!(failed instanceof ImgtxError)) throw failed;
  const stands = outcome === undefined ? "" : `; the snapshot is taken: generation ${outcome.generation}`;
  const afterFailure = failed.reworded(`${failed.message}${stands}`, { changed: outcome?.changed ?? false });
  return { ...ended, afterFailure };
}

/** What it failed with; what was committed before is to be told all the same. */
async function runLast(
  run: () => Promise<void>,
  promised: Awaited<ReturnType<OpenSession["engine"]["promiseHook"]>> | undefined,
): Promise<unknown> {
  let failed: unknown;
  try {
    await run();
  } catch (error) {
    failed = error;
  }
  try {
    await promised?.done(failed === undefined);
  } catch (error) {
    failed ??= error;
  }
  return failed;
}

interface Hook {
  readonly name: string;
  readonly command: string;
  readonly limitMs: number;
  readonly env: Readonly<Record<string, string>>;
  /** Ends it. Left out: nothing but the limit does. */
  readonly signal?: AbortSignal;
}

/** E_COMMAND_FAILED where it does not end with 0 in time. */
async function runHook(
  { context }: Invocation,
  { name, command, limitMs, env, signal }: Hook,
): Promise<void> {
  const { spawn } = context;
  if (spawn === undefined) throw new Error("this context runs no programs");
  const child = await spawn(["/bin/sh", "-c", command], {
    cwd: context.cwd,
    env: { ...context.env, ...env, IMGTX_HOOK: name.slice(2) },
    isApart: true,
  });
  let killer: NodeJS.Timeout | undefined;
  const end = (): void => {
    child.kill("SIGTERM");
    killer ??= setTimeout(() => child.kill("SIGKILL"), KILL_AFTER_MS);
  };
  let isLate = false;
  const limit = setTimeout(() => {
    isLate = true;
    end();
  }, limitMs);
  signal?.addEventListener("abort", end);
  if (signal?.aborted === true) end();
  let ended: ChildEnd;
  try {
    ended = await child.ended;
  } finally {
    clearTimeout(limit);
    clearTimeout(killer);
    signal?.removeEventListener("abort", end);
  }
  signal?.throwIfAborted();
  if (ended.kind === "exited" && ended.status === 0 && !isLate) return;
  throw new ImgtxError("E_COMMAND_FAILED", `${name} failed: ${isLate ? sayLate(limitMs) : sayEnd(ended)}`, {
    hint: `it was run as \`sh -c\`: ${command}`,
  });
}

function sayLate(limitMs: number): string {
  return `it took more than ${limitMs / 1000} s (--hook-timeout), and was killed`;
}

function sayEnd(ended: ChildEnd): string {
  if (ended.kind === "killed") return `it was killed by ${ended.signal}`;
  return ended.kind === "exited" ? `it ended with ${ended.status}` : ended.reason;
}

/** E_REFUSED where the snapshot would join an open transaction. */
async function assertByItself({ settings }: Invocation, { engine, session }: OpenSession): Promise<void> {
  const wanted = settings.transaction;
  if (wanted === engine.NO_TRANSACTION) return;
  const joined =
    wanted ??
    (await engine.listTransactions(session)).find(
      ({ state, here, owned }) => state === "open" && here === true && !owned,
    )?.id;
  if (joined === undefined) return;
  throw new ImgtxError(
    "E_REFUSED",
    `it would join the open transaction ${joined}, whose moment is its commit, and not that between --before and --after`,
    { hint: "say `--txn none`, or run them around `imgtx txn commit`" },
  );
}

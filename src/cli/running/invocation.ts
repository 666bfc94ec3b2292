// What a running command has in its hands.

import { ImgtxError } from "../../errors/index.ts";
import type { LockWait, RunOptions, SessionOptions } from "../../transaction/index.ts";
import type { CliContext } from "../context.ts";
import type { Engine, Session } from "../engine.ts";
import type { CommandRow } from "../grammar/definition.ts";
import type { CommandInput } from "../grammar/input.ts";
import type { WorkProgress } from "../render/progress/work-progress.ts";
import type { Report } from "./report.ts";
import type { Settings } from "../grammar/settings.ts";
import { makeThrottle } from "../throttle.ts";

export interface Invocation {
  readonly input: CommandInput;
  readonly settings: Settings;
  /** All that there are: for commands that explain, complete or read others. */
  readonly commands: readonly CommandRow[];
  readonly context: CliContext;
  /** Loads the transaction layer: not every command needs it. */
  readonly loadEngine: () => Promise<Engine>;
  readonly report: Report;
  /** How far long work is; the report takes it away before it prints. */
  readonly progress: WorkProgress;
  /** Aborted by the first interrupt. */
  readonly signal: AbortSignal;
}

export interface OpenSession {
  readonly engine: Engine;
  readonly session: Session;
}

/** Opens the session, which runs recovery, and says in a line each what was recovered. */
export async function openSession(
  invocation: Invocation,
  options: Partial<Pick<SessionOptions, "createHere" | "reportOnly" | "caller">> = {},
): Promise<OpenSession> {
  const { context, settings, report } = invocation;
  const engine = await invocation.loadEngine();
  const session = await engine.openSession(context.storage, {
    ...lockWait(invocation),
    startFolder: context.cwd,
    workspace: settings.workspace,
    safeWorkspaces: settings.safeWorkspaces,
    createHere: false,
    onProgress: invocation.progress.update,
    throttle: throttleOf(invocation),
    ...options,
  });
  for (const note of session.recovered) report.recovery(note);
  return { engine, session };
}

/** For commands that only read: they wait for nobody, and nobody's trouble is theirs. */
export async function openToRead(invocation: Invocation): Promise<OpenSession> {
  return await openSession(invocation, { caller: "reader" });
}

/** Waits end with the first interrupt too. */
export function lockWait({ settings, report, signal }: Invocation): LockWait {
  return {
    waitMs: settings.waitMs,
    onWait: (what) => report.waiting(what),
    onKept: ({ path, why }) => report.notice(`left '${path}' as it is: ${why}`),
    signal,
  };
}

/** Standalone: the command joins a transaction only where its own words name one. */
export function runOptions(invocation: Invocation, standalone: boolean): RunOptions {
  const { settings, report } = invocation;
  const { transaction, givenTransaction } = settings;
  return {
    ...lockWait(invocation),
    transaction: standalone ? givenTransaction : transaction,
    standalone: standalone && givenTransaction === undefined,
    dryRun: settings.dryRun,
    requestId: settings.requestId,
    throttle: throttleOf(invocation),
    markEveryMs: settings.markEveryMs,
    onProgress: invocation.progress.update,
    onRecovered: (note) => report.recovery(note),
    allowPaths: settings.allowPaths,
    allowsDevices: settings.allowsDevices,
    onNotice: (line) => invocation.report.notice(line),
  };
}

/** Of commands that have --rate-limit; 0 is no limit, as for `img convert -r`. */
function throttleOf({ input, context, signal }: Invocation): RunOptions["throttle"] {
  const bytesPerSecond = input.sizeBytes("--rate-limit");
  return makeThrottle(bytesPerSecond === 0 ? undefined : bytesPerSecond, context.storage.host, signal);
}

/** What would not be kept must not be promised. */
export function refuseOnce({ settings: { requestId } }: Invocation): void {
  if (requestId === undefined) return;
  throw new ImgtxError("E_USAGE", "--txn-id is for a single action, or for a batch of lines", {
    hint: "`imgtx txn run --txn-id ID FILE` runs a batch once",
  });
}

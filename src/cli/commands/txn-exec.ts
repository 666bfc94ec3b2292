// imgtx txn exec -- COMMAND …

import { ImgtxError } from "../../errors/index.ts";
import type { Child, ChildEnd, CliContext } from "../context.ts";
import type { OpenSession } from "../invocation.ts";
import type { PlainCommand } from "../grammar/definition.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { lockWait, openSession, runOptions, type Invocation } from "../invocation.ts";
import { readName, readOnError, TRANSACTION_OPTIONS } from "./transaction-options.ts";
import { ABORTED } from "./txn-abort.ts";
import { COMMITTED } from "./txn-commit.ts";
import { WOULD } from "./would.ts";

export const txnExec: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [{ name: "COMMAND", about: "a program and its arguments", variadic: true, completes: "file" }],
    options: TRANSACTION_OPTIONS,
    about:
      "Opens a transaction and runs COMMAND, with IMGTX_TXN and IMGTX_WORKSPACE set so that imgtx commands " +
      "in it join. When COMMAND ends with status 0 the transaction is committed, else it is aborted. " +
      "Signals are passed on to COMMAND.",
    examples: [
      { command: "imgtx txn exec -- ./nightly.sh", about: "all of the script's snapshots, or none" },
      {
        command: "imgtx txn exec --name nightly -- sh -ec 'imgtx snapshot vda a1.qcow2; ./check'",
        about: "a failing check undoes the snapshot",
      },
    ],
    exits: CHANGING_EXITS,
    exitNote:
      "When COMMAND fails, its own status: 128 + N when signal N killed it, 127 when it was not found, 126 " +
      "when it could not be run.",
  },
  async execute(invocation) {
    const { input, settings, context, report } = invocation;
    const name = readName(input);
    const onError = readOnError(input);
    const { spawn } = context;
    if (spawn === undefined) throw new Error("this context runs no programs");
    const opened = await openSession(invocation);
    if (settings.dryRun) {
      const command = input.texts("COMMAND").join(" ");
      report.done({ saying: `'${command}' would be run in a transaction`, transaction: null }, WOULD);
      return 0;
    }
    const begun = await opened.engine.beginTransaction(
      opened.session,
      { name, onError, owned: true },
      lockWait(invocation),
    );
    try {
      const { id } = begun.description;
      const end = await runChild(invocation, spawn, opened.session.root, id);
      return await settle(invocation, opened, id, end);
    } finally {
      await begun.release();
    }
  },
};

async function runChild(
  { input, context, signal }: Invocation,
  spawn: NonNullable<CliContext["spawn"]>,
  root: string,
  id: string,
): Promise<ChildEnd> {
  const child: Child = spawn(input.texts("COMMAND"), {
    cwd: context.cwd,
    env: { ...context.env, IMGTX_TXN: id, IMGTX_WORKSPACE: root },
  });
  const passOn = (): void => {
    const { reason } = signal as { reason: unknown };
    const terminated = reason instanceof ImgtxError && reason.code === "E_TERMINATED";
    // A terminal sends Ctrl-C to its whole foreground group: the child has it already, and for many
    // programs a second one means something else than the first.
    if (terminated || context.sharesTerminal !== true) child.kill(terminated ? "SIGTERM" : "SIGINT");
  };
  signal.addEventListener("abort", passOn, { once: true });
  if (signal.aborted) passOn();
  try {
    return await child.ended;
  } finally {
    signal.removeEventListener("abort", passOn);
  }
}

async function settle(
  invocation: Invocation,
  { engine, session }: OpenSession,
  id: string,
  end: ChildEnd,
): Promise<number> {
  const { report, signal } = invocation;
  // Neither is interrupted by the signal that the child was told of: a commit checks it, an abort is
  // what the signal asks for.
  const options = { ...runOptions(invocation, false), transaction: id, dryRun: false };
  if (end.kind === "exited" && end.status === 0 && !signal.aborted) {
    const outcome = await engine.commitTransaction(session, id, options);
    report.done(outcome, COMMITTED);
    return 0;
  }
  if (end.kind === "not-started") report.notice(`the command could not be run: ${end.reason}`);
  if (end.kind === "killed") report.notice(`the command was killed by ${end.signal}`);
  const outcome = await engine.abortTransaction(session, id, { ...options, signal: undefined });
  report.done(outcome, ABORTED);
  if (end.status !== 0) return end.status;
  throw signal.reason instanceof Error
    ? signal.reason
    : new ImgtxError("E_INTERRUPTED", "interrupted; rolled back");
}

// imgtx txn exec -- COMMAND …
//
// It ends with the status of COMMAND where that failed: 1 to 255; 128 + N where signal N killed it; 127 and 126 as a shell
// has them. Ctrl-C on a terminal is not passed on: the terminal has sent it to the whole foreground group.

import { ImgtxError } from "../../errors/index.ts";
import type { Outcome, RunOptions, TransactionDescription } from "../../transaction/index.ts";
import type { ChildEnd } from "../context.ts";
import type { PlainCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import {
  lockWait,
  openSession,
  runOptions,
  type Invocation,
  type OpenSession,
} from "../running/invocation.ts";
import { isNotStarted, runChild } from "./run-child.ts";
import { readName, readOnError, TRANSACTION_OPTIONS } from "./transaction-options.ts";
import { WOULD } from "./would.ts";
import { ABORTED, COMMITTED } from "../running/outcomes.ts";

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
    const { input, settings, report } = invocation;
    const name = readName(input);
    const onError = readOnError(input);
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
      const end = await runChild(invocation, { IMGTX_TXN: id, IMGTX_WORKSPACE: opened.session.root });
      return await endAs(invocation, opened, begun.description, end);
    } finally {
      await begun.release();
    }
  },
};

async function endAs(
  invocation: Invocation,
  opened: OpenSession,
  { id, onError }: Pick<TransactionDescription, "id" | "onError">,
  end: ChildEnd,
): Promise<number> {
  const { report, signal } = invocation;
  if (end.kind === "exited" && end.status === 0 && !signal.aborted) {
    const outcome = await commit(invocation, opened, id);
    if (outcome) report.done(outcome, COMMITTED);
    else await assertCommitted(invocation, id, onError);
    return 0;
  }
  if (end.kind === "killed") report.notice(`the command was killed by ${end.signal}`);
  const outcome = await abort(invocation, opened, id);
  if (end.kind === "not-started") {
    // The status is the one that a shell has for it.
    report.failure(isNotStarted(end.reason));
    return end.status;
  }
  if (outcome) report.done(outcome, ABORTED);
  if (end.status !== 0) return end.status;
  throw signal.reason instanceof Error
    ? signal.reason
    : new ImgtxError("E_INTERRUPTED", "interrupted; rolled back");
}

/**
 * For a transaction that is not open any more after its command. Status 0 means done and durable: where somebody
 * aborted it, or a failed action did, it is not that, whatever the command ended with.
 */
async function assertCommitted(invocation: Invocation, id: string, onError: "abort" | "keep"): Promise<void> {
  // Anew, which finishes what a commit inside the command may have left.
  const { engine, session } = await openSession(invocation);
  const { generations } = await engine.listGenerations(session, {});
  const made = generations.find(({ transaction }) => transaction === id);
  if (made) {
    invocation.report.notice(
      `the command has committed transaction ${id} itself: generation ${made.generation}`,
    );
    return;
  }
  const left = (await engine.listTransactions(session)).find((one) => one.id === id);
  if (left?.state === "committed") {
    throw new ImgtxError("E_UNFINISHED", `the command has committed transaction ${id} itself`, {
      changed: true,
      hint: "`imgtx recover` finishes it, when the process that does so now has ended",
    });
  }
  const others = "the command itself or another one aborted it";
  const [why, hint] =
    onError === "abort"
      ? [
          `an action of it failed (--on-error abort), or ${others}`,
          "let the command stop where imgtx fails, as `set -e` does in a shell",
        ]
      : [others, "run it again"];
  throw new ImgtxError(
    "E_NO_TRANSACTION",
    `nothing was done: transaction ${id} was aborted before the command ended (${why})`,
    { hint },
  );
}

/** Undefined where the command has ended the transaction itself. */
async function commit(invocation: Invocation, opened: OpenSession, id: string): Promise<Outcome | undefined> {
  try {
    return await opened.engine.commitTransaction(opened.session, id, optionsFor(invocation, id));
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_NO_TRANSACTION") return undefined;
    // What is committed and not finished is the next command's; anything else leaves nothing behind.
    if (!(error instanceof ImgtxError) || error.code !== "E_UNFINISHED") await abort(invocation, opened, id);
    throw error;
  }
}

/** Undefined where the command has ended the transaction itself. */
async function abort(invocation: Invocation, opened: OpenSession, id: string): Promise<Outcome | undefined> {
  try {
    // Not to be interrupted: it is what an interrupt asks for.
    const options = { ...optionsFor(invocation, id), signal: undefined };
    return await opened.engine.abortTransaction(opened.session, id, options);
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_NO_TRANSACTION") return undefined;
    throw error;
  }
}

function optionsFor(invocation: Invocation, id: string): RunOptions {
  return { ...runOptions(invocation, false), transaction: id };
}

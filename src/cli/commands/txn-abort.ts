// imgtx txn abort

import type { Outcome } from "../../transaction/index.ts";
import type { PlainCommand } from "../grammar/definition.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { openSession, runOptions } from "../invocation.ts";
import { confirm } from "./confirm.ts";
import type { Drawing } from "../report.ts";
import { outcomeJson } from "../render/json.ts";
import { readTransactionId, requireId, TRANSACTION_ID } from "./pick-transaction.ts";
import { drawOutcome } from "../render/outcome.ts";

export const ABORTED: Drawing<Outcome> = {
  text: (outcome, canvas) =>
    drawOutcome(
      outcome,
      canvas,
      outcome.dryRun ? "undoing" : "undone",
      outcome.dryRun
        ? `Dry run: transaction ${outcome.transaction} would be aborted.`
        : `Aborted transaction ${outcome.transaction}; generation ${outcome.generation} stays.`,
    ),
  json: outcomeJson,
  stands: ({ dryRun, transaction }) => (dryRun ? undefined : `transaction ${transaction} is aborted`),
};

export const txnAbort: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [TRANSACTION_ID],
    options: [
      {
        long: "force",
        about: "of one that could not be undone wholly: undo what can be, and leave the rest as it is",
      },
    ],
    about:
      "Undoes a transaction: files that it made are removed, and files that were there before are as they " +
      "were. One that waits, because an image of it is lost or was changed by others, is ended by --force and " +
      "its id: what can't be taken back stays, and is named, and the journal is kept in .imgtx/given-up.",
    examples: [
      { command: "imgtx txn abort", about: "that which was begun in this terminal, or script" },
      { command: "imgtx txn abort 7f3k2m9qa1", about: "that one, wherever it was begun" },
    ],
    exits: CHANGING_EXITS,
  },
  async execute(invocation) {
    const named = readTransactionId(invocation);
    const forced = invocation.input.flag("--force") ? requireId(named, "abort") : undefined;
    if (forced !== undefined)
      await confirm(
        invocation,
        `Transaction ${forced} ends as far as it can be undone, and the rest of it can't be taken back any more.`,
      );
    const { engine, session } = await openSession(invocation);
    const options = runOptions(invocation, false);
    const outcome = forced
      ? await engine.forceAbort(session, forced, options)
      : await engine.abortTransaction(session, named, options);
    invocation.report.done(outcome, ABORTED);
    return 0;
  },
};
